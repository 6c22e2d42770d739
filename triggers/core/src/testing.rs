//! A dispatch for adapters' tests: remembers every event and answers as told. And credentials that are known ahead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    Accepted, Answer, Binding, BoxFuture, Cancelled, Clock, Credentials, Dispatch, Gate, InvocationContext, Kind,
    Refused, Response, Shed, SkippedFire, Status, Token, TriggerContext,
};

type Respond = Box<dyn Fn(InvocationContext) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Answers every event with a closure and keeps what it was given.
pub struct FakeDispatch {
    respond: Respond,
    seen: Mutex<Vec<InvocationContext>>,
    accepted: Mutex<Vec<InvocationContext>>,
    /// When set, `accept` refuses.
    pub refuse: Mutex<Option<Refused>>,
    /// What `status` answers.
    pub status: Mutex<Option<Status>>,
    /// What `last_scheduled` answers.
    pub last_scheduled: Mutex<Option<DateTime<Utc>>>,
    /// What `paused` answers.
    pub paused: Mutex<Option<Arc<str>>>,
    /// What `cancel`, `cancel_key` and `cancel_live` answer.
    pub cancelled: Mutex<Option<Cancelled>>,
    shed: Mutex<Vec<(Shed, u64)>>,
    skipped_fires: Mutex<Vec<SkippedFire>>,
    gates: Mutex<Vec<(Binding, Gate)>>,
}

impl FakeDispatch {
    /// Answers with what the (immediate) closure returns.
    pub fn new(respond: impl Fn(&InvocationContext) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Self::new_async(move |invocation| {
            let answer = respond(&invocation);
            Box::pin(async move { answer })
        })
    }

    /// Answers with what the future returns.
    pub fn new_async(
        respond: impl Fn(InvocationContext) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            respond: Box::new(respond),
            seen: Mutex::default(),
            accepted: Mutex::default(),
            refuse: Mutex::default(),
            status: Mutex::default(),
            last_scheduled: Mutex::default(),
            paused: Mutex::default(),
            cancelled: Mutex::default(),
            shed: Mutex::default(),
            skipped_fires: Mutex::default(),
            gates: Mutex::default(),
        })
    }

    /// Echoes the payload.
    pub fn echo() -> Arc<Self> {
        Self::new(|invocation| Answer::Ok(Response::from(invocation.payload.clone())))
    }

    /// Every event dispatched so far.
    pub fn seen(&self) -> Vec<InvocationContext> {
        self.seen.lock().expect("no test panics while holding it").clone()
    }

    /// Every event accepted so far.
    pub fn accepted(&self) -> Vec<InvocationContext> {
        self.accepted.lock().expect("no test panics while holding it").clone()
    }

    /// Every count of shed events so far.
    pub fn shed(&self) -> Vec<(Shed, u64)> {
        self.shed.lock().expect("no test panics while holding it").clone()
    }

    /// Every fire that was skipped so far.
    pub fn skipped_fires(&self) -> Vec<SkippedFire> {
        self.skipped_fires.lock().expect("no test panics while holding it").clone()
    }

    /// Every gate that was set so far.
    pub fn gates(&self) -> Vec<(Binding, Gate)> {
        self.gates.lock().expect("no test panics while holding it").clone()
    }

    /// A context for a trigger that dispatches here.
    pub fn context(self: &Arc<Self>, kind: Kind, trigger_id: &str) -> TriggerContext {
        TriggerContext {
            binding: Arc::new(Binding {
                namespace: "default".into(),
                function_name: "function".into(),
                trigger_id: trigger_id.into(),
                trigger_type: kind,
            }),
            dispatch: self.clone(),
            credentials: Arc::new(FakeCredentials::default()),
            clock: Clock::system(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            health: tokio::sync::watch::channel(None).0,
        }
    }
}

