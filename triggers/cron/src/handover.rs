//! What a turn means: which instants become events, which are put on record as skipped, and which are offered again.
//!
//! What is retried here is only the handing over; what becomes of an event afterwards is the engine's.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream;
use trigger_core::{Dispatch, FireCause, InvocationContext, Refused, SkipReason, SkippedFire, TriggerContext};

use crate::backoff;
use crate::event::{Events, Fire};
use crate::policy::{Bounds, Overlap};
use crate::progress::{MAX_MISSED, Skipped, Turn};
use crate::scheduler::{self, Sink};

/// The most events of one commit: so many are made and handed over before the next are made.
const BATCH: usize = 1_000;
/// Questions about single triggers that are under way at once.
const QUESTIONS: usize = 64;
/// A fire that comes this much after it was due is told as made up for.
const LATE_MS: i64 = 60_000;
/// While a trigger is paused, a row tells of the instants of an hour.
const PAUSED_ROW: i64 = 3_600;

/// What the handing over knows of a trigger.
pub(crate) struct Fires {
    pub(crate) cx: TriggerContext,
    pub(crate) bounds: Bounds,
    pub(crate) overlap: Overlap,
}

pub(crate) type Due = scheduler::Due<Fires>;

/// Hands over to the engine of each trigger.
pub(crate) struct Handover;

impl Sink for Handover {
    type Trigger = Fires;

    async fn hand_over(&self, mut due: &mut [Due], now_ms: i64) {
        // One engine has one dispatch: this turns once.
        while let Some(first) = due.first() {
            let dispatch = first.entry.trigger.cx.dispatch.clone();
            let same = due.iter().take_while(|one| Arc::ptr_eq(&one.entry.trigger.cx.dispatch, &dispatch)).count();
            let (ours, rest) = due.split_at_mut(same);
            hand_over(&*dispatch, ours, now_ms).await;
            due = rest;
        }
    }
}

/// A fire that is to be made: whose, in the order of those that are due, and which.
struct Wanted {
    of: usize,
    fire: Fire,
}

async fn hand_over(dispatch: &dyn Dispatch, due: &mut [Due], now_ms: i64) {
    learn(dispatch, due, now_ms).await;
    let mut wanted = Vec::with_capacity(due.len());
    let mut skipped = Vec::new();
    for (of, one) in due.iter_mut().enumerate() {
        if one.again_in.is_none() {
            decide(dispatch, of, one, now_ms, &mut wanted, &mut skipped);
        }
    }
    record(dispatch, due, skipped).await;
    cancel_others(dispatch, due, &wanted).await;
    make(dispatch, due, &wanted, now_ms).await;
    for one in due.iter_mut().filter(|one| one.again_in.is_none() && one.tries > 0) {
        one.entry.trigger.cx.healthy();
    }
}

/// Where instants seem to be missed, asks whether another node has made them.
async fn learn(dispatch: &dyn Dispatch, due: &mut [Due], now_ms: i64) {
    let unsure = due.iter_mut().filter(|one| {
        // The instants of a schedule are seconds apart at least: one that comes at once has left none behind.
        now_ms - one.due_ms >= 1_000
            && take_turn(one, now_ms).is_some_and(|turn| turn.skipped.is_some() || turn.fires.len() > 1)
    });
    stream::iter(unsure)
        .for_each_concurrent(QUESTIONS, async |one| {
            match dispatch.last_scheduled(&one.entry.trigger.cx.binding).await {
                Ok(last) => drop(one.progress.learn(last.map(|last| last.timestamp()), now_ms / 1_000)),
                Err(refused) => put_off(one, &refused),
            }
        })
        .await;
}

fn take_turn(one: &Due, now_ms: i64) -> Option<Turn> {
    let entry = &one.entry;
    Turn::take(&entry.plan, &entry.shift, entry.trigger.bounds, one.progress.reached, now_ms)
}

/// A row about instants that were not made; whose, in the order of those that are due.
struct Row {
    of: usize,
    skipped: Skipped,
    reason: SkipReason,
}

fn decide(
    dispatch: &dyn Dispatch,
    of: usize,
    one: &mut Due,
    now_ms: i64,
    wanted: &mut Vec<Wanted>,
    rows: &mut Vec<Row>,
) {
    let paused = dispatch.paused(&one.entry.trigger.cx.binding).is_some();
    let Some(turn) = take_turn(one, now_ms) else { return };
    let plan = &one.entry.plan;
    if paused {
        let Some(skipped) = turn.all(plan, one.progress.reached) else { return };
        one.progress.paused(skipped);
        // The hours are the clock's, so that every node tells of the same instants.
        let next = plan.next_second(one.progress.reached);
        if next.is_none_or(|next| next / PAUSED_ROW != skipped.last / PAUSED_ROW) {
            rows.extend(one.progress.unrecorded().map(|skipped| Row { of, skipped, reason: SkipReason::Paused }));
        }
        return;
    }
    rows.extend(one.progress.unrecorded().map(|skipped| Row { of, skipped, reason: SkipReason::Paused }));
    rows.extend(turn.skipped.map(|skipped| Row { of, skipped, reason: SkipReason::Missed }));
    let skipped = turn.skipped.map_or(0, |skipped| skipped.count);
    let mut missed = one.progress.missed.saturating_add(skipped).min(MAX_MISSED);
    for instant in turn.fires {
        // One that has a successor already is made up for.
        let cause =
            if instant == turn.latest && now_ms - one.due_ms < LATE_MS { FireCause::Due } else { FireCause::CatchUp };
        wanted.push(Wanted { of, fire: Fire { instant, missed, cause } });
        missed = 0;
    }
}

