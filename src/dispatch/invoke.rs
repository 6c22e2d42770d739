//! Calls of one function by another.
//!
//! Their events come in by a trigger that nobody writes: `invoke`, of the kind `job`. One that its caller waits for runs
//! in the caller's place: it takes no slot of the engine that the caller, which only waits, has one of already. What it
//! does take (a place among nested attempts, and its own function's slots) it takes at once or not at all. So nobody
//! ever waits for what one of its own callers holds.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;
use trigger_core::{Answer, Binding, BoxFuture, Custody, InvocationContext, Kind, Shed, SkipReason};

use super::Dispatcher;
use super::running::Running;
use crate::executor::Functions;

/// What the trigger of such events is called.
const TRIGGER: &str = "invoke";

impl Functions for Dispatcher {
    fn event(&self, namespace: &str, name: &str, custody: Custody, payload: Bytes) -> Option<InvocationContext> {
        self.registry.route(namespace, name)?;
        let binding = Binding {
            namespace: namespace.into(),
            function_name: name.into(),
            trigger_id: TRIGGER.into(),
            trigger_type: Kind::Job,
        };
        Some(InvocationContext::arrived_at(Arc::new(binding), custody, payload, self.now()))
    }

    fn invoke(&self, event: InvocationContext, deadline: Instant) -> BoxFuture<'_, Answer> {
        let this = self.arc();
        // A task of its own: the caller waits on the stack of its guest, which is not for others to use.
        let nested = self.tasks.spawn(async move { this.dispatch_nested(event, deadline).await });
        let nested = AbortOnDropHandle::new(nested);
        Box::pin(async move { nested.await.unwrap_or(Answer::Cancelled) })
    }
}

impl Dispatcher {
    async fn dispatch_nested(&self, invocation: InvocationContext, deadline: Instant) -> Answer {
        let target = self.target(&invocation.binding);
        let mut running = Running::new(self, target.counters, invocation);
        let Some(route) = target.route else {
            return running.skipped(SkipReason::Disabled);
        };
        if running.invocation.depth > self.settings.max_depth {
            let failure = self.too_deep(&running.invocation);
            return running.failed(failure);
        }
        let Some(slot) = self.slots.try_nested(&route.slots) else {
            return running.shed(Shed::Overload);
        };
        let now = self.now();
        let pass = match route.breaker.enter(now) {
            Ok(pass) => pass,
            Err(open) => return running.shed_for(Shed::CircuitOpen, open.wait(now)),
        };
        running.version = Some(route.version.load_full());
        running.deadline = Some(deadline);
        match self.attempt(&mut running, (slot, pass), None).await {
            None => running.cancelled(),
            Some(Ok(response)) => running.ok(response),
            Some(Err(failure)) => running.failed(failure),
        }
    }
}
