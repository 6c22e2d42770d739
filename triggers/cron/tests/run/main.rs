//! The trigger at work, on tokio's paused clock.

mod policies;
mod support;

use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use trigger_core::testing::FakeDispatch;
use trigger_core::{Custody, Kind, Problems, Trigger, TriggerKind, display_path};
use trigger_cron::{Clock, Config, Cron};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn fires_come_at_their_instants() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30.250Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(29)).await;
    assert_eq!(store.times(), Vec::<String>::new(), "nothing comes early, and nothing at the start");
    sleep(secs(125)).await;
    assert_eq!(store.times(), ["15T12:01:00", "15T12:02:00", "15T12:03:00"]);
    for index in 0..3 {
        assert_eq!(store.late(index), TimeDelta::zero());
    }
    assert_eq!(node.health(), None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_says_when_it_was_due_and_what_it_is() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let mut cx = store.fake.context(Kind::Cron, "nightly");
    cx.dispatch = store.clone();
    let config = Config::new("0 3 * * MON-FRI", "Europe/Paris");
    let trigger = Cron::with_clock(wall.clock()).bind(config, cx.binding.clone()).await.unwrap();
    let tasks = TaskTracker::new();
    let running = trigger.run(cx.clone());
    tasks.spawn(async move { running.await.unwrap() });
    sleep(secs(4 * 24 * 60 * 60)).await;
    let events = store.fake.accepted();
    let event = &events[0];
    let due = at("2026-05-18T01:00:00Z");
    assert_eq!(event.scheduled_at, Some(due));
    assert_eq!(event.received_at, due);
    assert_eq!(event.idempotency_key.as_deref(), Some("2026-05-18T01:00:00Z"));
    assert_eq!(event.custody, Custody::Engine);
    assert_eq!(&*event.subject, "nightly");
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.binding, cx.binding);
    assert_eq!(
        serde_json::from_slice::<Value>(&event.payload).unwrap(),
        json!({
            "scheduled_at": "2026-05-18T01:00:00Z",
            "fired_at": "2026-05-18T01:00:00.000Z",
            "schedule": "0 3 * * MON-FRI",
            "timezone": "Europe/Paris",
            "missed": 0,
            "cause": "due",
        })
    );
    cx.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_fire_that_another_node_has_is_no_error() {
    let store = Store::new();
    let wall = WallClock::from("2026-05-15T12:00:30Z");
    let ahead = WallClock::from("2026-05-15T12:00:30.400Z");
    let one = Node::start("* * * * *", wall.clock(), &store).await;
    let other = Node::start("* * * * *", ahead.clock(), &store).await;
    sleep(secs(180)).await;
    assert_eq!(store.offered.load(SeqCst), 6, "each node offered each instant once");
    let expected = ["15T12:01:00", "15T12:02:00", "15T12:03:00"].map(|time| (time.to_owned(), 0));
    assert_eq!(store.fires(), expected, "and each instant has one fire");
    assert_eq!((one.health(), other.health()), (None, None));
    one.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_fire_is_offered_until_it_is_taken() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:59Z"), Store::new());
    let node = Node::start("0 * * * *", wall.clock(), &store).await;
    sleep(secs(58 * 60)).await;
    store.goes_away();
    assert_eq!(node.health(), None, "a store that is away hurts nobody while nothing is due");
    sleep(secs(11 * 60)).await;
    assert!(node.health().unwrap().contains("the store is away"));
    let offered = store.offered.load(SeqCst);
    assert!((120..=250).contains(&offered), "offered {offered} times in ten minutes, at most every 2.5 to 5 seconds");
    store.returns();
    sleep(secs(5)).await;
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 0)]);
    assert!(store.late(0) >= TimeDelta::minutes(9), "{}", store.late(0));
    assert_eq!(node.health(), None);
    sleep(secs(60 * 60)).await;
    assert_eq!(store.times(), ["15T13:00:00", "15T14:00:00"]);

    sleep(secs(50 * 60 - 15)).await;
    store.goes_away();
    let offered = store.offered.load(SeqCst);
    sleep(Duration::from_millis(13_500)).await;
    let offers = store.offered.load(SeqCst) - offered;
    assert!(offers >= 4, "the next outage begins with short waits again, yet {offers} offers came in 2.5 seconds");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn instants_that_pass_while_the_store_is_away_are_counted_and_not_run() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(60)).await;
    store.goes_away();
    sleep(secs(290)).await;
    store.returns();
    sleep(secs(5)).await;
    assert_eq!(store.fires(), [("15T12:01:00".to_owned(), 0), ("15T12:06:00".to_owned(), 4)]);
    sleep(secs(60)).await;
    assert_eq!(store.fires()[2], ("15T12:07:00".to_owned(), 0), "the count begins anew with each fire");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn instants_that_another_node_ran_meanwhile_are_not_missed() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(31)).await;
    store.recorded("2026-05-15T12:09:00Z");
    wall.set_by(TimeDelta::minutes(9));
    sleep(secs(30)).await;
    assert_eq!(store.fires(), [("15T12:01:00".to_owned(), 0), ("15T12:10:00".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_at_the_start_costs_no_fire() {
    let (wall, store) = (WallClock::from("2026-05-15T12:59:50Z"), Store::new());
    store.recorded("2026-05-15T12:00:00Z");
    store.goes_away();
    let node = Node::start("0 * * * *", wall.clock(), &store).await;
    sleep(secs(60)).await;
    assert!(node.health().unwrap().contains("the store is away"));
    store.returns();
    sleep(secs(5)).await;
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 0)]);
    assert_eq!(node.health(), None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_fires_nothing_twice() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(155)).await;
    wall.set_by(TimeDelta::minutes(-2));
    sleep(secs(150)).await;
    assert_eq!(store.times(), ["15T12:01:00", "15T12:02:00", "15T12:03:00"]);
    assert_eq!(store.offered.load(SeqCst), 3, "the store was not even asked");
    sleep(secs(60)).await;
    assert_eq!(store.times()[3..], ["15T12:04:00"]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_while_waiting_does_not_fire_early() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(20)).await;
    wall.set_by(TimeDelta::seconds(-45));
    sleep(secs(50)).await;
    assert_eq!(store.times(), Vec::<String>::new(), "it is 12:00:55");
    sleep(secs(6)).await;
    assert_eq!(store.times(), ["15T12:01:00"]);
    assert_eq!(store.late(0), TimeDelta::zero());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_corrected_by_a_year_goes_on_from_its_new_time() {
    let (wall, store) = (WallClock::from("2027-05-15T12:00:30Z"), Store::new());
    let node = Node::start("0 * * * *", wall.clock(), &store).await;
    sleep(secs(1)).await;
    wall.set_by(TimeDelta::days(-365));
    sleep(secs(60 * 60)).await;
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 0)]);
    assert_eq!(store.fake.accepted()[0].scheduled_at, Some(at("2026-05-15T13:00:00Z")));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_over_instants_fires_once_and_says_how_many_were_missed() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(5)).await;
    wall.set_by(TimeDelta::seconds(390));
    sleep(secs(26)).await;
    assert_eq!(store.fires(), [("15T12:07:00".to_owned(), 6)], "12:01 to 12:07: seven instants, one fire");
    sleep(secs(60)).await;
    assert_eq!(store.fires()[1..], [("15T12:08:00".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_jump_is_seen_within_thirty_seconds_however_far_the_next_instant_was() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:00Z"), Store::new());
    let node = Node::start("@yearly", wall.clock(), &store).await;
    sleep(secs(1)).await;
    wall.set_by(TimeDelta::days(300));
    sleep(secs(30)).await;
    assert_eq!(store.fires(), [("01T00:00:00".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_slower_than_the_sleep_does_not_fire_early() {
    let store = Store::new();
    let (began, from) = (Instant::now(), at("2026-05-15T12:00:30Z"));
    // Nine seconds pass on the wall while ten pass for tokio.
    let slow: Clock = Arc::new(move || from + TimeDelta::from_std(began.elapsed() * 9 / 10).unwrap());
    let node = Node::start("* * * * *", slow, &store).await;
    sleep(secs(10 * 60)).await;
    assert_eq!(store.times().len(), 9);
    for index in 0..9 {
        let late = store.late(index);
        assert!(late >= TimeDelta::zero() && late < TimeDelta::milliseconds(10), "{late}");
    }
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_over_waits_for_the_end() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let node = Node::start("0 0 0 1 1 * 2020", wall.clock(), &store).await;
    sleep(secs(60 * 60)).await;
    assert_eq!((store.times().len(), node.health()), (0, None));
    assert_eq!(node.stop().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_prompt_while_waiting_and_while_refused() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let waiting = Node::start("@yearly", wall.clock(), &store).await;
    sleep(secs(7)).await;
    assert_eq!(waiting.stop().await, Duration::ZERO);

    let refused = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(1)).await;
    store.goes_away();
    sleep(secs(60)).await;
    assert!(refused.health().is_some());
    assert_eq!(refused.stop().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_a_little_for_a_fire_that_is_being_handed_over() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.hangs.store(true, SeqCst);
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(31)).await;
    assert_eq!(store.offered.load(SeqCst), 1);
    assert_eq!(node.stop().await, secs(5));
}

/// What was logged, one line an event.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn missed_fires_are_logged_in_one_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2026-05-15T11:50:00Z");
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(60)).await;
    let warnings = lines.warnings();
    assert_eq!(warnings.len(), 1, "told at the start and not again at the fire: {warnings:?}");
    assert!(warnings[0].contains("9 fires were missed"), "{warnings:?}");
    assert!(warnings[0].contains("default/function/nightly"), "{warnings:?}");

    wall.set_by(TimeDelta::minutes(5));
    sleep(secs(60)).await;
    let warnings = lines.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("4 fires were missed"), "{warnings:?}");
    node.stop().await;
}

#[test]
fn check_tells_every_mistake_with_its_path_and_a_way_out() {
    let mut problems = Problems::new();
    let config = Config::new("0 0 30 2 *", "Europe/Pariss");
    problems.within("triggers", |problems| problems.within(0, |problems| Cron::default().check(&config, problems)));
    let told: Vec<_> = problems
        .into_vec()
        .into_iter()
        .map(|problem| (display_path(&problem.path).to_string(), problem.message, problem.help.unwrap()))
        .collect();
    let expected = [
        ("triggers[0].timezone", "unknown time zone \"Europe/Pariss\"", "did you mean \"Europe/Paris\"?"),
        (
            "triggers[0].schedule",
            "\"0 0 30 2 *\" never comes",
            "no day matches all of its fields; \"L\" is a month's last day",
        ),
    ];
    assert_eq!(told, expected.map(|(path, message, help)| (path.to_owned(), message.to_owned(), help.to_owned())));

    let mut problems = Problems::new();
    let config = Config::new("*/15 9-17 * * MON-FRI", "Europe/Paris");
    Cron::new().check(&config, &mut problems);
    assert!(problems.is_empty());
    assert_eq!(Cron::new().describe(&config), "*/15 9-17 * * MON-FRI Europe/Paris");
}

#[tokio::test]
async fn what_check_refuses_is_not_bound() {
    let cx = FakeDispatch::echo().context(Kind::Cron, "nightly");
    let config = Config::new("61 * * * *", "Mars");
    let error = Cron::new().bind(config, cx.binding).await.err().unwrap().to_string();
    assert!(
        error.starts_with("timezone: unknown time zone \"Mars\"; schedule: the minute field has \"61\""),
        "{error}"
    );
}