impl Dispatch for FakeDispatch {
    fn dispatch(&self, invocation: InvocationContext) -> BoxFuture<'_, Answer> {
        self.seen.lock().expect("no test panics while holding it").push(invocation.clone());
        (self.respond)(invocation)
    }

    fn accept(&self, invocation: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>> {
        Box::pin(async move {
            if let Some(refused) = self.refuse.lock().expect("no test panics while holding it").clone() {
                return Err(refused);
            }
            let mut accepted = self.accepted.lock().expect("no test panics while holding it");
            let earlier = accepted.iter().find(|one| {
                one.idempotency_key.is_some()
                    && one.idempotency_key == invocation.idempotency_key
                    && one.binding == invocation.binding
            });
            if let Some(earlier) = earlier {
                let said = |one: &InvocationContext| one.terms.as_ref().and_then(|terms| terms.fingerprint);
                let differs = said(earlier) != said(&invocation);
                return Ok(Accepted { differs, ..Accepted::before(earlier.invocation_id) });
            }
            let invocation_id = invocation.invocation_id;
            accepted.push(invocation);
            Ok(Accepted::new(invocation_id))
        })
    }

    fn accept_all(&self, invocations: Vec<InvocationContext>) -> BoxFuture<'_, Vec<Result<Accepted, Refused>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(invocations.len());
            for invocation in invocations {
                answers.push(self.accept(invocation).await);
            }
            answers
        })
    }

    fn cancel(&self, _invocation_id: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        let cancelled = *self.cancelled.lock().expect("no test panics while holding it");
        Box::pin(async move { Ok(cancelled.unwrap_or(Cancelled::Unknown)) })
    }

    fn cancel_key(&self, _binding: &Binding, _unique_key: &str) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        self.cancel(Uuid::nil())
    }

    fn cancel_live(&self, _binding: &Binding) -> BoxFuture<'_, Result<u64, Refused>> {
        let cancelled = *self.cancelled.lock().expect("no test panics while holding it");
        Box::pin(async move { Ok(u64::from(cancelled == Some(Cancelled::Cancelled))) })
    }

    fn cancel_others(&self, binding: &Binding, _unique_key: &str) -> BoxFuture<'_, Result<u64, Refused>> {
        self.cancel_live(binding)
    }

    fn wait(&self, invocation_id: Uuid, _at_most: Duration) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        self.status(invocation_id)
    }

    fn skip_fires(&self, skipped: Vec<SkippedFire>) -> BoxFuture<'_, Result<(), Refused>> {
        self.skipped_fires.lock().expect("no test panics while holding it").extend(skipped);
        Box::pin(async { Ok(()) })
    }

    fn paused(&self, _binding: &Binding) -> Option<Arc<str>> {
        self.paused.lock().expect("no test panics while holding it").clone()
    }

    fn set_gate(&self, binding: &Binding, gate: Gate) {
        self.gates.lock().expect("no test panics while holding it").push((binding.clone(), gate));
    }

    fn status(&self, _invocation_id: Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        let status = self.status.lock().expect("no test panics while holding it").clone();
        Box::pin(async move { Ok(status) })
    }

    fn last_scheduled(&self, _binding: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>> {
        let last = *self.last_scheduled.lock().expect("no test panics while holding it");
        Box::pin(async move { Ok(last) })
    }

    fn count_shed(&self, _binding: &Binding, reason: Shed, events: u64) {
        self.shed.lock().expect("no test panics while holding it").push((reason, events));
    }

    fn count_gap(&self, _binding: &Binding) {}
}

/// Knows what it was made with, and no more.
#[derive(Default)]
pub struct FakeCredentials {
    /// Secrets by name.
    pub secrets: Mutex<HashMap<String, Arc<str>>>,
    /// Tokens as they are presented.
    pub tokens: Mutex<HashMap<String, Arc<Token>>>,
    /// When set, nobody knows whether a token is good.
    pub refuse: Mutex<Option<Refused>>,
    /// Documents by their addresses; the others do not answer.
    pub documents: Mutex<HashMap<String, Bytes>>,
    /// How often one was asked for.
    pub fetches: Mutex<usize>,
}

impl Credentials for FakeCredentials {
    fn secret(&self, name: &str) -> Option<Arc<str>> {
        self.secrets.lock().expect("no test panics while holding it").get(name).cloned()
    }

    fn token<'a>(&'a self, presented: &'a str) -> BoxFuture<'a, Result<Option<Arc<Token>>, Refused>> {
        let answer = match self.refuse.lock().expect("no test panics while holding it").clone() {
            Some(refused) => Err(refused),
            None => Ok(self.tokens.lock().expect("no test panics while holding it").get(presented).cloned()),
        };
        Box::pin(async move { answer })
    }

    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, String>> {
        *self.fetches.lock().expect("no test panics while holding it") += 1;
        let document = self.documents.lock().expect("no test panics while holding it").get(url).cloned();
        Box::pin(async move { document.ok_or_else(|| "it does not answer".to_owned()) })
    }
}

/// Waits until `condition` holds, for at most ten seconds of real time.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited ten seconds for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A payload for tests that do not care.
pub fn payload() -> Bytes {
    Bytes::from_static(b"payload")
}
