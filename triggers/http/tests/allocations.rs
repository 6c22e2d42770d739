//! What one request costs in allocations, from the routing table to the response: a ceiling that a careless `clone`
//! breaks before a benchmark notices. Alone in its binary, since it replaces the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::{
    Accepted, Answer, Binding, BoxFuture, Cancelled, Clock, Dispatch, Gate, InvocationContext, Kind, Refused, Response,
    Shed, SkippedFire, Status, Trigger, TriggerContext, TriggerKind,
};
use trigger_http::{Http, Routes};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; this one only counts")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echoes, and keeps nothing.
struct Echo;

impl Dispatch for Echo {
    fn dispatch(&self, invocation: InvocationContext) -> BoxFuture<'_, Answer> {
        Box::pin(std::future::ready(Answer::Ok(Response::from(invocation.payload))))
    }

    fn accept(&self, _: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>> {
        unreachable!("no route here is asynchronous")
    }

    fn accept_all(&self, _: Vec<InvocationContext>) -> BoxFuture<'_, Vec<Result<Accepted, Refused>>> {
        unreachable!("no route here is asynchronous")
    }

    fn cancel(&self, _: uuid::Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        unreachable!("nothing is taken back")
    }

    fn cancel_key(&self, _: &Binding, _: &str) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        unreachable!("nothing is taken back")
    }

    fn cancel_live(&self, _: &Binding) -> BoxFuture<'_, Result<u64, Refused>> {
        unreachable!("nothing is taken back")
    }

    fn cancel_others(&self, _: &Binding, _: &str) -> BoxFuture<'_, Result<u64, Refused>> {
        unreachable!("nothing is taken back")
    }

    fn wait(&self, _: uuid::Uuid, _: Duration) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        unreachable!("nobody waits")
    }

    fn skip_fires(&self, _: Vec<SkippedFire>) -> BoxFuture<'_, Result<(), Refused>> {
        unreachable!("no schedule here")
    }

    fn paused(&self, _: &Binding) -> Option<Arc<str>> {
        None
    }

    fn set_gate(&self, _: &Binding, _: Gate) {}

    fn status(&self, _: uuid::Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        unreachable!("nobody asks")
    }

    fn last_scheduled(&self, _: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>> {
        unreachable!("no schedule here")
    }

    fn count_shed(&self, _: &Binding, _: Shed, _: u64) {}

    fn count_gap(&self, _: &Binding) {}
}

async fn table() -> Routes {
    let routes = Routes::default();
    let kind = Http::new(routes.clone());
    let binding = Arc::new(Binding {
        namespace: "default".into(),
        function_name: "function".into(),
        trigger_id: "trigger".into(),
        trigger_type: Kind::Http,
    });
    let config = serde_json::from_value(serde_json::json!({ "path": "/orders/{id}" })).unwrap();
    let bound = kind.bind(config, binding.clone()).await.unwrap();
    let cx = TriggerContext {
        binding,
        dispatch: Arc::new(Echo),
        credentials: Arc::new(trigger_core::testing::FakeCredentials::default()),
        clock: Clock::system(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
        health: tokio::sync::watch::channel(None).0,
    };
    TaskTracker::new().spawn(bound.run(cx));
    tokio::task::yield_now().await;
    routes
}

fn request(path: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"{\"quantity\": 3}")));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("example.test"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// Allocations of one request after everything that is made once has been made.
async fn cost(routes: &Routes, path: &'static str) -> usize {
    let mut least = usize::MAX;
    for _ in 0..5 {
        let request = request(path);
        let before = COUNT.get();
        let response = routes.handle(request).await;
        least = least.min(COUNT.get() - before);
        drop(response);
    }
    least
}

#[tokio::test]
async fn a_request_stays_under_its_ceiling() {
    let routes = table().await;
    let found = cost(&routes, "/orders/7").await;
    // The dispatch's own future (1); the boxed headers, the subject, the content type (3); the attributes' list, the
    // values of method, path, host and one parameter, the parameter's name (6); the response's map, id, timing (4).
    assert!(found <= 14, "a request costs {found} allocations");
    let missing = cost(&routes, "/nowhere").await;
    assert!(missing <= 6, "a refusal costs {missing} allocations");
}
