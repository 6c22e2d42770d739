//! `tripline dlq redrive`: steps of the engine, paced, watched and stopped from here.
//!
//! The engine does one bounded step for each request. When this program is interrupted nothing is half done: what was
//! redriven runs, and asking again goes on with what is left.

mod pace;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use self::pace::{Pace, Rate, Share, Watch};
use super::Remote;
use super::client::Client;
use super::dlq::{Select, check_meant, letters, progress};
use super::show::{json, line};
use crate::admin::{OutcomesRequest, OutcomesView, RedriveRequest, RedriveStep, RedriveView};
use crate::store::RedriveState;

/// How often redriven events are asked about.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// How often people are told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Events of one step, where nothing asks for fewer.
const STEP: u64 = 100;

#[derive(Debug, Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    select: Select,
    /// Every dead letter of the namespace.
    #[arg(long)]
    all: bool,
    /// Run them on this version of their function instead of the one that serves.
    #[arg(long)]
    version: Option<u32>,
    /// No more than so many, as in 50/s, 600/m or 10/h.
    #[arg(long)]
    rate: Option<Rate>,
    /// Only say how many they are.
    #[arg(long)]
    dry_run: bool,
    /// Watch what becomes of them, and stop when a larger share has died again, as in 20%.
    #[arg(long, value_name = "SHARE")]
    stop_on_failure: Option<Share>,
    /// How many must have ended before that share is judged.
    #[arg(long, value_name = "EVENTS", default_value_t = 20, requires = "stop_on_failure",
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    min_sample: u64,
    #[command(flatten)]
    remote: Remote,
}

/// What a redrive came to.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// How many were selected when it began.
    selected: u64,
    /// Put back in the queue.
    queued: u64,
    /// Redriven before and not dead again.
    already: u64,
    /// What is kept of them cannot be read.
    unreadable: u64,
    /// Of those that were watched: left the queue and did not die.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<u64>,
    /// Of those that were watched: died again.
    #[serde(skip_serializing_if = "Option::is_none")]
    died_again: Option<u64>,
    /// Whether it was stopped since too many died again.
    stopped: bool,
    /// Where invocations were named: what became of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    items: Vec<RedriveView>,
}

pub(super) async fn run(redrive: Redrive) -> anyhow::Result<()> {
    let client = Client::new(&redrive.remote)?;
    let mut selector = redrive.select.selector()?;
    check_meant(&selector, redrive.all)?;
    // Whoever names them wants to know of each.
    let named = !selector.ids.is_empty();
    selector.include_redriven |= named;
    let request = RedriveRequest {
        selector,
        all: redrive.all,
        version: redrive.version,
        dry_run: true,
        ..RedriveRequest::default()
    };
    let step: RedriveStep = client.post("/api/v1/dead-letters/redrive", &request).await?;
    let mut report = Report { selected: step.selected.unwrap_or_default(), ..Report::default() };
    if redrive.dry_run {
        if client.json {
            return json(&report);
        }
        line(format!("{} would be redriven", letters(report.selected)));
        return Ok(());
    }
    let run = Run {
        client: &client,
        request: RedriveRequest { dry_run: false, ..request },
        pace: redrive.rate.map(Pace::new),
        watch: redrive.stop_on_failure.map(|share| Watch::new(share, redrive.min_sample)),
        watched: HashSet::new(),
        named,
        began: Instant::now(),
        told: Instant::now(),
    };
    run.go(&mut report).await?;
    finish(&client, &report, &redrive.select)
}

/// A redrive under way.
struct Run<'a> {
    client: &'a Client,
    request: RedriveRequest,
    pace: Option<Pace>,
    watch: Option<Watch>,
    /// Redriven events whose end is not known.
    watched: HashSet<Uuid>,
    named: bool,
    began: Instant,
    told: Instant,
}

