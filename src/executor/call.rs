//! One call of a guest: where it runs, how long it may, and what it came to.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use trigger_core::{BoxFuture, Failure, InvocationContext, Response};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

use super::account::{Metered, Stretch};
use super::compiled::{Compiled, Linked};
use super::entry::{Here, OnFiber};
use super::failure::{over_budget, timeout};
use super::fiber::Overran;
use super::guest::{Guest, lend};
use super::shelf::{Ready, Seat, Shelf};
use super::wasi::Wasi;
use super::{Attempt, Effects, command, component, http, messaging, reactor};

/// Ticks that a guest has on its caller's thread. Two are at least one whole one: the next tick may come at once.
const QUICK_TICKS: u64 = 2;

/// What became of a call.
pub(super) enum Ended {
    /// It was made.
    Done(Attempt),
    /// It computed for too long for this thread, which has sockets to look after; this much.
    Overran(Duration),
    /// There is no instance to be had.
    Crowded,
    /// The host panicked.
    Panicked,
}

/// How a call went.
pub(super) struct Called {
    /// When its instance was ready, if there was one.
    ready: Option<Instant>,
    /// The instance, if it may serve again.
    instance: Option<Ready>,
    outcome: Outcome,
}

impl Called {
    pub(super) fn new(ready: Instant, instance: Ready, outcome: Outcome) -> Self {
        Self { ready: Some(ready), instance: Some(instance), outcome }
    }

    /// Of a guest that runs once, by its nature.
    pub(super) fn once(ready: Instant, outcome: Outcome) -> Self {
        Self { ready: Some(ready), instance: None, outcome }
    }

    /// There was no instance to be called.
    pub(super) fn without_instance(outcome: Outcome) -> Self {
        Self { ready: None, instance: None, outcome }
    }

    /// Whether the pool was empty: of instances, or of stacks when the first function was called. The guest has not run.
    fn is_crowded(&self) -> bool {
        self.outcome.error().is_some_and(|error| error.is::<PoolConcurrencyLimitError>())
    }
}

/// What a call came to, by the guest's interface.
pub(super) enum Outcome {
    Component(wasmtime::Result<component::Returned>),
    Http(http::Returned),
    Messaging(wasmtime::Result<messaging::Returned>),
    Reactor(wasmtime::Result<reactor::Returned>),
    Command(wasmtime::Result<()>, MemoryOutputPipe),
}

impl Outcome {
    /// Why the call did not come to its end, if it did not.
    fn error(&self) -> Option<&wasmtime::Error> {
        match self {
            Outcome::Component(result) => result.as_ref().err(),
            Outcome::Http(returned) => returned.result.as_ref().err(),
            Outcome::Messaging(result) => result.as_ref().err(),
            Outcome::Reactor(result) => result.as_ref().err(),
            Outcome::Command(result, _) => result.as_ref().err(),
        }
    }

    /// What it means.
    fn answer(self, guest: &mut Guest) -> Result<Response, Failure> {
        match self {
            Outcome::Component(result) => component::answer(result, guest),
            Outcome::Http(returned) => http::answer(returned, guest),
            Outcome::Messaging(result) => messaging::answer(result, guest),
            Outcome::Reactor(result) => reactor::answer(result, guest),
            Outcome::Command(result, output) => command::answer(result, output, guest),
        }
    }
}