/// Puts on record what is skipped. It comes before the fires: a crash between the two would otherwise leave instants
/// without a row behind the newest that has one.
async fn record(dispatch: &dyn Dispatch, due: &mut [Due], rows: Vec<Row>) {
    if rows.is_empty() {
        return;
    }
    let moment = |second| DateTime::from_timestamp(second, 0).unwrap_or_default();
    let fires = rows.iter().map(|Row { of, skipped, reason }| SkippedFire {
        binding: due[*of].entry.trigger.cx.binding.clone(),
        scheduled_at: moment(skipped.first),
        until: moment(skipped.last),
        count: skipped.count.into(),
        reason: *reason,
    });
    let answer = dispatch.skip_fires(fires.collect()).await;
    for Row { of, skipped, reason } in rows {
        let one = &mut due[of];
        match &answer {
            Ok(()) if reason == SkipReason::Paused => one.progress.recorded(),
            Ok(()) => {
                one.progress.skipped(skipped);
                warn_of_missed(&one.entry.trigger.cx, skipped.count);
            }
            Err(refused) => put_off(one, refused),
        }
    }
}

/// Where a fire does not wait for the trigger's earlier ones, those are cancelled.
async fn cancel_others(dispatch: &dyn Dispatch, due: &mut [Due], wanted: &[Wanted]) {
    let cancels = |one: &Due| one.entry.trigger.overlap == Overlap::CancelOther && one.again_in.is_none();
    let mut last_of: Vec<usize> = wanted.iter().map(|wanted| wanted.of).filter(|of| cancels(&due[*of])).collect();
    last_of.dedup();
    let answers = stream::iter(last_of).map(async |of| {
        let binding = due[of].entry.trigger.cx.binding.clone();
        (of, dispatch.cancel_live(&binding).await)
    });
    let answers: Vec<_> = answers.buffer_unordered(QUESTIONS).collect().await;
    for (of, answer) in answers {
        match answer {
            Ok(0) => {}
            Ok(cancelled) => {
                tracing::info!(trigger = %due[of].entry.trigger.cx.binding.path(), cancelled, "cancelled for the next fire");
            }
            Err(refused) => put_off(&mut due[of], &refused),
        }
    }
}

/// Makes the fires, many in one commit. The first of a trigger's that is refused ends its turn.
async fn make(dispatch: &dyn Dispatch, due: &mut [Due], wanted: &[Wanted], now_ms: i64) {
    let now = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
    let mut events = Events::at(now);
    for wanted in wanted.chunks(BATCH) {
        let mut batch = Vec::with_capacity(wanted.len());
        let mut of = Vec::with_capacity(wanted.len());
        for wanted in wanted.iter().filter(|wanted| due[wanted.of].again_in.is_none()) {
            batch.push(event(&mut events, &due[wanted.of], wanted.fire));
            of.push(wanted);
        }
        if batch.is_empty() {
            continue;
        }
        for (Wanted { of, fire }, answer) in of.into_iter().zip(dispatch.accept_all(batch).await) {
            let one = &mut due[*of];
            match answer {
                _ if one.again_in.is_some() => {}
                Ok(accepted) => {
                    one.progress.fired(fire.instant);
                    if accepted.duplicate || accepted.skipped.is_some() {
                        let path = one.entry.trigger.cx.binding.path();
                        tracing::debug!(trigger = %path, instant = fire.instant, ?accepted, "no new fire");
                    }
                }
                Err(refused) => put_off(one, &refused),
            }
        }
    }
}

fn event(events: &mut Events, one: &Due, fire: Fire) -> InvocationContext {
    let trigger = &one.entry.trigger;
    events.event(&trigger.cx.binding, &one.entry.plan, trigger.overlap, fire)
}

/// The turn is not over: the trigger comes back, and takes what has come by then.
fn put_off(one: &mut Due, refused: &Refused) {
    one.entry.trigger.cx.degraded(format!("fires cannot be handed over, trying again: {refused}"));
    one.again_in = Some(backoff::delay(one.tries, refused.retry_after));
}

pub(crate) fn warn_of_missed(cx: &TriggerContext, missed: u32) {
    let or_more = if missed == MAX_MISSED { " or more" } else { "" };
    tracing::warn!(
        trigger = %cx.binding.path(),
        missed,
        "{missed}{or_more} fires were missed and will not be made"
    );
}

/// Puts on record what is not yet, as the trigger goes.
pub(crate) async fn record_paused(cx: &TriggerContext, unrecorded: Skipped) -> Result<(), Refused> {
    let moment = |second| DateTime::<Utc>::from_timestamp(second, 0).unwrap_or_default();
    let fire = SkippedFire {
        binding: cx.binding.clone(),
        scheduled_at: moment(unrecorded.first),
        until: moment(unrecorded.last),
        count: unrecorded.count.into(),
        reason: SkipReason::Paused,
    };
    cx.dispatch.skip_fires(vec![fire]).await
}
