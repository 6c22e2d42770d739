//! Where a guest that may wait or take long runs: it begins on its caller's thread, and goes to threads of its own at
//! the first tick that finds it still computing.
//!
//! Yielding at every tick would not be enough: a runtime looks at its sockets after so many polls, and polls that take
//! a tick each let the listener wait for a third of a second. Threads of their own, which give way to the others, leave
//! that to the kernel.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// How much the guests' threads give way to the engine's (Unix niceness).
const NICENESS: i32 = 5;

/// Set by the clock when it finds a guest computing.
pub(super) type Overran = Arc<AtomicBool>;

/// The threads for guests that take long. They start when the first such guest comes.
#[derive(Default)]
pub(super) struct GuestThreads {
    runtime: OnceLock<Option<Runtime>>,
}

impl GuestThreads {
    fn get(&self) -> Option<&Runtime> {
        let start = || {
            Builder::new_multi_thread()
                .worker_threads(std::thread::available_parallelism().map_or(1, usize::from))
                .thread_name("guest")
                .enable_all()
                .on_thread_start(|| {
                    // On Linux niceness belongs to a thread, and "this process" is the calling one.
                    let _ = rustix::process::setpriority_process(None, NICENESS);
                })
                .build()
                .inspect_err(|error| {
                    tracing::warn!("cannot start threads for guests, they share the engine's: {error}")
                })
                .ok()
        };
        self.runtime.get_or_init(start).as_ref()
    }

    /// Runs `work` to its end, moving it once it overran. Dropping the future ends the work at its next tick.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: Pin<Box<dyn Future<Output = T> + Send>>,
        overran: &Overran,
        at_once: bool,
    ) -> Option<T> {
        let mut work = work;
        if !at_once {
            let early = poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if overran.load(Ordering::Relaxed) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            if let Some(output) = early.await {
                return Some(output);
            }
        }
        match self.get() {
            Some(threads) => AbortOnDropHandle::new(threads.spawn(work)).await.ok(),
            None => Some(work.await),
        }
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take().flatten() {
            // Dropped where nothing may block; what runs there ends at its next tick.
            runtime.shutdown_background();
        }
    }
}