/// Calls a guest that cannot wait on this thread.
pub(super) fn here(compiled: &Compiled, guest: Guest, shelf: Option<&Shelf>, invocation: &InvocationContext) -> Ended {
    let (began, deadline) = (guest.began, guest.deadline);
    let exact = guest.version.definition.budget.cpu_ms.is_some();
    let kept = shelf.and_then(|shelf| shelf.take(&guest.version));
    let mut seat = Seat::take(kept, guest, &compiled.engine);
    seat.store.epoch_deadline_trap();
    seat.store.set_epoch_deadline(QUICK_TICKS);
    let stretch = Stretch::begin(exact);
    let called = lend(invocation, || {
        let mut call = || match &compiled.linked {
            Linked::Component { pre, handle } => {
                let before = seat.component();
                component::call::<Here>(&mut seat.store, pre, handle, before, invocation).now_or_never()
            }
            Linked::Messaging { pre, handle } => {
                let before = seat.component();
                messaging::call::<Here>(&mut seat.store, pre, handle, before, invocation).now_or_never()
            }
            Linked::Reactor { pre } => {
                let before = seat.reactor();
                reactor::call::<Here>(&mut seat.store, pre, before, &invocation.payload).now_or_never()
            }
            Linked::Http { .. } | Linked::Command { .. } | Linked::CommandComponent { .. } => None,
        };
        std::panic::catch_unwind(AssertUnwindSafe(|| call().expect("a guest that never waits")))
    });
    let Ok(called) = called else { return Ended::Panicked };
    let (ended, cpu) = (Instant::now(), stretch.end());
    if let Some(error) = called.outcome.error()
        && error.downcast_ref() == Some(&Trap::Interrupt)
        && ended < deadline
    {
        return Ended::Overran(ended - began);
    }
    if called.is_crowded() {
        return Ended::Crowded;
    }
    let times = Times { began, ready: called.ready, ended, cpu };
    let attempt = account(&mut seat.store, times, |guest| called.outcome.answer(guest));
    seat.leave(shelf, called.instance, attempt.result.is_ok());
    Ended::Done(attempt)
}

/// A call that owns what it needs, so that it can go to another thread.
pub(super) struct Call {
    pub(super) guest: Guest,
    /// Where its instance comes from and goes to, if it serves more than one attempt.
    pub(super) shelf: Option<Arc<Shelf>>,
    pub(super) overran: Overran,
}

pub(super) type Work = std::pin::Pin<Box<dyn Future<Output = Ended> + Send>>;

/// A call on a fiber.
type Calling<'a> = BoxFuture<'a, Called>;

