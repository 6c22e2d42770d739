//! `tripline clock`, and what `tripline dev --clock` takes.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, SecondsFormat, SubsecRound as _, Utc};
use trigger_core::Clock;

use super::client::Client;
use super::show::{json, line};
use super::{Clock as Asked, ClockCommand};
use crate::admin::{AdvanceRequest, AdvanceView, ClockMode, ClockView};

/// Which clock an engine goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockArg {
    /// The machine's.
    System,
    /// One that stands still until it is moved: at this moment, or at the present.
    Virtual(Option<DateTime<Utc>>),
}

impl ClockArg {
    /// The clock.
    pub fn clock(self) -> Clock {
        match self {
            Self::System => Clock::system(),
            // To the second, so that what is due in an hour is due at a moment that people can read.
            Self::Virtual(start) => Clock::standing_at(start.unwrap_or(Clock::system().now().trunc_subsecs(0))),
        }
    }
}

impl FromStr for ClockArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "system" => Ok(Self::System),
            None if text == "virtual" => Ok(Self::Virtual(None)),
            Some(("virtual", start)) => match start.parse::<DateTime<Utc>>() {
                Ok(start) if (1970..=9999).contains(&start.year()) => Ok(Self::Virtual(Some(start))),
                Ok(_) => Err(format!("{start:?} is not between the years 1970 and 9999")),
                Err(error) => Err(format!("{start:?} is no moment like 2027-01-01T00:00:00Z: {error}")),
            },
            _ => Err("expected system, virtual or virtual=2027-01-01T00:00:00Z".to_owned()),
        }
    }
}

pub(super) async fn run(asked: Asked) -> anyhow::Result<()> {
    match asked.advance {
        None => show(&Client::new(&asked.remote)?).await,
        Some(ClockCommand::Advance { by, to, remote }) => advance(&Client::new(&remote)?, by, to).await,
    }
}

/// A moment as people read it.
pub(super) fn moment(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

async fn show(client: &Client) -> anyhow::Result<()> {
    let view: ClockView = client.get("/api/v1/clock").await?;
    if client.json {
        return json(&view);
    }
    let now = moment(view.now);
    if view.mode == ClockMode::System {
        line(format!("{now}, the system's clock"));
        return Ok(());
    }
    line(format!("{now}, a virtual clock"));
    match view.next {
        Some(next) => line(format!("the next thing is due at {}", moment(next))),
        None => line("nothing is due"),
    }
    for busy in &view.busy {
        line(format!("under way: {} ({})", busy.what, busy.count));
    }
    Ok(())
}

async fn advance(client: &Client, by: Option<Duration>, to: Option<DateTime<Utc>>) -> anyhow::Result<()> {
    let by = by.map(|by| humantime::format_duration(by).to_string());
    let mut request = AdvanceRequest { by, to };
    let mut stops = 0;
    loop {
        // One call takes a bounded time, a year of schedules does not.
        let mut view: AdvanceView = client.post("/api/v1/clock/advance", &request).await?;
        stops += view.stops;
        view.stops = stops;
        if !view.reached {
            request = AdvanceRequest { by: None, to: Some(view.target) };
            if !client.json {
                line(format!("{}, going on to {}", moment(view.now), moment(view.target)));
            }
            continue;
        }
        if client.json {
            return json(&view);
        }
        let moments = if stops == 1 { "moment" } else { "moments" };
        line(format!("{}, after {stops} {moments}", moment(view.now)));
        return Ok(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_the_machines_or_stands_at_a_moment() {
        assert_eq!("system".parse(), Ok(ClockArg::System));
        assert_eq!("virtual".parse(), Ok(ClockArg::Virtual(None)));
        let start: DateTime<Utc> = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!("virtual=2027-01-01T01:00:00+01:00".parse(), Ok(ClockArg::Virtual(Some(start))));
        assert_eq!(ClockArg::Virtual(Some(start)).clock().now(), start);
        assert!(ClockArg::System.clock().virtual_time().is_none());
        for bad in [
            "",
            "real",
            "virtual=",
            "virtual=tomorrow",
            "virtual=2027-02-30T00:00:00Z",
            "system=1",
            "=virtual",
            "virtual=+10000-01-01T00:00:00Z",
            "virtual=1969-12-31T23:59:59Z",
        ] {
            assert!(bad.parse::<ClockArg>().is_err(), "{bad:?}");
        }
    }
}
