//! What guests are told and may do, at the host's side of the interfaces.

mod functions;
mod kv;
mod secrets;
mod sockets;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use trigger_core::{Binding, Custody, Headers, InvocationContext, TraceContext};
use uuid::Uuid;

use super::bindings::tripline::function::{environment, http_response, invocation, log, messaging};
use super::*;
use crate::executor::{Abi, Bounds, ModuleSlot};
use crate::functions::{Definition, Digest, Version};

fn guest(kind: Kind, change: impl FnOnce(&mut Definition), event: impl FnOnce(&mut InvocationContext)) -> Guest {
    let mut definition = Definition::new("shop", "orders");
    change(&mut definition);
    let slot = Arc::new(ModuleSlot::new(Digest([0; 32]), Abi::Component));
    let version = Arc::new(Version::new(Uuid::now_v7(), 7, Digest([0; 32]), definition, slot));
    let binding = Binding {
        namespace: "shop".into(),
        function_name: "orders".into(),
        trigger_id: "orders-in".into(),
        trigger_type: kind,
    };
    let mut invocation = InvocationContext::new(Arc::new(binding), Custody::Caller, Bytes::new());
    event(&mut invocation);
    let bounds = Bounds { max_message_bytes: 1000, max_effects: 3, max_effect_bytes: 2500, ..Bounds::default() };
    let mut guest = Guest::new(version, bounds, Instant::now() + Duration::from_secs(60));
    guest.invocation = Some(std::sync::Arc::new(invocation));
    guest
}

