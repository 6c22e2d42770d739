//! `tripline schedules`.

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use trigger_core::{Kind, MAX_INSTANTS, Problems, Timetable, display_path};

use super::client::{Client, encode, query};
use super::show::{json as print_as_json, line, print, table};
use super::{Next, SchedulesCommand};
use crate::admin::{BackfillRequest, BackfillView, InstantView, Listing, PauseRequest, RunView, ScheduleView};
use crate::kinds::Kinds;
use crate::store::FireRow;

pub(super) async fn run(command: SchedulesCommand) -> anyhow::Result<()> {
    match command {
        SchedulesCommand::List(remote) => list(&Client::new(&remote)?).await,
        SchedulesCommand::Next(next) => self::next(next).await,
        SchedulesCommand::Fires { name, skipped, limit, remote } => {
            let query = query(&[("skipped", Some(skipped.to_string())), ("limit", Some(limit.to_string()))]);
            fires(&Client::new(&remote)?, &format!("{}{query}", path(&name, "fires"))).await
        }
        SchedulesCommand::Run { name, remote } => {
            let client = Client::new(&remote)?;
            let view: RunView = client.post(&path(&name, "run"), &json!({})).await?;
            if client.json { print_as_json(&view) } else { said(view.invocation_id.to_string()) }
        }
        SchedulesCommand::Backfill { name, from, to, dry_run, remote } => {
            backfill(&Client::new(&remote)?, &name, BackfillRequest { from, to, dry_run }).await
        }
        SchedulesCommand::Pause { name, note, remote } => {
            let client = Client::new(&remote)?;
            super::triggers::paused(&client, client.post(&path(&name, "pause"), &PauseRequest { note }).await?)
        }
        SchedulesCommand::Resume { name, remote } => {
            let client = Client::new(&remote)?;
            super::triggers::paused(&client, client.post(&path(&name, "resume"), &json!({})).await?)
        }
    }
}

fn path(name: &str, what: &str) -> String {
    format!("/api/v1/schedules/{}/{what}", encode(name))
}

fn said(text: String) -> anyhow::Result<()> {
    line(text);
    Ok(())
}

fn moment(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let schedules: Listing<ScheduleView> = client.get("/api/v1/schedules").await?;
    if client.json {
        return print_as_json(&schedules);
    }
    let mut table = table(&["TRIGGER", "SCHEDULE", "LAST", "NEXT", "STATE"]);
    for one in &schedules.items {
        let state = match (&one.paused, &one.degraded) {
            (Some(pause), _) if pause.note.is_empty() => format!("paused since {}", moment(pause.since)),
            (Some(pause), _) => format!("paused: {}", pause.note),
            (None, Some(degraded)) => degraded.clone(),
            (None, None) => "ok".to_owned(),
        };
        table.add_row([
            one.binding.path(),
            one.description.clone(),
            one.last_scheduled_at.map(moment).unwrap_or_default(),
            one.next_at.map_or("over".to_owned(), moment),
            state,
        ]);
    }
    print(&table, "no schedules");
    Ok(())
}

async fn next(next: Next) -> anyhow::Result<()> {
    let Some(name) = &next.name else { bail!("name a trigger, or give a --schedule") };
    let client = Client::new(&next.remote)?;
    let query =
        query(&[("count", Some(next.count.to_string())), ("after", next.after.map(|after| after.to_rfc3339()))]);
    let instants: Listing<InstantView> = client.get(&format!("{}{query}", path(name, "next"))).await?;
    tell(&instants, client.json)
}

fn tell(instants: &Listing<InstantView>, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print_as_json(instants);
    }
    for InstantView { at, local } in &instants.items {
        line(format!("{}  {local}", moment(*at)));
    }
    if instants.items.is_empty() {
        line("the schedule is over");
    }
    Ok(())
}

/// The next instants of a schedule that is given, and not a trigger's: no engine is asked.
pub fn preview(next: &Next, kinds: &Kinds, now: DateTime<Utc>) -> anyhow::Result<()> {
    let mut section = json!({ "schedule": next.schedule });
    for (key, value) in [("timezone", &next.timezone), ("gap", &next.gap), ("repeat", &next.repeat)] {
        if let Some(value) = value {
            section[key] = json!(value);
        }
    }
    let section = kinds.read(Kind::Cron, &section).map_err(anyhow::Error::msg)?;
    let mut problems = Problems::new();
    kinds.check(&section, &mut problems);
    if !problems.is_empty() {
        let problems = problems.into_vec().into_iter().map(|problem| {
            let help = problem.help.map_or(String::new(), |help| format!(" ({help})"));
            format!("--{}: {}{help}", display_path(&problem.path), problem.message)
        });
        bail!("{}", problems.collect::<Vec<_>>().join("\n"));
    }
    let Some(timetable) = kinds.timetable(&section) else { bail!("this build has no schedules") };
    let timetable: &dyn Timetable = &*timetable;
    let instants = timetable.next(next.after.unwrap_or(now), next.count.min(MAX_INSTANTS));
    let items = instants.into_iter().map(|at| InstantView::of(timetable, at)).collect();
    tell(&Listing { items }, next.remote.json)
}

async fn fires(client: &Client, path: &str) -> anyhow::Result<()> {
    let fires: Listing<FireRow> = client.get(path).await?;
    if client.json {
        return print_as_json(&fires);
    }
    let mut table = table(&["DUE", "FIRES", "MADE", "WHY", "LATE", "INVOCATION"]);
    for fire in &fires.items {
        let due = match fire.until {
            Some(until) => format!("{} to {}", moment(fire.scheduled_at), moment(until)),
            None => moment(fire.scheduled_at),
        };
        let late = (fire.fired_at - fire.scheduled_at).num_milliseconds();
        table.add_row([
            due,
            fire.count.to_string(),
            if fire.skipped.is_some() { "no" } else { "yes" }.to_owned(),
            fire.skipped.clone().or_else(|| fire.cause.clone()).unwrap_or_default(),
            format!("{:.3} s", late as f64 / 1_000.0),
            fire.invocation_id.map(|id| id.to_string()).unwrap_or_default(),
        ]);
    }
    print(&table, "no fires");
    Ok(())
}

async fn backfill(client: &Client, name: &str, request: BackfillRequest) -> anyhow::Result<()> {
    let view: BackfillView = client.post(&path(name, "backfill"), &request).await?;
    if client.json {
        return print_as_json(&view);
    }
    for InstantView { at, local } in &view.fires {
        line(format!("{}  {local}", moment(*at)));
    }
    let done = if view.dry_run { "would be made" } else { "made" };
    said(format!("{} fires {done}; {} were made before", view.fires.len(), view.made_before))
}
