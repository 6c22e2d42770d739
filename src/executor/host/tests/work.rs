//! Jobs and timers at the host's side: grants, bounds, what is held back and what is done at once.

use std::sync::Arc;

use trigger_core::{Cancelled, Progress, Unique, UniqueConflict, UniqueScope};
use uuid::Uuid;

use super::super::bindings::tripline::function::types::{self, Conflict, Moment};
use super::super::bindings::tripline::function::{jobs, timers};
use super::*;
use crate::executor::guest::Served;
use crate::executor::tests::fakes::Fakes;

/// A guest that may use `thumbs`, `mail.*` but in the name of `secret` nothing, and timers called `reminders`.
fn worker(event: impl FnOnce(&mut InvocationContext)) -> (Guest, Arc<Fakes>) {
    let fakes = Arc::new(Fakes::default());
    let grants = |definition: &mut Definition| {
        definition.allow.jobs = vec!["thumbs".to_owned(), "mail.welcome".to_owned(), "gone.>".to_owned()];
        definition.allow.timers = vec!["reminders".to_owned(), "gone.*".to_owned()];
    };
    let mut guest = guest(Kind::Job, grants, event);
    guest.served = Some(Served::new(Arc::new(fakes.services()), None));
    (guest, fakes)
}

fn job() -> jobs::Options {
    jobs::Options {
        content_type: None,
        headers: Vec::new(),
        key: None,
        unique: None,
        run_at: None,
        expires_at: None,
        priority: None,
        ordering_key: None,
        retry_count: None,
        result_ttl_seconds: None,
    }
}

fn timer() -> timers::Options {
    timers::Options {
        content_type: None,
        headers: Vec::new(),
        conflict: Conflict::Replace,
        allow_past: false,
        retry_count: None,
        result_ttl_seconds: None,
    }
}

fn enqueue(guest: &mut Guest, queue: &str, payload: &str, options: jobs::Options) -> Result<String, jobs::Error> {
    jobs::Host::enqueue(guest, queue.to_owned(), payload.into(), options)
}

fn set(guest: &mut Guest, name: &str, key: &str, when: Moment) -> Result<(), timers::Error> {
    timers::Host::set(guest, name.to_owned(), key.to_owned(), when, b"hello".to_vec(), timer())
}

#[test]
fn queues_and_timers_that_are_not_granted_are_denied_by_name() {
    let (mut guest, _) = worker(|_| {});
    let Err(jobs::Error::Denied(why)) = enqueue(&mut guest, "mail.secret", "", job()) else { panic!("denied") };
    assert_eq!(why, "the definition does not grant \"mail.secret\": add it to functions.orders.allow.jobs");
    let Err(timers::Error::Denied(why)) = set(&mut guest, "alarms", "7", Moment::After(0)) else { panic!("denied") };
    assert_eq!(why, "the definition does not grant \"alarms\": add it to functions.orders.allow.timers");
    assert!(matches!(enqueue(&mut guest, "gone.for.good", "", job()), Err(jobs::Error::UnknownQueue(_))));
    assert!(matches!(set(&mut guest, "gone.now", "7", Moment::After(0)), Err(timers::Error::UnknownTimer(_))));
    assert!(guest.effects.is_empty());
    let ops = guest.detail().unwrap().host_ops;
    let told: Vec<(&str, &str, bool)> =
        ops.iter().map(|op| (op.op.as_ref(), op.target.as_str(), op.error.is_some())).collect();
    assert_eq!(
        told,
        [
            ("enqueue", "mail.secret", true),
            ("set-timer", "alarms/7", true),
            ("enqueue", "gone.for.good", true),
            ("set-timer", "gone.now/7", true),
        ]
    );
    assert!(ops[0].error.as_ref().unwrap().starts_with("denied: "), "{ops:?}");
}