#[test]
fn a_guest_is_told_everything_about_its_invocation() {
    let (id, parent, due) = (Uuid::now_v7(), Uuid::now_v7(), Utc::now() - TimeDelta::seconds(5));
    let mut guest = guest(
        Kind::Pubsub,
        |_| {},
        |event| {
            event.invocation_id = id;
            event.request_id = Some("request-1".into());
            event.caller = Some("alice".into());
            event.idempotency_key = Some("key-1".into());
            event.depth = 2;
            event.parent = Some(parent);
            event.scheduled_at = Some(due);
            event.headers = Headers::List(vec![("X-One".into(), Bytes::from_static(b"\xff1"))]);
            event.attributes = vec![("stream".into(), "WORK".into()), ("sequence".into(), "17".into())];
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            event.trace = TraceContext::parse(parent, None).unwrap();
        },
    );
    use invocation::Host;
    assert_eq!(Host::request_id(&mut guest), "request-1");
    assert_eq!((Host::namespace(&mut guest), Host::function_name(&mut guest)), ("shop".into(), "orders".into()));
    assert_eq!((Host::version(&mut guest), Host::trigger_id(&mut guest)), (7, "orders-in".into()));
    assert_eq!(Host::caller(&mut guest).as_deref(), Some("alice"));
    assert_eq!(Host::idempotency_token(&mut guest), "key-1");
    assert_eq!((Host::depth(&mut guest), Host::parent(&mut guest)), (2, Some(parent.to_string())));
    assert_eq!(Host::scheduled_at(&mut guest), Some(due.timestamp_millis() as u64));
    assert!(Host::received_at(&mut guest) > 1_700_000_000_000);
    let remaining = Host::remaining(&mut guest);
    assert!((50_000..=60_000).contains(&remaining), "{remaining}");
    assert_eq!(Host::headers(&mut guest), [("X-One".to_owned(), b"\xff1".to_vec())]);
    assert_eq!(Host::header(&mut guest, "x-one".into()).as_deref(), Some(&b"\xff1"[..]));
    assert_eq!(Host::header(&mut guest, "x-two".into()), None);
    assert_eq!(Host::attribute(&mut guest, "sequence".into()).as_deref(), Some("17"));
    assert_eq!(Host::attributes(&mut guest).len(), 2);
    assert!(Host::traceparent(&mut guest).starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    std::sync::Arc::get_mut(guest.invocation.as_mut().unwrap()).unwrap().idempotency_key = None;
    assert_eq!(Host::idempotency_token(&mut guest), id.to_string(), "without a key it is the invocation's id");
}

#[test]
fn the_environment_is_the_definitions_and_nobody_elses() {
    let set = |definition: &mut Definition| {
        definition.env_vars.insert("SIZE".into(), "320".into());
    };
    let mut guest = guest(Kind::Cron, set, |_| {});
    assert_eq!(environment::Host::get(&mut guest, "SIZE".into()).as_deref(), Some("320"));
    assert!(std::env::var("PATH").is_ok());
    assert_eq!(environment::Host::get(&mut guest, "PATH".into()), None);
    assert_eq!(environment::Host::all(&mut guest), [("SIZE".to_owned(), "320".to_owned())]);
}

#[test]
fn log_lines_are_kept_up_to_their_limit() {
    let mut guest = guest(Kind::Cron, |definition| definition.max_log_lines = 2, |_| {});
    for (level, message) in [(log::Level::Warn, "one"), (log::Level::Error, "two"), (log::Level::Info, "three")] {
        log::Host::write(&mut guest, level, message.to_owned());
    }
    let detail = guest.detail().unwrap();
    let lines: Vec<_> = detail.logs.iter().map(|line| (line.level.as_ref(), line.message.as_str())).collect();
    assert_eq!(lines, [("warn", "one"), ("error", "two")]);
    assert!(detail.logs_truncated);
}

fn granted(grants: &[&str]) -> impl FnOnce(&mut Definition) {
    let grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
    move |definition| definition.allow.publish = grants
}

fn message(subject: &str, payload: &str) -> messaging::Message {
    messaging::Message { subject: subject.to_owned(), headers: Vec::new(), payload: payload.into() }
}

#[test]
fn subjects_that_are_not_granted_are_denied() {
    use messaging::{Error, Host};
    let mut nothing = guest(Kind::Cron, |_| {}, |_| {});
    assert!(
        matches!(Host::publish(&mut nothing, message("a", "")), Err(Error::Denied(why)) if why.contains("allow.publish"))
    );
    let mut some = guest(Kind::Cron, granted(&["thumbs.>", "*.done"]), |_| {});
    for subject in ["thumbs", "other.a.b", "a.b.done", "$JS.API.STREAM.DELETE.X"] {
        assert!(matches!(Host::publish(&mut some, message(subject, "")), Err(Error::Denied(_))), "{subject}");
    }
    for subject in ["", "a b", "thumbs.*", "thumbs..x", ">"] {
        assert!(matches!(Host::publish(&mut some, message(subject, "")), Err(Error::InvalidSubject(_))), "{subject}");
    }
    assert!(some.effects.is_empty());
    let detail = some.detail().unwrap();
    assert_eq!(detail.host_ops.len(), 9);
    assert!(detail.host_ops.iter().all(|op| op.op == "publish" && op.error.is_some()));
    let mut all = guest(Kind::Cron, granted(&[">"]), |_| {});
    assert!(Host::publish(&mut all, message("anything.else", "")).is_ok());
    assert!(
        Host::publish(&mut all, message("$JS.API.STREAM.DELETE.X", "")).is_err(),
        "a wildcard grants no server's own"
    );
}

#[test]
fn messages_are_kept_until_the_attempt_has_succeeded_and_carry_its_lineage() {
    use messaging::Host;
    let mut guest = guest(Kind::Http, granted(&["out.>"]), |event| event.depth = 4);
    let mut first = message("out.one", "1");
    first.headers = vec![("X-Kind".into(), b"test".to_vec()), ("Nats-Msg-Id".into(), b"7".to_vec())];
    Host::publish(&mut guest, first).unwrap();
    Host::publish_batch(&mut guest, vec![message("out.two", "2"), message("out.three", "3")]).unwrap();
    let invocation = guest.invocation.clone().unwrap();
    let subjects: Vec<&str> = guest.effects.messages.iter().map(|message| &*message.subject).collect();
    assert_eq!(subjects, ["out.one", "out.two", "out.three"]);
    for message in &guest.effects.messages {
        assert_eq!(message.headers.get_str("Tripline-Depth"), Some("5"));
        assert_eq!(message.headers.get_str("Tripline-Parent"), Some(&*invocation.invocation_id.to_string()));
        assert_eq!(message.headers.get_str("traceparent"), Some(&*invocation.trace.traceparent()));
    }
    assert_eq!(guest.effects.messages[0].headers.get_str("x-kind"), Some("test"));
}

#[test]
fn what_is_published_is_bounded_and_a_batch_is_all_or_nothing() {
    use messaging::{Error, Host};
    let mut guest = guest(Kind::Cron, granted(&["out.>"]), |_| {});
    let large = "x".repeat(1001);
    assert!(matches!(Host::publish(&mut guest, message("out.a", &large)), Err(Error::TooLarge(_))));
    let batch = vec![message("out.a", "1"), message("elsewhere", "2")];
    assert!(Host::publish_batch(&mut guest, batch).is_err());
    assert!(guest.effects.is_empty(), "none of a batch with a mistake");
    Host::publish_batch(&mut guest, vec![message("out.a", &large[..1000]), message("out.b", &large[..1000])]).unwrap();
    assert!(
        matches!(Host::publish(&mut guest, message("out.c", &large[..501])), Err(Error::TooLarge(_))),
        "bytes of all"
    );
    Host::publish(&mut guest, message("out.c", "")).unwrap();
    assert!(matches!(Host::publish(&mut guest, message("out.d", "")), Err(Error::TooLarge(_))), "number of all");
}

#[test]
fn headers_by_which_engines_and_servers_are_told_things_are_not_the_guests() {
    for (name, value) in [
        ("Tripline-Depth", "0"),
        ("traceparent", "00-00-00-00"),
        ("Nats-Rollup", "all"),
        ("", "x"),
        ("a:b", "x"),
        ("a b", "x"),
        ("X-One", "a\r\nb"),
    ] {
        let mut guest = guest(Kind::Cron, granted(&["out.>"]), |_| {});
        let mut message = message("out.one", "");
        message.headers = vec![(name.to_owned(), value.into())];
        assert!(matches!(messaging::Host::publish(&mut guest, message), Err(messaging::Error::Denied(_))), "{name:?}");
    }
}

#[test]
fn a_guest_sets_status_and_headers_of_an_http_answer_only() {
    use http_response::Host;
    let mut http = guest(Kind::Http, |_| {}, |_| {});
    Host::set(&mut http, 201, vec![("x-a".into(), "1".into()), ("x-a".into(), "2".into())]).unwrap();
    let parts = http.http.as_ref().unwrap();
    assert_eq!((parts.status.as_u16(), parts.headers.get_all("x-a").iter().count()), (201, 2));
    for (status, name, value) in [(99, "x", ""), (101, "x", ""), (600, "x", ""), (200, "a b", ""), (200, "x", "a\nb")] {
        assert!(Host::set(&mut http, status, vec![(name.into(), value.into())]).is_err(), "{status} {name:?}");
    }
    assert!(Host::set(&mut http, 200, vec![("x".into(), "y".repeat(MAX_RESPONSE_HEADER_BYTES))]).is_err());
    let mut cron = guest(Kind::Cron, |_| {}, |_| {});
    Host::set(&mut cron, 201, Vec::new()).unwrap();
    assert!(cron.http.is_none());
}

#[test]
fn host_operations_are_kept_up_to_their_limit() {
    let mut guest = guest(Kind::Http, |_| {}, |_| {});
    for _ in 0..crate::executor::MAX_HOST_OPS + 1 {
        http_response::Host::set(&mut guest, 200, Vec::new()).unwrap();
    }
    let detail = guest.detail().unwrap();
    assert_eq!((detail.host_ops.len(), detail.host_ops_truncated), (crate::executor::MAX_HOST_OPS, true));
}
