//! Triggers that come and go while requests arrive: never a moment without a route.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures_util::poll;
use serde_json::json;
use tokio::sync::Notify;
use trigger_core::testing::{FakeDispatch, eventually};
use trigger_core::{Answer, Kind, Response, Trigger as _};
use trigger_http::Routes;

use crate::support::{ask, bind, in_time, request, run, spawn};

/// A dispatch that answers with its name.
fn named(name: &str) -> Arc<FakeDispatch> {
    let name = Bytes::from(name.to_owned());
    FakeDispatch::new(move |_| Answer::Ok(Response::from(name.clone())))
}

async fn who(routes: &Routes, method: &str, uri: &str) -> String {
    let reply = ask(routes, request(method, uri, &[], "")).await;
    if reply.status == 200 { String::from_utf8(reply.body.to_vec()).unwrap() } else { reply.status.to_string() }
}

#[tokio::test]
async fn of_two_triggers_the_newer_answers_until_it_stops() {
    let routes = Routes::default();
    let (old, new) = (named("old"), named("new"));
    let (old_cx, new_cx) = (old.context(Kind::Http, "a"), new.context(Kind::Http, "a"));
    let old_bound = bind(&routes, &old_cx, json!({ "path": "/f/{id}" })).await;
    let mut old_run = pin!(old_bound.run(old_cx.clone()));
    assert!(poll!(&mut old_run).is_pending());
    assert_eq!(who(&routes, "GET", "/f/1").await, "old");

    // Another name, another method set, another kind of parameter: still the same paths.
    let new_bound = bind(&routes, &new_cx, json!({ "path": "/f/{*number}", "method": ["GET"] })).await;
    assert_eq!(who(&routes, "GET", "/f/1").await, "old", "bound is not running");
    let mut new_run = pin!(new_bound.run(new_cx.clone()));
    assert!(poll!(&mut new_run).is_pending());
    assert_eq!(who(&routes, "GET", "/f/1").await, "new");
    assert_eq!(who(&routes, "POST", "/f/1").await, "old", "the newer does not claim POST");

    new_cx.shutdown.cancel();
    in_time("the newer to stop", new_run).await.unwrap();
    assert_eq!(who(&routes, "GET", "/f/1").await, "old", "the older is uncovered");
    old_cx.shutdown.cancel();
    in_time("the older to stop", old_run).await.unwrap();
    assert_eq!(who(&routes, "GET", "/f/1").await, "404");
}

#[tokio::test]
async fn the_newer_stays_when_the_older_stops() {
    let routes = Routes::default();
    let old = run(&routes, &named("old"), "a", json!({ "path": "/f" })).await;
    assert_eq!(who(&routes, "GET", "/f").await, "old");
    let new = named("new");
    let cx = new.context(Kind::Http, "a");
    let bound = bind(&routes, &cx, json!({ "path": "/f" })).await;
    let mut running = pin!(bound.run(cx));
    assert!(poll!(&mut running).is_pending());
    old.stop().await;
    assert_eq!(who(&routes, "GET", "/f").await, "new");
}

#[tokio::test]
async fn a_request_between_the_old_and_the_new_waits_for_the_new() {
    let routes = Routes::default();
    let old = run(&routes, &named("old"), "a", json!({ "path": "/f" })).await;
    let new = named("new");
    let cx = new.context(Kind::Http, "a");
    let bound = bind(&routes, &cx, json!({ "path": "/f" })).await;
    old.stop().await;
    let mut asking = pin!(who(&routes, "GET", "/f"));
    assert!(poll!(&mut asking).is_pending(), "there is no route, and one is about to be");
    let mut running = pin!(bound.run(cx));
    assert!(poll!(&mut running).is_pending());
    assert_eq!(asking.await, "new");
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_never_runs_holds_nobody_for_long() {
    let routes = Routes::default();
    let cx = named("late").context(Kind::Http, "a");
    let bound = bind(&routes, &cx, json!({ "path": "/f" })).await;
    let since = tokio::time::Instant::now();
    assert_eq!(who(&routes, "GET", "/f").await, "404");
    assert_eq!(since.elapsed().as_secs(), 1);
    drop(bound);
    assert_eq!(who(&routes, "GET", "/f").await, "404");
    assert_eq!(since.elapsed().as_secs(), 1, "what was given up is not waited for");
}

#[tokio::test]
async fn a_trigger_that_is_dropped_leaves_no_route_behind() {
    let routes = Routes::default();
    let cx = named("dropped").context(Kind::Http, "a");
    let mut running = Box::pin(bind(&routes, &cx, json!({ "path": "/f" })).await.run(cx));
    assert!(poll!(&mut running).is_pending());
    assert_eq!(who(&routes, "GET", "/f").await, "dropped");
    drop(running);
    assert_eq!(who(&routes, "GET", "/f").await, "404");
}

#[tokio::test]
async fn a_trigger_ends_when_its_last_request_is_answered() {
    let gate = Arc::new(Notify::new());
    let opens = gate.clone();
    let dispatch = FakeDispatch::new_async(move |_| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.notified().await;
            Answer::Ok(Response::from(Bytes::from_static(b"late")))
        })
    });
    let routes = Routes::default();
    let cx = dispatch.context(Kind::Http, "a");
    let mut running = pin!(bind(&routes, &cx, json!({ "path": "/f" })).await.run(cx.clone()));
    assert!(poll!(&mut running).is_pending());
    let mut asking = pin!(who(&routes, "GET", "/f"));
    assert!(poll!(&mut asking).is_pending());
    cx.shutdown.cancel();
    assert!(poll!(&mut running).is_pending(), "a request is in flight");
    assert_eq!(who(&routes, "GET", "/f").await, "404", "and no other begins");
    opens.notify_one();
    assert_eq!(asking.await, "late");
    assert!(matches!(poll!(&mut running), Poll::Ready(Ok(()))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_request_notices_a_reload() {
    let routes = Routes::default();
    let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let echo = FakeDispatch::echo();
    let mut current = run(&routes, &echo, "a", json!({ "path": "/f/{id}" })).await;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (routes, done, asked) = (routes.clone(), done.clone(), asked.clone());
            spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let reply = ask(&routes, request("POST", "/f/1", &[], "payload")).await;
                    assert_eq!((reply.status, &reply.body[..]), (200, &b"payload"[..]));
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for reload in 0..200 {
        // Started, not waited for: the old one may well be gone before the new one is polled.
        let path = if reload % 2 == 0 { "/f/{name}" } else { "/f/{*rest}" };
        let new = run(&routes, &echo, "a", json!({ "path": path })).await;
        std::mem::replace(&mut current, new).stop().await;
    }
    let after = asked.load(Ordering::SeqCst);
    eventually("traffic after the last reload", || asked.load(Ordering::SeqCst) > after + 10).await;
    done.store(true, Ordering::SeqCst);
    for caller in callers {
        in_time("a caller to end", caller).await.unwrap();
    }
    current.stop().await;
    assert_eq!(echo.seen().len(), asked.load(Ordering::SeqCst));
}
