//! The scheduler under many schedules, beside tokio-cron-scheduler: `cargo bench -p trigger-cron --bench cron`.
//!
//! Four figures: how late fires are handed over when all schedules are due each second, and what that costs; what
//! 100,000 schedules over an hour cost; how many bytes one takes; how long adding one takes. "Handed over" is the call
//! of the sink with all that is due; "as events" goes on through the real hand-over, with the event of each fire made
//! and given to a dispatch that counts.

#![expect(clippy::disallowed_methods, reason = "what is measured is how late the machine's clock shows that it is")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;
use trigger_core::{
    Accepted, Answer, Binding, BoxFuture, Cancelled, Clock, Dispatch, Gate, InvocationContext, Kind, Refused, Response,
    Shed, SkippedFire, Status, Trigger, TriggerContext, TriggerKind,
};
use trigger_cron::{Config, Cron, Due, Entry, Place, Progress, Scheduler, Sink};
use uuid::Uuid;

const SCHEDULES: usize = 100_000;

/// Counts the bytes that are in use.
struct Counting;

static BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: everything is the system allocator's; only sizes are counted.
#[expect(unsafe_code, reason = "an allocator that counts is the way to know what a schedule takes")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as i64, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as i64, Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.fetch_add(size as i64 - layout.size() as i64, Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How late fires were, in microseconds.
#[derive(Default)]
struct Late {
    us: Mutex<Vec<u32>>,
}

impl Late {
    fn note(&self, due_ms: i64, fires: usize) {
        let late = Utc::now().timestamp_micros() - due_ms * 1_000;
        let mut us = self.us.lock().unwrap();
        us.extend(std::iter::repeat_n(u32::try_from(late.max(0)).unwrap_or(u32::MAX), fires));
    }

    fn take(&self) -> Vec<u32> {
        let mut us = std::mem::take(&mut *self.us.lock().unwrap());
        us.sort_unstable();
        us
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn percentile(sorted: &[u32], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |us| f64::from(*us) / 1_000.0)
}

/// The processor time of this process.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 =
        stat.rsplit(") ").next().unwrap_or("").split(' ').skip(11).take(2).flat_map(str::parse::<u64>).sum();
    Duration::from_millis(ticks * 10)
}

