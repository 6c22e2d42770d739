//! What an attempt used: time on a processor, calls of the host.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::fiber::Overran;
use super::guest::Guest;
use super::{HostCalls, HostOp};

/// The most operations by name that are told apart.
const MAX_OPERATIONS: usize = 64;

/// Time that this thread has had on a processor. Half a microsecond where the kernel is asked, as on most machines: too
/// much for a call of six.
pub(super) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A stretch of work on one thread.
pub(super) enum Stretch {
    /// By the thread's own clock.
    Exact(Duration),
    /// By the wall's: of what ends within a tick it is nearly the same, and costs next to nothing.
    Quick(Instant),
}

impl Stretch {
    pub(super) fn begin(exact: bool) -> Self {
        if exact { Stretch::Exact(thread_cpu()) } else { Stretch::Quick(Instant::now()) }
    }

    pub(super) fn end(self) -> Duration {
        match self {
            Stretch::Exact(began) => thread_cpu().saturating_sub(began),
            Stretch::Quick(began) => began.elapsed(),
        }
    }
}

/// A guest's call that keeps count of its time on a processor: it waits without being charged for it.
pub(super) struct Metered<F> {
    work: F,
    pub(super) spent: Duration,
    budget: Option<Duration>,
    /// Whoever computes for more than a tick may have been interrupted by others meanwhile.
    overran: Overran,
}

impl<F> Metered<F> {
    pub(super) fn new(work: F, budget: Option<Duration>, overran: Overran) -> Self {
        Self { work, spent: Duration::ZERO, budget, overran }
    }
}

impl<F: Future + Unpin> Future for Metered<F> {
    /// `None` where its budget is used up. A guest that computes is looked at once a tick.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let stretch = Stretch::begin(this.budget.is_some() || this.overran.load(Ordering::Relaxed));
        let poll = Pin::new(&mut this.work).poll(cx);
        this.spent += stretch.end();
        if this.budget.is_some_and(|budget| this.spent > budget) {
            return Poll::Ready(None);
        }
        poll.map(Some)
    }
}

impl Guest {
    /// Counts a call of the host.
    pub(super) fn count(&mut self, op: &HostOp) {
        let known = self.host_calls.iter().position(|calls| calls.op == op.op);
        let at = known.unwrap_or_else(|| {
            if self.host_calls.len() < MAX_OPERATIONS {
                self.host_calls.push(HostCalls { op: op.op.clone(), ..HostCalls::default() });
            }
            self.host_calls.len() - 1
        });
        let calls = &mut self.host_calls[at];
        calls.count += 1;
        calls.failed += u64::from(op.error.is_some());
        calls.duration_micros += op.duration_micros;
        calls.bytes += op.bytes;
        self.check_budget();
    }

    fn check_budget(&mut self) {
        let budget = &self.version.definition.budget;
        if !budget.counts_calls() {
            return;
        }
        let count = self.host_calls.iter().map(|calls| calls.count).sum();
        let bytes = self.host_calls.iter().map(|calls| calls.bytes).sum();
        let over = |what: &str, used: u64, budget: Option<u64>| {
            let budget = budget.filter(|budget| used > *budget)?;
            Some(format!("the guest used up its budget: {what} {used} of {budget}"))
        };
        let breach = over("host call", count, budget.host_calls);
        let breach = breach.or_else(|| over("host byte", bytes, budget.host_bytes));
        if let Some(breach) = breach {
            self.breach.get_or_insert(breach);
        }
    }
}