impl Run<'_> {
    async fn go(mut self, report: &mut Report) -> anyhow::Result<()> {
        let mut more = true;
        while more || !self.watched.is_empty() {
            self.look(report).await?;
            if report.stopped {
                return Ok(());
            }
            let by_watch = self.watch.as_ref().map_or(STEP, Watch::room);
            let by_rate = self.pace.as_mut().map_or(STEP, |pace| pace.room(self.began.elapsed()));
            let room = STEP.min(by_watch).min(by_rate);
            if more && room > 0 {
                more = self.step(room, report).await?;
            } else {
                let until_rate = self.pace.as_ref().filter(|_| more && by_watch > 0).map_or(ASK_EVERY, Pace::wait);
                let watched = !self.watched.is_empty();
                tokio::time::sleep(if watched { until_rate.min(ASK_EVERY) } else { until_rate.min(TELL_EVERY) }).await;
            }
            self.tell(report);
        }
        Ok(())
    }

    /// Redrives some; whether there may be more.
    async fn step(&mut self, room: u64, report: &mut Report) -> anyhow::Result<bool> {
        self.request.limit = u32::try_from(room).ok();
        let step: RedriveStep = self.client.post("/api/v1/dead-letters/redrive", &self.request).await?;
        let mut queued = 0;
        for item in &step.items {
            match item.state.as_str() {
                "queued" => {
                    queued += 1;
                    if self.watch.is_some() {
                        self.watched.insert(item.invocation_id);
                    }
                }
                "already" => report.already += 1,
                "unreadable" => report.unreadable += 1,
                _ => {}
            }
        }
        report.queued += queued;
        // Those that took no event's place took none of the rate.
        if let Some(pace) = &mut self.pace {
            pace.took(queued);
        }
        if let Some(watch) = &mut self.watch {
            watch.redriven(queued);
        }
        if self.named {
            report.items.extend(step.items);
        }
        self.request.from = step.next;
        Ok(step.next.is_some())
    }

    /// Looks what became of those that are watched.
    async fn look(&mut self, report: &mut Report) -> anyhow::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if !self.watched.is_empty() {
            let ids: Vec<Uuid> = self.watched.iter().copied().collect();
            let request = OutcomesRequest { ids };
            let view: OutcomesView = self.client.post("/api/v1/dead-letters/outcomes", &request).await?;
            let (mut ended, mut died_again) = (0, 0);
            for (id, state) in request.ids.iter().zip(view.states) {
                match state {
                    RedriveState::Queued => continue,
                    RedriveState::Dead => died_again += 1,
                    RedriveState::Ended | RedriveState::Unknown => ended += 1,
                }
                self.watched.remove(id);
            }
            watch.came(ended, died_again);
        }
        (report.ended, report.died_again) = (Some(watch.ended), Some(watch.died_again));
        report.stopped = watch.is_exceeded();
        Ok(())
    }

    fn tell(&mut self, report: &Report) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        progress(self.client, || {
            let watched =
                report.died_again.map(|died| format!(", {} ended, {died} died again", report.ended.unwrap_or(0)));
            format!("redriven {} of {}{}", report.queued, report.selected, watched.unwrap_or_default())
        });
    }
}

/// Says what it came to.
fn finish(client: &Client, report: &Report, select: &Select) -> anyhow::Result<()> {
    let known: HashSet<Uuid> = report.items.iter().map(|item| item.invocation_id).collect();
    let missing = select.invocations.iter().find(|id| !known.contains(id) && !report.stopped);
    if client.json {
        json(report)?;
    } else {
        for item in &report.items {
            let said = match item.state.as_str() {
                "queued" => "runs again",
                "already" => "was redriven before",
                "unreadable" => "cannot be read",
                _ => "is gone",
            };
            line(format!("{} {said}", item.invocation_id));
        }
        if report.items.is_empty() {
            line(format!("{} redriven", letters(report.queued)));
        }
        if let (Some(ended), Some(died_again)) = (report.ended, report.died_again) {
            line(format!("{ended} ended, {died_again} died again"));
        }
        if report.unreadable > 0 {
            line(format!("{} cannot be read and stay; the engine's log says why", letters(report.unreadable)));
        }
    }
    if let Some(missing) = missing {
        bail!("no such dead letter: {missing}");
    }
    if report.stopped {
        bail!(
            "stopped: {} of {} died again; the others stay dead letters",
            report.died_again.unwrap_or_default(),
            report.ended.unwrap_or_default() + report.died_again.unwrap_or_default()
        );
    }
    Ok(())
}
