//! One call of a guest: where it runs, how long it may, and what it came to.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use trigger_core::{BoxFuture, Failure, InvocationContext, Response};
use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

use super::account::{Metered, Stretch};
use super::compiled::{Compiled, Linked};
use super::failure::{over_budget, panicked, timeout};
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
}

/// Calls a guest that cannot wait on this thread.
pub(super) fn here(
    compiled: &Compiled,
    (pre, handle): (&InstancePre<Guest>, &ComponentExportIndex),
    guest: Guest,
    shelf: Option<&Shelf>,
    invocation: &InvocationContext,
) -> Ended {
    let (began, deadline) = (guest.began, guest.deadline);
    let exact = guest.version.definition.budget.cpu_ms.is_some();
    let kept = shelf.and_then(|shelf| shelf.take(&guest.version));
    let mut seat = Seat::take(kept, guest, &compiled.engine);
    let instance = seat.component();
    let store = &mut seat.store;
    store.epoch_deadline_trap();
    store.set_epoch_deadline(QUICK_TICKS);
    let stretch = Stretch::begin(exact);
    let called = lend(invocation, || {
        let call = || component::call(store, pre, handle, instance, invocation);
        std::panic::catch_unwind(AssertUnwindSafe(call))
    });
    let Ok(called) = called else { return Ended::Done(Attempt::failed(panicked())) };
    let (ended, cpu) = (Instant::now(), stretch.end());
    if let Err(error) = &called.result
        && error.downcast_ref() == Some(&Trap::Interrupt)
        && ended < deadline
    {
        return Ended::Overran(ended - began);
    }
    if is_crowded(&called.result) {
        return Ended::Crowded;
    }
    let times = Times { began, ready: called.ready, ended, cpu };
    let attempt = account(store, times, |guest| component::answer(called.result, guest));
    seat.leave(shelf, called.instance.map(Ready::Component), attempt.result.is_ok());
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

impl Call {
    pub(super) fn begin(mut self, compiled: Arc<Compiled>, invocation: &InvocationContext) -> Work {
        let kept = self.shelf.as_ref().and_then(|shelf| shelf.take(&self.guest.version));
        match &compiled.linked {
            Linked::Component { .. } => {
                if compiled.needs.wasi && kept.is_none() {
                    self.guest.wasi = Some(Box::new(Wasi::component(&mut self.guest)));
                }
                self.guest.invocation = Some(Box::new(invocation.clone()));
                let invocation = Box::new(invocation.clone());
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Component { pre, handle } = &compiled.linked else { unreachable!("matched above") };
                        let instance = seat.component();
                        let called = component::call_async(&mut seat.store, pre, handle, instance, &invocation).await;
                        Finish {
                            ready: called.ready,
                            crowded: is_crowded(&called.result),
                            instance: called.instance.map(Ready::Component),
                            answer: Box::new(|guest| component::answer(called.result, guest)),
                        }
                    })
                })
            }
            Linked::Messaging { .. } => {
                if compiled.needs.wasi && kept.is_none() {
                    self.guest.wasi = Some(Box::new(Wasi::component(&mut self.guest)));
                }
                self.guest.invocation = compiled.needs.invocation.then(|| Box::new(invocation.clone()));
                let invocation = Box::new(invocation.clone());
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Messaging { pre, handle } = &compiled.linked else { unreachable!("matched above") };
                        let instance = seat.component();
                        let called = messaging::call(&mut seat.store, pre, handle, instance, &invocation).await;
                        Finish {
                            ready: called.ready,
                            crowded: is_crowded(&called.result),
                            instance: called.instance.map(Ready::Component),
                            answer: Box::new(|guest| messaging::answer(called.result, guest)),
                        }
                    })
                })
            }
            Linked::Http { .. } => {
                if kept.is_none() {
                    self.guest.wasi = Some(Box::new(Wasi::component(&mut self.guest)));
                }
                self.guest.invocation = compiled.needs.invocation.then(|| Box::new(invocation.clone()));
                let (request, told) = (http::request(invocation), http::Told::of(invocation));
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Http { pre } = &compiled.linked else { unreachable!("matched above") };
                        let proxy = seat.proxy();
                        let mut called = http::call(&mut seat.store, pre, proxy, request).await;
                        Finish {
                            ready: called.ready,
                            crowded: is_crowded(&called.result),
                            instance: called.instance.take().map(Ready::Http),
                            answer: Box::new(move |guest| http::answer(called, guest, told)),
                        }
                    })
                })
            }
            Linked::Reactor { .. } => {
                if compiled.needs.wasi && kept.is_none() {
                    self.guest.wasi = Some(Box::new(Wasi::reactor(&self.guest)));
                }
                let payload = invocation.payload.clone();
                self.guarded(kept, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Reactor { pre } = &compiled.linked else { unreachable!("matched above") };
                        let instance = seat.reactor();
                        let called = reactor::call(&mut seat.store, pre, instance, &payload).await;
                        Finish {
                            ready: called.ready,
                            crowded: is_crowded(&called.result),
                            instance: called.instance.map(Ready::Reactor),
                            answer: Box::new(|guest| reactor::answer(called.result, guest)),
                        }
                    })
                })
            }
            Linked::Command { .. } => {
                let (wasi, output) = Wasi::command(&self.guest, invocation.payload.clone());
                self.guest.wasi = Some(Box::new(wasi));
                self.guarded(None, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::Command { pre } = &compiled.linked else { unreachable!("matched above") };
                        let (ready, result) = command::call(&mut seat.store, pre).await;
                        ran(ready, result, output)
                    })
                })
            }
            Linked::CommandComponent { .. } => {
                let (wasi, output) = Wasi::command_component(&mut self.guest, invocation.payload.clone());
                self.guest.wasi = Some(Box::new(wasi));
                self.guest.invocation = compiled.needs.invocation.then(|| Box::new(invocation.clone()));
                self.guarded(None, compiled, move |compiled, seat| {
                    Box::pin(async move {
                        let Linked::CommandComponent { pre } = &compiled.linked else { unreachable!("matched above") };
                        let (ready, result) = command::call_component(&mut seat.store, pre).await;
                        ran(ready, result, output)
                    })
                })
            }
        }
    }

    /// Runs `call` within the attempt's time, whatever it does.
    fn guarded<F>(self, kept: Option<Seat>, compiled: Arc<Compiled>, call: F) -> Work
    where
        F: for<'a> FnOnce(Arc<Compiled>, &'a mut Seat) -> BoxFuture<'a, Finish> + Send + 'static,
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
                Ok(Some(Ok(finish))) if finish.crowded => return Ended::Crowded,
                Ok(Some(Ok(finish))) => {
                    let attempt = account(store, Times { ready: finish.ready, ..times }, finish.answer);
                    seat.leave(shelf.as_deref(), finish.instance, attempt.result.is_ok());
                    attempt
                }
                Ok(Some(Err(_))) => Attempt::failed(panicked()),
                Ok(None) => account(store, times, |guest| Err(spent(guest))),
                // It waited too long for something; its store goes with it, and is never entered again.
                Err(_) => account(store, times, |_| Err(timeout(seconds))),
            })
        })
    }
}

/// How a command's call went.
fn ran(ready: Option<Instant>, result: wasmtime::Result<()>, output: MemoryOutputPipe) -> Finish {
    Finish {
        ready,
        crowded: is_crowded(&result),
        // It runs once, by its nature.
        instance: None,
        answer: Box::new(move |guest| command::answer(result, output, guest)),
    }
}

/// What a call's end means.
type Meaning = Box<dyn FnOnce(&mut Guest) -> Result<Response, Failure> + Send>;

/// How a call went, before its meaning is known.
struct Finish {
    ready: Option<Instant>,
    /// Whether the pool was empty.
    crowded: bool,
    /// The instance, if there was one and it may serve again.
    instance: Option<Ready>,
    answer: Meaning,
}

/// Whether the pool was empty: of instances, or of stacks when the first function was called. The guest has not run.
fn is_crowded<T>(result: &wasmtime::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.is::<PoolConcurrencyLimitError>())
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