#[test]
fn jobs_and_timers_are_held_back_and_carry_what_caused_them() {
    let (mut guest, _) = worker(|event| event.depth = 4);
    let cause = guest.invocation.clone().unwrap();
    let unique = jobs::Unique { key: "one".into(), scope: jobs::UniqueScope::Period(60), conflict: Conflict::Replace };
    let before = Utc::now();
    let later = before.timestamp_millis() + 86_400_000;
    let options = jobs::Options {
        key: Some("key-1".into()),
        unique: Some(unique),
        run_at: Some(Moment::After(60_000)),
        expires_at: Some(Moment::At(later as u64)),
        priority: Some(7),
        retry_count: Some(2),
        headers: vec![("X-One".into(), b"1".to_vec())],
        ..job()
    };
    let id = enqueue(&mut guest, "thumbs", "hello", options).unwrap();
    set(&mut guest, "reminders", "7", Moment::At(later as u64)).unwrap();
    let [first, second] = guest.effects.events.as_slice() else { panic!("two events") };
    assert_eq!((first.invocation_id.to_string(), &first.payload[..]), (id, &b"hello"[..]));
    assert_eq!((first.idempotency_key.as_deref(), first.headers.get_str("x-one")), (Some("key-1"), Some("1")));
    let due = first.scheduled_at.unwrap();
    assert!(due >= before + TimeDelta::seconds(60) && due <= Utc::now() + TimeDelta::seconds(60), "{due}");
    let terms = first.terms.as_ref().unwrap();
    let expected = Unique { key: "one".into(), scope: UniqueScope::Period(60), conflict: UniqueConflict::Replace };
    assert_eq!((terms.priority, terms.retry_count, terms.unique.as_ref()), (7, Some(2), Some(&expected)));
    assert_eq!(terms.expires_at.unwrap().timestamp_millis(), later);
    assert_eq!(second.scheduled_at.unwrap().timestamp_millis(), later);
    for event in [first, second] {
        assert_eq!((event.depth, event.parent), (5, Some(cause.invocation_id)));
        assert_eq!((event.trace.trace_id, event.trace.parent_span), (cause.trace.trace_id, cause.trace.span_id));
        assert_ne!(event.trace.span_id, cause.trace.span_id);
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let (mut guest, _) = worker(|_| {});
    for (field, options) in [
        ("key", jobs::Options { key: Some(String::new()), ..job() }),
        ("priority", jobs::Options { priority: Some(101), ..job() }),
        ("run_at", jobs::Options { run_at: Some(Moment::After(u64::MAX)), ..job() }),
        ("run_at", jobs::Options { run_at: Some(Moment::After(i64::MAX as u64 / 2)), ..job() }),
        ("run_at", jobs::Options { run_at: Some(Moment::At(u64::MAX)), ..job() }),
        ("expires_at", jobs::Options { expires_at: Some(Moment::After(0)), ..job() }),
        ("headers", jobs::Options { headers: vec![("Tripline-Depth".into(), b"0".to_vec())], ..job() }),
        ("headers", jobs::Options { headers: vec![("traceparent".into(), Vec::new())], ..job() }),
        ("headers", jobs::Options { headers: vec![("a:b".into(), Vec::new())], ..job() }),
    ] {
        let error = enqueue(&mut guest, "thumbs", "", options).unwrap_err();
        assert!(matches!(&error, jobs::Error::Invalid((found, _)) if found == field), "{field}: {error:?}");
    }
    for (field, key, when) in
        [("key", "", Moment::After(1)), ("run_at", "7", Moment::At(1_000)), ("when", "7", Moment::At(u64::MAX))]
    {
        let error = set(&mut guest, "reminders", key, when).unwrap_err();
        assert!(matches!(&error, timers::Error::Invalid((found, _)) if found == field), "{field}: {error:?}");
    }
    assert!(guest.effects.is_empty());
}

#[test]
fn messages_jobs_and_timers_of_one_attempt_are_bounded_together() {
    let (mut guest, _) = worker(|_| {});
    let large = "x".repeat(2_501);
    assert!(matches!(enqueue(&mut guest, "thumbs", &large, job()), Err(jobs::Error::TooMany(_))), "bytes");
    enqueue(&mut guest, "thumbs", &large[..2_400], job()).unwrap();
    let headers = vec![("x".repeat(100), Vec::new())];
    let error = enqueue(&mut guest, "thumbs", "x", jobs::Options { headers, ..job() });
    assert!(matches!(error, Err(jobs::Error::TooMany(_))), "bytes of headers, and of what came before");
    set(&mut guest, "reminders", "7", Moment::After(1)).unwrap();
    Arc::get_mut(&mut guest.version).unwrap().definition.allow.publish = vec![">".to_owned()];
    messaging::Host::publish(&mut guest, message("out.a", "")).unwrap();
    assert!(matches!(set(&mut guest, "reminders", "8", Moment::After(1)), Err(timers::Error::TooMany(_))), "number");
    assert!(matches!(enqueue(&mut guest, "thumbs", "", job()), Err(jobs::Error::TooMany(_))));
    assert!(matches!(messaging::Host::publish(&mut guest, message("out.a", "")), Err(messaging::Error::TooLarge(_))));
}

#[tokio::test]
async fn only_jobs_of_granted_queues_are_cancelled_and_the_answer_is_the_truth() {
    let (mut guest, fakes) = worker(|_| {});
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7().to_string());
    *fakes.answer.lock().unwrap() = Some(Cancelled::Asked);
    *fakes.known.lock().unwrap() = Some((id, "mail.secret"));
    let cancel = async |guest: &mut Guest, id: &str| jobs::Host::cancel(guest, id.to_owned()).await;
    let denied = cancel(&mut guest, &id.to_string()).await;
    assert!(matches!(&denied, Err(jobs::Error::Denied(why)) if why.contains("mail.secret")), "{denied:?}");
    assert!(matches!(cancel(&mut guest, &other).await, Ok(types::Cancelled::Unknown)));
    assert!(matches!(cancel(&mut guest, "7").await, Err(jobs::Error::Invalid((field, _))) if field == "id"));
    assert!(fakes.cancelled.lock().unwrap().is_empty());
    *fakes.known.lock().unwrap() = Some((id, "mail.welcome"));
    assert!(matches!(cancel(&mut guest, &id.to_string()).await, Ok(types::Cancelled::Asked)));
    assert_eq!(*fakes.cancelled.lock().unwrap(), [id.to_string()]);
    *fakes.answer.lock().unwrap() = None;
    assert!(matches!(cancel(&mut guest, &id.to_string()).await, Err(jobs::Error::Unavailable(_))));
    // One of this very attempt is let go of before anybody has heard of it.
    let mine = enqueue(&mut guest, "thumbs", "", job()).unwrap();
    assert!(matches!(cancel(&mut guest, &mine).await, Ok(types::Cancelled::Cancelled)));
    assert!(guest.effects.is_empty());
}

