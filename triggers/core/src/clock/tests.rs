//! Sleepers on a virtual clock, and sleeps on a wall clock that is set.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::FutureExt as _;
use futures_util::task::noop_waker_ref;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

fn start() -> DateTime<Utc> {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    start() + TimeDelta::seconds(seconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn standing() -> (Clock, Arc<VirtualTime>) {
    let clock = Clock::standing_at(start());
    let time = clock.virtual_time().unwrap().clone();
    (clock, time)
}

/// Polls once.
fn ready<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> bool {
    future.poll(&mut std::task::Context::from_waker(noop_waker_ref())).is_ready()
}

#[test]
fn a_virtual_clock_stands_still_until_it_is_moved_and_never_goes_back() {
    let (clock, time) = standing();
    assert_eq!(clock.now(), start());
    assert_eq!(clock.ago(secs(5)), start(), "no time has passed while something ran");
    assert_eq!(time.step(at(7)), Ok(Step::Moved(at(7))));
    assert_eq!(time.step(at(7)), Ok(Step::There));
    assert_eq!(time.step(at(6)), Err(Backwards { now: at(7), to: at(6) }));
    assert_eq!((clock.now(), clock.after(secs(1))), (at(7), at(8)));
    assert_eq!(clock.after(Duration::MAX), DateTime::<Utc>::MAX_UTC);
}

#[test]
fn nothing_moves_while_something_is_under_way() {
    let (clock, time) = standing();
    let one = clock.busy(|| "an attempt of orders".to_owned());
    let other = clock.busy(|| "an attempt of orders".to_owned());
    assert_eq!(time.step(at(1)), Ok(Step::Busy));
    assert_eq!(time.busy(), [("an attempt of orders".to_owned(), 2)]);
    let mut quiet = std::pin::pin!(time.quiet());
    drop(one);
    assert!(!ready(quiet.as_mut()));
    drop(other);
    assert!(ready(quiet.as_mut()));
    assert_eq!(time.step(at(1)), Ok(Step::Moved(at(1))));
}

#[test]
fn a_sleeper_is_under_way_but_while_it_sleeps() {
    let (clock, time) = standing();
    let mut sleeper = clock.sleeper(|| "cron".to_owned());
    assert_eq!(time.step(at(1)), Ok(Step::Busy), "it has not looked at the clock yet");
    {
        let mut sleep = std::pin::pin!(sleeper.until(Some(at(60))));
        assert_eq!(time.step(at(1)), Ok(Step::Busy), "not asleep before it is polled");
        assert!(!ready(sleep.as_mut()));
        assert_eq!(time.step(at(100)), Ok(Step::Moved(at(60))));
        assert_eq!(time.step(at(100)), Ok(Step::Busy), "due, and not polled yet");
        assert!(ready(sleep.as_mut()));
        assert_eq!(time.step(at(100)), Ok(Step::Busy), "it does what was due");
    }
    assert!(sleeper.until(Some(at(60))).now_or_never().is_some(), "that moment has come");
    assert!(sleeper.until(None).now_or_never().is_none());
    assert_eq!(time.step(at(100)), Ok(Step::Busy), "woken by something else, it looks");
    drop(sleeper);
    assert_eq!(time.step(at(100)), Ok(Step::Moved(at(100))));
}

#[test]
fn who_was_called_is_under_way_before_it_is_polled() {
    let (clock, time) = standing();
    let wake = Wake::new(&clock, "the queue");
    let mut sleeper = clock.sleeper(|| "loop".to_owned());
    let mut woken = Box::pin(wake.armed());
    let mut sleep = Box::pin(sleeper.until(Some(at(60))));
    assert!(!ready(woken.as_mut()) && !ready(sleep.as_mut()));
    wake.wake();
    wake.wake();
    assert_eq!(time.step(at(1)), Ok(Step::Busy));
    assert_eq!(time.busy(), [("the queue".to_owned(), 1)]);
    assert!(ready(woken.as_mut()));
    drop((woken, sleep));
    let woken = wake.armed();
    assert_eq!(time.busy(), [("loop".to_owned(), 1)], "it looks now");
    assert!(woken.now_or_never().is_some(), "the second call came while nobody looked, and may be about something new");
    assert!(wake.armed().now_or_never().is_none());
}

#[test]
fn no_stop_is_made_for_the_background() {
    let (clock, time) = standing();
    let mut sleeper = clock.background(|| "removing old rows".to_owned());
    let mut sleep = std::pin::pin!(sleeper.pause(secs(60)));
    assert!(!ready(sleep.as_mut()));
    assert_eq!(time.next(), None);
    assert_eq!(time.step(at(600)), Ok(Step::Moved(at(600))));
    assert!(ready(sleep.as_mut()), "but it is not forgotten");
}

proptest! {
    /// Whoever sleeps wakes at its moment and no other; whoever stopped sleeping is not stopped for.
    #[test]
    fn the_clock_goes_from_one_due_moment_to_the_next(
        sleeps in prop::collection::vec((1i64..50, any::<bool>()), 0..20),
        target in 0i64..60,
    ) {
        let (clock, time) = standing();
        let mut asleep = Vec::new();
        for (moment, stays) in sleeps {
            let mut sleep = Box::pin(clock.sleep_until(at(moment)));
            prop_assert!(!ready(sleep.as_mut()));
            if stays {
                asleep.push((moment, sleep));
            }
        }
        let mut due: BTreeSet<i64> = asleep.iter().map(|(moment, _)| *moment).filter(|moment| *moment <= target).collect();
        due.insert(target);
        let mut stops = Vec::new();
        while let Step::Moved(now) = time.step(at(target)).unwrap() {
            let now = (now - start()).num_seconds();
            stops.push(now);
            prop_assert_eq!(time.busy().iter().map(|(_, count)| *count).sum::<usize>(),
                asleep.iter().filter(|(moment, _)| *moment == now).count());
            for (moment, sleep) in &mut asleep {
                prop_assert_eq!(ready(sleep.as_mut()), *moment == now);
            }
            asleep.retain(|(moment, _)| *moment != now);
        }
        due.remove(&0);
        prop_assert_eq!(stops, due.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(time.busy(), vec![]);
        // Dropped when it is due and has not been polled, too.
        time.step(at(1_000)).unwrap();
        drop(asleep);
        prop_assert_eq!(time.busy(), vec![]);
    }
}

/// A wall clock that runs with tokio's and can be set.
fn wall() -> (Clock, Arc<AtomicI64>) {
    let began = Instant::now();
    let set_by = Arc::new(AtomicI64::new(0));
    let by = set_by.clone();
    let read = move || start() + began.elapsed() + TimeDelta::seconds(by.load(Ordering::SeqCst));
    (Clock::reading(Arc::new(read)), set_by)
}

#[tokio::test(start_paused = true)]
async fn a_sleep_until_a_moment_goes_by_the_wall_clock_however_it_is_set() {
    let (clock, set_by) = wall();
    let began = Instant::now();
    let mut sleep = std::pin::pin!(clock.sleep_until(at(3_600)));
    assert!((&mut sleep).now_or_never().is_none());
    set_by.store(3_550, Ordering::SeqCst);
    sleep.await;
    assert!(began.elapsed() >= secs(50) && began.elapsed() <= secs(51), "suspended: {:?}", began.elapsed());

    let (clock, set_by) = wall();
    let began = Instant::now();
    let mut sleep = std::pin::pin!(clock.sleep_until(at(20)));
    assert!((&mut sleep).now_or_never().is_none());
    set_by.store(-100, Ordering::SeqCst);
    sleep.await;
    assert!(began.elapsed() >= secs(120), "set back: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_loop_on_a_wall_clock_looks_again_within_the_horizon() {
    let (clock, set_by) = wall();
    let mut sleeper = clock.sleeper(|| unreachable!("only a virtual clock asks"));
    for (moment, slept) in [(Some(at(10)), 10), (Some(at(3_600)), 30), (None, 30), (Some(at(0)), 0)] {
        let began = Instant::now();
        sleeper.until(moment).await;
        assert_eq!(began.elapsed().as_secs(), slept, "{moment:?}");
    }
    let now = clock.now();
    let began = Instant::now();
    let mut sleep = std::pin::pin!(sleeper.until(Some(now + secs(10))));
    assert!((&mut sleep).now_or_never().is_none());
    set_by.store(-31_536_000, Ordering::SeqCst);
    sleep.await;
    assert_eq!(began.elapsed().as_secs(), 40, "set back by a year it does not sleep for a year");
    assert_eq!(clock.ago(secs(5)), clock.now() - secs(5));
}
