//! The time that a caller has for a request's headers, at the cost of one timer per connection.
//!
//! hyper asks for a new timer for every request and drops it as soon as the headers are there. With tokio's timers each
//! of those is an allocation and two passes through the timer wheel's lock, for a timer that nearly never fires. Here a
//! request only notes its deadline; the connection has one real timer, which looks at the note when it fires and is set
//! anew if the deadline has moved meanwhile.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The note: shared by hyper's end and the connection's.
#[derive(Debug, Default)]
struct Deadline {
    /// Locked for a read or a write of one value, never across an await; contended only by its own connection.
    at: Mutex<Option<Instant>>,
    passed: AtomicBool,
}

impl Deadline {
    fn set(&self, at: Option<Instant>) {
        self.passed.store(false, Ordering::Relaxed);
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// hyper's end.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadTimer(Arc<Deadline>);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.set(Some(deadline));
        Box::pin(Noted(self.0.clone()))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Every sleep reads the same note. (The provided method would make a new one and then drop the old, which erases
    /// the note that the new one made.)
    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.0.set(Some(new_deadline));
    }
}

/// A noted deadline: ready once the connection's alarm says so. It registers no waker, since the alarm wakes the one
/// task that polls both.
struct Noted(Arc<Deadline>);

impl Future for Noted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.passed.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Sleep for Noted {}

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// The connection's end: to be polled before hyper's connection, by the same task.
pub(super) struct Alarm {
    deadline: Arc<Deadline>,
    timeout: Duration,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Alarm {
    pub(super) fn new(timer: &HeadTimer, timeout: Duration) -> Self {
        Self { deadline: timer.0.clone(), timeout, timer: Box::pin(tokio::time::sleep(timeout)) }
    }

    /// Lets hyper's timer fire if its deadline has passed, and arranges to be woken when it next may have.
    ///
    /// The timer is never set later than the noted deadline: one noted while the timer runs is `timeout` from then, and
    /// the timer is at most `timeout` from before.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = tokio::time::Instant::now();
            let next = match self.deadline.at() {
                Some(at) if at <= now.into_std() => {
                    self.deadline.passed.store(true, Ordering::Relaxed);
                    return;
                }
                Some(at) => at.into(),
                None => now + self.timeout,
            };
            self.timer.as_mut().reset(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::poll_fn;
    use tokio::time::advance;

    const TIMEOUT: Duration = Duration::from_secs(10);

    async fn fired(alarm: &mut Alarm, sleep: &mut Pin<Box<dyn Sleep>>) -> bool {
        poll_fn(|cx| {
            alarm.poll(cx);
            Poll::Ready(sleep.as_mut().poll(cx).is_ready())
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_fires_when_it_has_passed_and_not_before() {
        let timer = HeadTimer::default();
        let mut alarm = Alarm::new(&timer, TIMEOUT);
        for _request in 0..5 {
            advance(Duration::from_secs(7)).await;
            let mut sleep = timer.sleep(TIMEOUT);
            assert!(!fired(&mut alarm, &mut sleep).await);
            advance(Duration::from_secs(9)).await;
            assert!(!fired(&mut alarm, &mut sleep).await, "the headers came in time");
        }
        advance(Duration::from_secs(60)).await;
        let mut sleep = timer.sleep(TIMEOUT);
        assert!(!fired(&mut alarm, &mut sleep).await, "a long request is no slow header");
        advance(Duration::from_millis(9_998)).await;
        assert!(!fired(&mut alarm, &mut sleep).await);
        let begun = tokio::time::Instant::now();
        poll_fn(|cx| {
            alarm.poll(cx);
            sleep.as_mut().poll(cx)
        })
        .await;
        assert!(begun.elapsed() <= Duration::from_millis(4), "the task is woken for it: {:?}", begun.elapsed());

        let later = timer.now() + TIMEOUT;
        timer.reset(&mut sleep, later);
        assert!(!fired(&mut alarm, &mut sleep).await, "a deadline that was moved has not passed");
        advance(TIMEOUT + Duration::from_millis(1)).await;
        assert!(fired(&mut alarm, &mut sleep).await);
    }
}
