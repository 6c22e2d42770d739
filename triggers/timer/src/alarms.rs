//! The timers that are set at run time, by the name of their function's trigger.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use trigger_core::{
    Accepted, BoxFuture, Cancelled, Custody, EnqueueError, InvocationContext, NewTimer, Terms, Timers, TriggerContext,
    Unique, UniqueScope, bounds,
};

/// The names under which timers can be set now.
#[derive(Default)]
pub struct Alarms {
    open: RwLock<BTreeMap<String, TriggerContext>>,
}

/// A name that is open as long as this is held, unless another trigger took it over.
pub(crate) struct Open {
    alarms: Arc<Alarms>,
    name: String,
    cx: TriggerContext,
}

impl Alarms {
    /// Sends the timers of a name to this trigger. A reload opens the new one before the old one goes: the newest has
    /// it.
    pub(crate) fn open(self: &Arc<Self>, name: String, cx: TriggerContext) -> Open {
        self.open.write().insert(name.clone(), cx.clone());
        Open { alarms: self.clone(), name, cx }
    }

    fn find(&self, timer: &str) -> Result<TriggerContext, EnqueueError> {
        let open = self.open.read();
        open.get(timer).cloned().ok_or_else(|| EnqueueError::UnknownTimer {
            timer: timer.chars().take(200).collect(),
            known: open.keys().cloned().collect(),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.alarms.open.write();
        if open.get(&self.name).is_some_and(|cx| Arc::ptr_eq(&cx.binding, &self.cx.binding)) {
            open.remove(&self.name);
        }
    }
}

impl Timers for Alarms {
    fn event(&self, timer: &str, new: NewTimer) -> Result<InvocationContext, EnqueueError> {
        event(&self.find(timer)?, timer, new)
    }

    fn set(&self, timer: &str, new: NewTimer) -> BoxFuture<'_, Result<Accepted, EnqueueError>> {
        let found = self.find(timer).and_then(|cx| Ok((event(&cx, timer, new)?, cx.dispatch)));
        Box::pin(async move {
            let (event, dispatch) = found?;
            Ok(dispatch.accept(event).await?)
        })
    }

    fn cancel(&self, timer: &str, key: &str) -> BoxFuture<'_, Result<Cancelled, EnqueueError>> {
        let found = bounds::key("key", Some(key)).map_err(EnqueueError::from).and_then(|()| self.find(timer));
        let key = key.to_owned();
        Box::pin(async move {
            let cx = found?;
            Ok(cx.dispatch.cancel_key(&cx.binding, &key).await?)
        })
    }
}

fn event(cx: &TriggerContext, timer: &str, new: NewTimer) -> Result<InvocationContext, EnqueueError> {
    new.check(cx.clock.now())?;
    let mut event = cx.event(Custody::Engine, new.payload);
    event.subject = format!("{timer}/{}", new.key).into();
    event.attributes = vec![("timer".into(), timer.to_owned()), ("key".into(), new.key.to_string())];
    event.content_type = new.content_type;
    event.headers = new.headers;
    event.scheduled_at = Some(new.run_at);
    event.terms = Some(Box::new(Terms {
        unique: Some(Unique { key: new.key, scope: UniqueScope::Live, conflict: new.conflict }),
        retry_count: new.retry_count,
        result_ttl_seconds: new.result_ttl_seconds,
        ..Terms::default()
    }));
    event.adopt_lineage();
    Ok(event)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::{TimeDelta, Utc};
    use trigger_core::testing::FakeDispatch;
    use trigger_core::{Kind, UniqueConflict};

    use super::*;

    #[tokio::test]
    async fn a_timer_is_an_event_that_is_due_later_and_holds_its_key() {
        let (dispatch, alarms) = (FakeDispatch::echo(), Arc::new(Alarms::default()));
        let _open = alarms.open("reminders".into(), dispatch.context(Kind::Timer, "timer"));
        let run_at = Utc::now() + TimeDelta::hours(1);
        let new = NewTimer { payload: Bytes::from_static(b"tea"), ..NewTimer::new("ann", run_at) };
        let accepted = alarms.set("reminders", new.clone()).await.unwrap();
        let event = dispatch.accepted().pop().unwrap();
        assert_eq!((event.invocation_id, event.scheduled_at), (accepted.invocation_id, Some(run_at)));
        assert_eq!((&*event.subject, &event.payload[..]), ("reminders/ann", &b"tea"[..]));
        assert_eq!((event.attribute("timer"), event.attribute("key")), (Some("reminders"), Some("ann")));
        let unique = |conflict| Unique { key: "ann".into(), scope: UniqueScope::Live, conflict };
        assert_eq!(event.unique(), Some(&unique(UniqueConflict::Replace)));
        let kept = alarms.event("reminders", NewTimer { conflict: UniqueConflict::Keep, ..new }).unwrap();
        assert_eq!(kept.unique(), Some(&unique(UniqueConflict::Keep)));
        assert_eq!(dispatch.accepted().len(), 1, "an event alone keeps nothing");
    }

    #[tokio::test]
    async fn a_timer_in_the_past_is_an_error_unless_the_past_means_now() {
        let (dispatch, alarms) = (FakeDispatch::echo(), Arc::new(Alarms::default()));
        let _open = alarms.open("reminders".into(), dispatch.context(Kind::Timer, "timer"));
        let past = NewTimer::new("ann", Utc::now() - TimeDelta::hours(1));
        for (field, new) in [
            ("run_at", past.clone()),
            ("run_at", NewTimer::new("ann", Utc::now() + bounds::MAX_AHEAD + TimeDelta::days(1))),
            ("key", NewTimer::new("", Utc::now())),
            ("retry_count", NewTimer { retry_count: Some(1001), ..NewTimer::new("ann", Utc::now()) }),
        ] {
            let error = alarms.set("reminders", new).await.unwrap_err();
            assert!(matches!(error, EnqueueError::Invalid { field: found, .. } if found == field), "{error}");
        }
        assert!(dispatch.accepted().is_empty());
        assert!(alarms.event("reminders", NewTimer { allow_past: true, ..past }).is_ok());
        assert!(alarms.event("reminders", NewTimer::new("ann", Utc::now() - TimeDelta::seconds(1))).is_ok());
    }

    #[tokio::test]
    async fn a_name_that_nobody_has_is_told_with_those_that_there_are() {
        let (dispatch, alarms) = (FakeDispatch::echo(), Arc::new(Alarms::default()));
        let open = alarms.open("reminders".into(), dispatch.context(Kind::Timer, "timer"));
        let error = alarms.event("remainders", NewTimer::new("a", Utc::now())).unwrap_err();
        assert_eq!(error.to_string(), "no function has timers called \"remainders\"; there is reminders");
        assert!(alarms.cancel("remainders", "a").await.is_err() && alarms.cancel("reminders", "").await.is_err());
        *dispatch.cancelled.lock().unwrap() = Some(Cancelled::Asked);
        assert_eq!(alarms.cancel("reminders", "a").await.unwrap(), Cancelled::Asked);
        drop(open);
        assert!(alarms.cancel("reminders", "a").await.is_err(), "a name closes with its trigger");
    }
}
