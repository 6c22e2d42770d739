//! Calls of other functions at the host's side: grants, what is handed on, what is held back.

use std::sync::{Mutex, OnceLock, Weak};

use trigger_core::{Answer, BoxFuture, Failure, FailureCode, Response};

use super::super::bindings::tripline::function::functions::{Error, Host, Options};
use super::*;
use crate::executor::guest::Served;
use crate::executor::{Functions, Services};

/// There are `shop.resize` and `other.mail`; what is called answers its payload, or fails if that is `fail`.
#[derive(Default)]
struct Called(Mutex<Vec<InvocationContext>>);

impl Functions for Called {
    fn event(&self, namespace: &str, name: &str, custody: Custody, payload: Bytes) -> Option<InvocationContext> {
        let known = [("shop", "resize"), ("other", "mail")].contains(&(namespace, name));
        let binding = Binding {
            namespace: namespace.into(),
            function_name: name.into(),
            trigger_id: "invoke".into(),
            trigger_type: Kind::Job,
        };
        known.then(|| InvocationContext::new(Arc::new(binding), custody, payload))
    }

    fn invoke(&self, event: InvocationContext, _deadline: Instant) -> BoxFuture<'_, Answer> {
        let answer = match &event.payload[..] {
            b"fail" => Answer::Failed(Failure::new(FailureCode::GuestError, "no")),
            _ => Answer::Ok(Response::from(event.payload.clone())),
        };
        self.0.lock().unwrap().push(event);
        Box::pin(async move { answer })
    }
}

fn caller(grants: &[&str]) -> (Guest, Arc<Called>) {
    let called = Arc::new(Called::default());
    let functions: Arc<OnceLock<Weak<dyn Functions>>> = Arc::default();
    let weak: Weak<Called> = Arc::downgrade(&called);
    assert!(functions.set(weak).is_ok());
    let grants: Vec<String> = grants.iter().map(|grant| (*grant).to_owned()).collect();
    let mut guest = guest(Kind::Job, |definition| definition.allow.invoke = grants, |event| event.depth = 2);
    guest.serve(Served::new(Arc::new(Services { functions, ..Services::default() }), None));
    (guest, called)
}

fn options() -> Options {
    Options { content_type: Some("text/plain".into()), headers: Vec::new() }
}

async fn invoke(guest: &mut Guest, function: &str, payload: &str) -> Result<Vec<u8>, Error> {
    Host::invoke(guest, function.to_owned(), payload.into(), options()).await
}

#[tokio::test]
async fn functions_that_are_not_granted_are_denied_by_name() {
    let (mut guest, called) = caller(&["resize", "gone", "other.*"]);
    for function in ["thumbs", "mail", "another.mail", "shop.thumbs"] {
        let Err(Error::Denied(why)) = invoke(&mut guest, function, "").await else { panic!("{function}") };
        assert_eq!(why, format!("the definition does not grant {function:?}: add it to functions.orders.allow.invoke"));
        let held = Host::invoke_async(&mut guest, function.to_owned(), Vec::new(), options());
        assert!(matches!(held, Err(Error::Denied(_))));
    }
    for function in ["", "*", "shop.*", "a b"] {
        assert!(matches!(invoke(&mut guest, function, "").await, Err(Error::Invalid(_))), "{function:?}");
    }
    assert!(matches!(invoke(&mut guest, "gone", "").await, Err(Error::UnknownFunction(_))));
    assert!(called.0.lock().unwrap().is_empty() && guest.effects.is_empty());
    assert_eq!(invoke(&mut guest, "resize", "a").await.unwrap(), b"a");
    assert_eq!(invoke(&mut guest, "shop.resize", "b").await.unwrap(), b"b");
    assert_eq!(invoke(&mut guest, "other.mail", "c").await.unwrap(), b"c");
}

#[tokio::test]
async fn a_call_says_who_calls_and_its_failure_is_told() {
    let (mut guest, called) = caller(&["resize"]);
    let Err(Error::Failed(failed)) = invoke(&mut guest, "resize", "fail").await else { panic!("it failed") };
    assert_eq!((failed.code.as_str(), failed.message.as_str(), failed.retryable), ("guest_error", "no", true));
    let event = called.0.lock().unwrap().remove(0);
    let own = guest.invocation.as_ref().unwrap();
    assert_eq!((event.depth, event.parent), (3, Some(own.invocation_id)));
    assert_eq!((event.trace.trace_id, event.trace.parent_span), (own.trace.trace_id, own.trace.span_id));
    assert_eq!((event.caller.as_deref(), event.custody), (Some("function:shop.orders"), Custody::Caller));
    let op = &guest.detail().unwrap().host_ops[0];
    assert_eq!(
        (op.op.as_ref(), op.target.as_str(), op.error.as_deref()),
        ("invoke", "resize", Some("guest_error: no"))
    );
}

#[test]
fn a_call_without_an_answer_is_held_back_with_the_other_effects() {
    let (mut guest, called) = caller(&["*"]);
    let id = Host::invoke_async(&mut guest, "resize".into(), b"later".to_vec(), options()).unwrap();
    let event = &guest.effects.events[0];
    assert_eq!((event.invocation_id.to_string(), event.custody, event.depth), (id, Custody::Engine, 3));
    assert!(called.0.lock().unwrap().is_empty());
    let large = Host::invoke_async(&mut guest, "resize".into(), vec![0; 2500], options());
    assert!(matches!(large, Err(Error::TooMany(_))));
    let headers = vec![("Tripline-Depth".to_owned(), b"0".to_vec())];
    let lying = Host::invoke_async(&mut guest, "resize".into(), Vec::new(), Options { headers, ..options() });
    assert!(matches!(lying, Err(Error::Invalid((field, _))) if field == "headers"));
}