#[tokio::test]
async fn a_cancelled_timer_is_neither_in_the_store_nor_among_what_is_held_back() {
    let (mut guest, fakes) = worker(|_| {});
    set(&mut guest, "reminders", "7", Moment::After(1)).unwrap();
    set(&mut guest, "reminders", "7", Moment::After(2)).unwrap();
    set(&mut guest, "reminders", "8", Moment::After(3)).unwrap();
    let cancel = async |guest: &mut Guest, name: &str| timers::Host::cancel(guest, name.into(), "7".into()).await;
    assert!(matches!(cancel(&mut guest, "reminders").await, Err(timers::Error::Unavailable(_))));
    assert_eq!(guest.effects.events.len(), 3, "nothing was done");
    *fakes.answer.lock().unwrap() = Some(Cancelled::Unknown);
    assert!(matches!(cancel(&mut guest, "reminders").await, Ok(types::Cancelled::Cancelled)));
    assert_eq!(guest.effects.events.len(), 1);
    assert!(matches!(cancel(&mut guest, "reminders").await, Ok(types::Cancelled::Unknown)));
    *fakes.answer.lock().unwrap() = Some(Cancelled::Cancelled);
    assert!(matches!(cancel(&mut guest, "reminders").await, Ok(types::Cancelled::Cancelled)));
    assert!(matches!(cancel(&mut guest, "alarms").await, Err(timers::Error::Denied(_))));
    assert!(fakes.cancelled.lock().unwrap().iter().all(|what| what == "reminders/7"));
}

#[test]
fn progress_is_sent_to_whoever_wants_to_know() {
    let (mut guest, _) = worker(|_| {});
    let progress = |guest: &mut Guest, percent, note: &str| jobs::Host::progress(guest, percent, note.to_owned());
    progress(&mut guest, 50.0, "nobody listens").unwrap();
    let (sender, told) = tokio::sync::watch::channel(Progress::default());
    guest.served.as_mut().unwrap().progress = Some(sender);
    for wrong in [-1.0, 100.5, f32::NAN, f32::INFINITY] {
        let error = progress(&mut guest, wrong, "").unwrap_err();
        assert!(matches!(&error, jobs::Error::Invalid((field, _)) if field == "percent"), "{wrong}: {error:?}");
    }
    for wrong in ["a\nb", &"x".repeat(1025)] {
        let error = progress(&mut guest, 1.0, wrong).unwrap_err();
        assert!(matches!(&error, jobs::Error::Invalid((field, _)) if field == "note"), "{error:?}");
    }
    assert!(!told.has_changed().unwrap());
    progress(&mut guest, 12.5, "one of eight").unwrap();
    assert_eq!(*told.borrow(), Progress { percent: 12.5, note: "one of eight".to_owned() });
    assert!(guest.detail().is_none(), "a job that counts to a hundred leaves room for its other operations");
}
