//! The timer trigger: a function runs at a moment, once.
//!
//! ```text
//! API, command line, guests ─► Alarms::set ─┐
//! manifest: at, after ──────────────────────┴─► one queued event, due at its moment ─► the engine
//! ```
//!
//! A timer is a row of the engine's queue that is not due yet. The wall clock decides when it is, so a timer may lie
//! years ahead, and a suspended machine, a set clock or a restart changes nothing but how late it is noticed. This
//! crate keeps no timer in memory: it owns which function has the timers of a name, and when the timer of a manifest
//! was first seen.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make moments of the machine's own clock"))]

mod alarms;
mod config;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use trigger_core::{
    Accepted, BindError, Binding, Custody, Kind, Problems, Refused, Terms, Trigger, TriggerContext, TriggerError,
    TriggerKind, Unique, UniqueConflict, UniqueScope,
};

pub use alarms::Alarms;
pub use config::Config;
use config::Timer as When;

/// The longest pause between two tries to hand a timer over.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The timer trigger's kind: `type = "timer"`.
#[derive(Clone, Default)]
pub struct Timer {
    alarms: Arc<Alarms>,
}

impl Timer {
    /// Timers that are set here.
    pub fn new(alarms: Arc<Alarms>) -> Self {
        Self { alarms }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

impl TriggerKind for Timer {
    const KIND: Kind = Kind::Timer;
    type Config = Config;
    type Trigger = TimerTrigger;

    fn check(&self, config: &Config, problems: &mut Problems) {
        config.check(problems);
    }

    fn conflict(&self, one: &Config, other: &Config) -> Option<String> {
        let name = one.timers.as_ref().filter(|name| other.timers.as_ref() == Some(name))?;
        Some(format!("both have the timers called {name:?}, and a timer fires once"))
    }

    fn describe(&self, config: &Config) -> String {
        match (&config.timers, &config.at, &config.after) {
            (Some(name), ..) => format!("timers {name}"),
            (None, Some(at), _) => format!("at {at}"),
            (None, None, after) => format!("after {}", after.as_deref().unwrap_or("nothing")),
        }
    }

    async fn bind(&self, config: Config, _binding: Arc<Binding>) -> Result<TimerTrigger, BindError> {
        let when = config.timer().map_err(|(key, why, _)| BindError(format!("{key}: {why}")))?;
        let payload = config.payload.map(Bytes::from).unwrap_or_default();
        Ok(TimerTrigger { when, payload, alarms: self.alarms.clone() })
    }
}

/// The timers of one function's trigger.
pub struct TimerTrigger {
    when: When,
    payload: Bytes,
    alarms: Arc<Alarms>,
}

impl Trigger for TimerTrigger {
    async fn run(self, cx: TriggerContext) -> Result<(), TriggerError> {
        let shutdown = cx.shutdown.clone();
        let mut pause = Duration::from_millis(100);
        let _open = match &self.when {
            When::Named(name) => Some(self.alarms.open(name.clone(), cx)),
            _ => {
                while let Err(refused) = self.set(&cx).await {
                    cx.degraded(format!("the timer cannot be kept, trying again: {refused}"));
                    pause = (pause * 2).max(refused.retry_after).min(MAX_PAUSE);
                    // Real time: what could not be kept is still to be, whatever the clock shows.
                    if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
                        return Ok(());
                    }
                }
                cx.healthy();
                None
            }
        };
        shutdown.cancelled().await;
        Ok(())
    }
}

impl TimerTrigger {
    /// Keeps the timer that the manifest sets, unless it was kept before, and takes back those of an earlier manifest
    /// that have not begun.
    async fn set(&self, cx: &TriggerContext) -> Result<(), Refused> {
        let identity = self.when.identity().expect("only a timer of the manifest is set here");
        let mut event = cx.event(Custody::Engine, self.payload.clone());
        event.subject = cx.binding.trigger_id.clone();
        event.scheduled_at = match self.when {
            When::At(moment) => Some(moment),
            When::After(span) => Some(event.received_at + span),
            When::Named(_) => None,
        };
        // Held for longer than any deployment lasts: what has fired does not fire again because it was forgotten.
        let unique = Unique {
            key: identity.as_str().into(),
            scope: UniqueScope::Period(u32::MAX),
            conflict: UniqueConflict::Keep,
        };
        event.terms = Some(Box::new(Terms { unique: Some(unique), ..Terms::default() }));
        let Accepted { invocation_id, duplicate, .. } = cx.dispatch.accept(event).await?;
        if duplicate {
            tracing::debug!(trigger = %cx.binding.path(), invocation = %invocation_id, "the timer was set before");
        }
        let cancelled = cx.dispatch.cancel_others(&cx.binding, &identity).await?;
        if cancelled > 0 {
            tracing::info!(trigger = %cx.binding.path(), cancelled, "timers of an earlier manifest were cancelled");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Utc};
    use trigger_core::testing::{FakeDispatch, eventually};
    use trigger_core::{NewTimer, Shed, Timers as _};

    use super::*;

    async fn run(kind: &Timer, config: Config, cx: &TriggerContext) -> tokio::task::JoinHandle<()> {
        let trigger = kind.bind(config, cx.binding.clone()).await.unwrap();
        let cx = cx.clone();
        tokio::spawn(async move { trigger.run(cx).await.unwrap() })
    }

    #[tokio::test]
    async fn the_timer_of_a_manifest_is_kept_once_and_held_for_good() {
        let dispatch = FakeDispatch::echo();
        let cx = dispatch.context(Kind::Timer, "cleanup");
        let config = Config { after: Some("10m".to_owned()), payload: Some("go".to_owned()), ..Config::default() };
        let running = run(&Timer::default(), config, &cx).await;
        eventually("the timer to be kept", || dispatch.accepted().len() == 1).await;
        let event = dispatch.accepted().pop().unwrap();
        let due = event.received_at + TimeDelta::minutes(10);
        assert_eq!((&*event.subject, event.scheduled_at), ("cleanup", Some(due)));
        assert_eq!((&event.payload[..], event.custody), (&b"go"[..], Custody::Engine));
        let unique = event.unique().unwrap();
        assert_eq!((unique.scope, unique.conflict), (UniqueScope::Period(u32::MAX), UniqueConflict::Keep));
        cx.shutdown.cancel();
        running.await.unwrap();
        assert_eq!(dispatch.accepted().len(), 1);
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_asked_again() {
        let dispatch = FakeDispatch::echo();
        let cx = dispatch.context(Kind::Timer, "cleanup");
        let away = Refused { reason: Shed::StoreUnavailable, message: "away".into(), retry_after: Duration::ZERO };
        *dispatch.refuse.lock().unwrap() = Some(away);
        let config = Config { at: Some("2000-01-01T00:00:00Z".to_owned()), ..Config::default() };
        let running = run(&Timer::default(), config, &cx).await;
        let mut health = cx.health.subscribe();
        health.wait_for(|health| health.as_ref().is_some_and(|why| why.contains("away"))).await.unwrap();
        *dispatch.refuse.lock().unwrap() = None;
        health.wait_for(Option::is_none).await.unwrap();
        assert_eq!(dispatch.accepted().len(), 1);
        cx.shutdown.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn timers_can_be_set_by_name_while_their_trigger_runs() {
        let (dispatch, alarms) = (FakeDispatch::echo(), Arc::new(Alarms::default()));
        let cx = dispatch.context(Kind::Timer, "timer");
        let config = Config { timers: Some("reminders".to_owned()), ..Config::default() };
        let running = run(&Timer::new(alarms.clone()), config, &cx).await;
        let set = || alarms.event("reminders", NewTimer::new("a", Utc::now()));
        eventually("the name to open", || set().is_ok()).await;
        cx.shutdown.cancel();
        running.await.unwrap();
        assert!(set().is_err() && dispatch.accepted().is_empty());
    }

    #[test]
    fn one_function_has_the_timers_of_a_name() {
        let named = |name: &str| Config { timers: Some(name.to_owned()), ..Config::default() };
        let after = Config { after: Some("1m".to_owned()), ..Config::default() };
        let kind = Timer::default();
        assert!(kind.conflict(&named("a"), &named("a")).is_some());
        assert!(kind.conflict(&named("a"), &named("b")).is_none() && kind.conflict(&after, &after).is_none());
        assert_eq!((kind.describe(&named("a")), kind.describe(&after)), ("timers a".into(), "after 1m".into()));
    }
}