impl Call {
    pub(super) fn begin(mut self, compiled: Arc<Compiled>, invocation: &InvocationContext) -> Work {
        let kept = self.shelf.as_ref().and_then(|shelf| shelf.take(&self.guest.version));
        let guest = &mut self.guest;
        if compiled.needs.wasi && kept.is_none() {
            match &compiled.linked {
                Linked::Reactor { .. } => guest.wasi = Some(Box::new(Wasi::reactor(guest))),
                Linked::Component { .. } | Linked::Messaging { .. } | Linked::Http { .. } => {
                    guest.wasi = Some(Box::new(Wasi::component(guest)));
                }
                // With the output that they are called with.
                Linked::Command { .. } | Linked::CommandComponent { .. } => {}
            }
        }
        match &compiled.linked {
            Linked::Component { .. } => {
                let invocation = Arc::new(invocation.clone());
                guest.invocation = Some(invocation.clone());
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Component { pre, handle } = &compiled.linked else { unreachable!("matched above") };
                        let before = seat.component();
                        component::call::<OnFiber>(&mut seat.store, pre, handle, before, &invocation).await
                    })
                })
            }
            Linked::Messaging { .. } => {
                let invocation = Arc::new(invocation.clone());
                guest.invocation = Some(invocation.clone());
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Messaging { pre, handle } = &compiled.linked else { unreachable!("matched above") };
                        let before = seat.component();
                        messaging::call::<OnFiber>(&mut seat.store, pre, handle, before, &invocation).await
                    })
                })
            }
            Linked::Http { .. } => {
                guest.invocation = compiled.needs.invocation.then(|| Arc::new(invocation.clone()));
                let (request, told) = (http::request(invocation), http::Told::of(invocation));
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Http { pre } = &compiled.linked else { unreachable!("matched above") };
                        let before = seat.proxy();
                        http::call(&mut seat.store, pre, before, request, told).await
                    })
                })
            }
            Linked::Reactor { .. } => {
                let payload = invocation.payload.clone();
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Reactor { pre } = &compiled.linked else { unreachable!("matched above") };
                        let before = seat.reactor();
                        reactor::call::<OnFiber>(&mut seat.store, pre, before, &payload).await
                    })
                })
            }
            Linked::Command { .. } => {
                let (wasi, output) = Wasi::command(guest, invocation.payload.clone());
                guest.wasi = Some(Box::new(wasi));
                self.guarded(None, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Command { pre } = &compiled.linked else { unreachable!("matched above") };
                        command::call(&mut seat.store, pre, output).await
                    })
                })
            }
            Linked::CommandComponent { .. } => {
                let (wasi, output) = Wasi::command_component(guest, invocation.payload.clone());
                guest.wasi = Some(Box::new(wasi));
                guest.invocation = compiled.needs.invocation.then(|| Arc::new(invocation.clone()));
                self.guarded(None, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::CommandComponent { pre } = &compiled.linked else { unreachable!("matched above") };
                        command::call_component(&mut seat.store, pre, output).await
                    })
                })
            }
        }
    }

    /// Runs `call` within the attempt's time, whatever it does.
    fn guarded<F>(self, kept: Option<Seat>, compiled: Arc<Compiled>, call: F) -> Work
    where
        F: for<'a> FnOnce(Arc<Compiled>, &'a mut Seat) -> Calling<'a> + Send + 'static,
    {
        let Self { guest, shelf, overran } = self;
        let (began, deadline) = (guest.began, guest.deadline);
        let definition = &guest.version.definition;
        let (seconds, budget) = (definition.timeout_seconds, definition.budget.cpu());
        let mut seat = Seat::take(kept, guest, &compiled.engine);
        let ticked = overran.clone();
        seat.store.set_epoch_deadline(QUICK_TICKS);
        seat.store.epoch_deadline_callback(move |_| {
            ticked.store(true, Ordering::Relaxed);
            Ok(if Instant::now() >= deadline { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        Box::pin(async move {
            let running = AssertUnwindSafe(call(compiled, &mut seat)).catch_unwind();
            let mut running = Metered::new(running, budget, overran);
            let finished = tokio::time::timeout_at(deadline.into(), &mut running).await;
            let cpu = running.spent;
            drop(running);
            let times = Times { began, ready: Some(began), ended: Instant::now(), cpu };
            let store = &mut seat.store;
            Ended::Done(match finished {
                Ok(Some(Ok(called))) if called.is_crowded() => return Ended::Crowded,
                Ok(Some(Ok(called))) => {
                    let times = Times { ready: called.ready, ..times };
                    let attempt = account(store, times, |guest| called.outcome.answer(guest));
                    seat.leave(shelf.as_deref(), called.instance, attempt.result.is_ok());
                    attempt
                }
                Ok(Some(Err(_))) => return Ended::Panicked,
                Ok(None) => account(store, times, |guest| Err(spent(guest))),
                // It waited too long for something; its store goes with it, and is never entered again.
                Err(_) => account(store, times, |_| Err(timeout(seconds))),
            })
        })
    }
}

/// When a call began, had its instance and ended, and its time on a processor.
struct Times {
    began: Instant,
    ready: Option<Instant>,
    ended: Instant,
    cpu: Duration,
}

/// The account of a call that is over.
fn account(
    store: &mut Store<Guest>,
    Times { began, ready, ended, cpu }: Times,
    answer: impl FnOnce(&mut Guest) -> Result<Response, Failure>,
) -> Attempt {
    let ready = ready.unwrap_or(ended);
    let max_fuel = store.data().version.definition.max_fuel;
    let fuel_used = max_fuel.map(|max| max - store.get_fuel().unwrap_or(max).min(max));
    let guest = store.data_mut();
    let result = answer(guest);
    let budget = guest.version.definition.budget.cpu();
    let result = match &guest.breach {
        Some(breach) => Err(over_budget(breach)),
        None if budget.is_some_and(|budget| cpu > budget) => Err(spent(guest)),
        None => result.map_err(|mut failure| {
            if let Cow::Owned(shown) = guest.logs.masks.hide(&failure.message) {
                failure.message = shown.into();
            }
            failure
        }),
    };
    Attempt {
        load: Duration::ZERO,
        instantiate: ready - began,
        run: ended - ready,
        cpu,
        fuel_used,
        memory_peak_bytes: guest.limits.memory_peak as u64,
        effects: if result.is_ok() { std::mem::take(&mut guest.effects) } else { Effects::default() },
        detail: guest.detail(),
        result,
    }
}

/// The guest computed for longer than its budget allows.
fn spent(guest: &Guest) -> Failure {
    let budget = guest.version.definition.budget.cpu_ms.unwrap_or_default();
    over_budget(&format!("the guest used up its budget: {budget} ms on a processor"))
}