/// Runs for some seconds; tells lateness, losses and the share of a core.
async fn measure(name: &str, late: &Late, seconds: u64, expected_a_second: usize) {
    // Begin between two seconds, so that every second counts whole.
    let into = Utc::now().timestamp_subsec_millis();
    tokio::time::sleep(Duration::from_millis(u64::from(1_500 - into))).await;
    late.take();
    let (before, began) = (processor(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let share = (processor() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let us = late.take();
    let expected = expected_a_second * seconds as usize;
    let lost = if expected > 0 {
        format!("{} lost of {expected}, ", expected.saturating_sub(us.len()))
    } else {
        String::new()
    };
    say(&format!(
        "{name}: {lost}{} fires, late p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms; {:.1} % of a core",
        us.len(),
        percentile(&us, 0.5),
        percentile(&us, 0.99),
        percentile(&us, 1.0),
        share * 100.0
    ));
}

/// Counts what it is given.
struct Counts(Arc<Late>);

impl Sink for Counts {
    type Trigger = ();

    async fn hand_over(&self, due: &mut [Due<()>], _now_ms: i64) {
        let mut rest = &mut *due;
        while let Some(first) = rest.first() {
            let due_ms = first.due_ms;
            let same = rest.iter().take_while(|one| one.due_ms == due_ms).count();
            self.0.note(due_ms, same);
            rest = &mut rest[same..];
        }
        for one in due {
            if let Some(instant) = one.instant() {
                one.made(instant);
            }
        }
    }
}

/// Schedules that are all due each second, in the sixty ways to say that.
fn each_second(number: usize) -> Config {
    let minute = number % 60;
    Config::new(format!("* 0-{minute},{minute}-59 * * * *").as_str(), "UTC")
}

/// Schedules of which each comes once an hour, spread over it.
fn each_hour(number: usize) -> Config {
    Config::new(format!("{} {} * * * *", number % 60, (number / 60) % 60).as_str(), "UTC")
}

async fn scheduler(clock: &Clock) {
    let cron = Cron::new();
    for (name, config, seconds, expected) in [
        ("handed over, all each second", each_second as fn(usize) -> Config, 10, SCHEDULES),
        ("handed over, over an hour", each_hour, 20, 0),
    ] {
        let late = Arc::new(Late::default());
        let scheduler = Scheduler::new(Counts(late.clone()));
        let configs: Vec<_> = (0..SCHEDULES).map(config).collect();
        let paths: Vec<_> = (0..SCHEDULES).map(|number| format!("default/function/trigger-{number}")).collect();
        let reached = Progress::from(Utc::now().timestamp() + 1);
        let mut places: Vec<Place<()>> = Vec::with_capacity(SCHEDULES);
        let (bytes, began) = (BYTES.load(Relaxed), Instant::now());
        for (config, path) in configs.iter().zip(&paths) {
            let plan = cron.plan(config).expect("the schedules are good");
            places.push(scheduler.enter(Entry::new(plan, path, 0, 0, ()), reached, clock));
        }
        let took = began.elapsed();
        let bytes = BYTES.load(Relaxed) - bytes;
        say(&format!(
            "added: {:.2} us and {} bytes a schedule",
            took.as_secs_f64() * 1e6 / SCHEDULES as f64,
            bytes / SCHEDULES as i64
        ));
        measure(name, &late, seconds, expected).await;
        for place in places {
            scheduler.leave(place, Duration::ZERO).await;
        }
    }
}

/// Counts events and keeps none.
struct CountingDispatch(Late, AtomicU64);

impl CountingDispatch {
    fn take(&self, invocation: &InvocationContext) -> Result<Accepted, Refused> {
        self.1.fetch_add(1, Relaxed);
        Ok(Accepted::new(invocation.invocation_id))
    }
}

impl Dispatch for CountingDispatch {
    fn dispatch(&self, _: InvocationContext) -> BoxFuture<'_, Answer> {
        Box::pin(async { Answer::Ok(Response::default()) })
    }

    fn accept(&self, invocation: InvocationContext) -> BoxFuture<'_, Result<Accepted, Refused>> {
        Box::pin(async move { self.take(&invocation) })
    }

    fn accept_all(&self, invocations: Vec<InvocationContext>) -> BoxFuture<'_, Vec<Result<Accepted, Refused>>> {
        if let Some(due) = invocations.first().and_then(|event| event.scheduled_at) {
            self.0.note(due.timestamp_millis(), invocations.len());
        }
        Box::pin(async move { invocations.iter().map(|invocation| self.take(invocation)).collect() })
    }

    fn cancel(&self, _: Uuid) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        Box::pin(async { Ok(Cancelled::Unknown) })
    }

    fn cancel_key(&self, _: &Binding, _: &str) -> BoxFuture<'_, Result<Cancelled, Refused>> {
        Box::pin(async { Ok(Cancelled::Unknown) })
    }

    fn cancel_live(&self, _: &Binding) -> BoxFuture<'_, Result<u64, Refused>> {
        Box::pin(async { Ok(0) })
    }

    fn cancel_others(&self, _: &Binding, _: &str) -> BoxFuture<'_, Result<u64, Refused>> {
        Box::pin(async { Ok(0) })
    }

    fn wait(&self, _: Uuid, _: Duration) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        Box::pin(async { Ok(None) })
    }

    fn skip_fires(&self, _: Vec<SkippedFire>) -> BoxFuture<'_, Result<(), Refused>> {
        Box::pin(async { Ok(()) })
    }

    fn paused(&self, _: &Binding) -> Option<Arc<str>> {
        None
    }

    fn set_gate(&self, _: &Binding, _: Gate) {}

    fn status(&self, _: Uuid) -> BoxFuture<'_, Result<Option<Status>, Refused>> {
        Box::pin(async { Ok(None) })
    }

    fn last_scheduled(&self, _: &Binding) -> BoxFuture<'_, Result<Option<DateTime<Utc>>, Refused>> {
        Box::pin(async { Ok(None) })
    }

    fn count_shed(&self, _: &Binding, _: Shed, _: u64) {}

    fn count_gap(&self, _: &Binding) {}
}

async fn events() {
    let cron = Cron::new();
    for count in [1_000, SCHEDULES] {
        let dispatch = Arc::new(CountingDispatch(Late::default(), AtomicU64::new(0)));
        let (shutdown, tasks) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
        for number in 0..count {
            let binding = Arc::new(Binding {
                namespace: "default".into(),
                function_name: "function".into(),
                trigger_id: format!("trigger-{number}").into(),
                trigger_type: Kind::Cron,
            });
            let cx = TriggerContext {
                clock: Clock::system(),
                binding: binding.clone(),
                dispatch: dispatch.clone(),
                credentials: Arc::new(trigger_core::testing::FakeCredentials::default()),
                shutdown: shutdown.clone(),
                tasks: tasks.clone(),
                health: tokio::sync::watch::channel(None).0,
            };
            let trigger = cron.bind(each_second(number), binding).await.expect("the schedules are good");
            tasks.spawn(trigger.run(cx));
        }
        measure(&format!("as events, {count} each second"), &dispatch.0, 10, count).await;
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

/// The same through tokio-cron-scheduler, where it can: it loses additions that come together, and fires beyond 200.
async fn theirs(count: usize) {
    let late = Arc::new(Late::default());
    let mut scheduler = JobScheduler::new().await.expect("it starts");
    let began = Instant::now();
    for _ in 0..count {
        let late = late.clone();
        let job = Job::new("* * * * * *", move |_, _| late.note(Utc::now().timestamp() * 1_000, 1));
        scheduler.add(job.expect("the schedule is good")).await.expect("it is added");
    }
    let took = began.elapsed();
    scheduler.start().await.expect("it starts");
    say(&format!("tokio-cron-scheduler, added: {:.2} us a schedule", took.as_secs_f64() * 1e6 / count as f64));
    measure(&format!("tokio-cron-scheduler, {count} each second"), &late, 10, count).await;
    scheduler.shutdown().await.expect("it stops");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(async {
        let clock = Clock::system();
        scheduler(&clock).await;
        events().await;
        theirs(1_000).await;
        theirs(5_000).await;
    });
}
