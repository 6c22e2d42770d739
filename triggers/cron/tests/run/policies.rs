//! What becomes of fires that are missed, paused, overlapping, delayed or many.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::{FireCause, Kind, Trigger, TriggerContext, TriggerKind};
use trigger_cron::{Config, Cron};

use crate::support::*;

/// The fires and the skipped ranges after ten minutes of downtime, of a trigger of minutes that starts again at 12:00:30.
async fn after_downtime(missed: Value) -> (Vec<(String, u64)>, Vec<String>) {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2026-05-15T11:50:00Z");
    let config = serde_json::from_value(json!({ "schedule": "* * * * *", "missed": missed })).unwrap();
    let node = Node::start_with(config, wall.clock(), &store).await;
    sleep(secs(60)).await;
    node.stop().await;
    (store.fires(), store.skipped())
}

#[tokio::test(start_paused = true)]
async fn downtime_is_made_up_for_as_the_policy_says() {
    let fires = |fires: &[(&str, u64)]| {
        fires.iter().map(|(time, missed)| (format!("15T{time}:00"), *missed)).collect::<Vec<_>>()
    };
    assert_eq!(
        after_downtime(json!("skip")).await,
        (fires(&[("12:00", 9), ("12:01", 0)]), vec!["missed 9: 11:51:00 to 11:59:00".to_owned()]),
        "12:00 is half a minute late and not missed"
    );
    assert_eq!(
        after_downtime(json!("one")).await,
        (fires(&[("12:00", 9), ("12:01", 0)]), vec!["missed 9: 11:51:00 to 11:59:00".to_owned()])
    );
    assert_eq!(
        after_downtime(json!({ "max": 3 })).await,
        (
            fires(&[("11:58", 7), ("11:59", 0), ("12:00", 0), ("12:01", 0)]),
            vec!["missed 7: 11:51:00 to 11:57:00".to_owned()]
        )
    );
    assert_eq!(
        after_downtime(json!({ "max": 100, "window_seconds": 100 })).await,
        (fires(&[("11:59", 8), ("12:00", 0), ("12:01", 0)]), vec!["missed 8: 11:51:00 to 11:58:00".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_skipped_after_a_long_downtime_is_told_with_the_next_fire() {
    let (wall, store) = (WallClock::from("2026-05-15T12:30:00Z"), Store::new());
    store.recorded("2026-05-15T09:00:00Z");
    let config = serde_json::from_value(json!({ "schedule": "@hourly", "missed": "skip" })).unwrap();
    let node = Node::start_with(config, wall.clock(), &store).await;
    sleep(secs(3_600)).await;
    assert_eq!(store.skipped(), ["missed 3: 10:00:00 to 12:00:00"]);
    assert_eq!(store.fires(), [("15T13:00:00".to_owned(), 3)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn long_downtime_is_counted_up_to_a_bound() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2016-05-15T11:50:00Z");
    let node = Node::start("* * * * * *", wall.clock(), &store).await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(store.fires(), [("15T12:00:30".to_owned(), 10_000), ("15T12:00:31".to_owned(), 0)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rows_about_skipped_fires_come_before_the_fires_or_not_at_all() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    store.recorded("2026-05-15T11:50:00Z");
    store.loses_skips.store(true, SeqCst);
    let node = Node::start("* * * * *", wall.clock(), &store).await;
    sleep(secs(20)).await;
    assert_eq!((store.fires(), store.skipped()), (vec![], vec![]), "without the row there is no fire");
    assert!(node.health().unwrap().contains("the store is away"));
    store.loses_skips.store(false, SeqCst);
    sleep(secs(6)).await;
    assert_eq!(store.skipped(), ["missed 9: 11:51:00 to 11:59:00"]);
    assert_eq!(store.fires(), [("15T12:00:00".to_owned(), 9)]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_trigger_leaves_a_row_for_each_hour() {
    let (wall, store) = (WallClock::from("2026-05-15T12:30:30Z"), Store::new());
    let node = Node::start("*/10 * * * *", wall.clock(), &store).await;
    *store.fake.paused.lock().unwrap() = Some("maintenance".into());
    sleep(secs(100 * 60)).await;
    assert_eq!(
        store.skipped(),
        ["paused 2: 12:40:00 to 12:50:00", "paused 6: 13:00:00 to 13:50:00"],
        "14:00 and 14:10 are told when the hour is over or the pause is"
    );
    *store.fake.paused.lock().unwrap() = None;
    sleep(secs(10 * 60)).await;
    assert_eq!(store.skipped()[2..], ["paused 2: 14:00:00 to 14:10:00"]);
    assert_eq!(store.fires(), [("15T14:20:00".to_owned(), 10)]);

    *store.fake.paused.lock().unwrap() = Some("again".into());
    sleep(secs(10 * 60)).await;
    node.stop().await;
    assert_eq!(store.skipped()[3..], ["paused 1: 14:30:00 to 14:30:00"], "nor is it forgotten at the end");
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_is_replaced_leaves_nothing_behind_and_misses_nothing() {
    let (wall, store) = (WallClock::from("2026-05-15T11:59:30Z"), Store::new());
    let cron = Cron::with_clock(wall.clock());
    let mut cx = store.fake.context(Kind::Cron, "nightly");
    cx.dispatch = store.clone();
    let tasks = TaskTracker::new();
    let start = async |schedule: &str| {
        let cx = TriggerContext { shutdown: CancellationToken::new(), ..cx.clone() };
        let trigger = cron.bind(Config::new(schedule, "UTC"), cx.binding.clone()).await.unwrap();
        let shutdown = cx.shutdown.clone();
        let running = trigger.run(cx);
        tasks.spawn(async move { running.await.unwrap() });
        shutdown
    };
    let hourly = start("0 * * * *").await;
    sleep(secs(20 * 60)).await;
    // 12:05 lies after the last fire, but it was no instant while it passed.
    let fives = start("5,25 * * * *").await;
    sleep(secs(1)).await;
    hourly.cancel();
    sleep(secs(10 * 60)).await;
    assert_eq!(store.times(), ["15T12:00:00", "15T12:25:00"]);
    assert_eq!(store.skipped(), Vec::<String>::new());
    fives.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn fires_that_do_not_overlap_have_one_ordering_key() {
    for (overlap, limit) in [
        ("skip", Some(Some(1))),
        ("buffer_one", Some(Some(2))),
        ("buffer_all", Some(None)),
        ("cancel_other", Some(None)),
        ("allow", None),
    ] {
        let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
        let config = serde_json::from_value(json!({ "schedule": "* * * * *", "overlap": overlap })).unwrap();
        let node = Node::start_with(config, wall.clock(), &store).await;
        sleep(secs(31)).await;
        node.stop().await;
        let events = store.fake.accepted();
        let terms = events[0].terms.as_ref().unwrap();
        assert_eq!(terms.ordering.as_ref().map(|ordering| ordering.limit), limit, "{overlap}");
        assert_eq!(terms.fire, Some(FireCause::Due));
        assert_eq!(store.cancels.load(SeqCst), usize::from(overlap == "cancel_other"), "{overlap}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_pauses_on_failure_tells_the_engine_so() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    for pauses in [true, false] {
        let config = serde_json::from_value(json!({ "schedule": "@daily", "pause_on_failure": pauses })).unwrap();
        let node = Node::start_with(config, wall.clock(), &store).await;
        sleep(secs(1)).await;
        node.stop().await;
        assert_eq!(store.fake.gates().last().map(|(_, gate)| gate.pause_on_failure), Some(pauses));
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_and_spread_delay_fires_the_same_on_every_node_and_change_no_identity() {
    let late_by = async || {
        let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
        let config = json!({ "schedule": "* * * * *", "jitter_seconds": 20, "spread_seconds": 30 });
        let node = Node::start_with(serde_json::from_value(config).unwrap(), wall.clock(), &store).await;
        sleep(secs(5 * 60)).await;
        node.stop().await;
        let due: Vec<_> = store.fires().into_iter().collect();
        (due, (0..4).map(|index| store.late(index)).collect::<Vec<_>>())
    };
    let (due, late) = late_by().await;
    let minutes = ["15T12:01:00", "15T12:02:00", "15T12:03:00", "15T12:04:00"];
    assert_eq!(due[..4], minutes.map(|time| (time.to_owned(), 0)));
    assert!(late.iter().all(|late| *late >= TimeDelta::zero() && *late < TimeDelta::seconds(51)), "{late:?}");
    assert!(late.windows(2).any(|pair| pair[0] != pair[1]), "jitter differs from fire to fire: {late:?}");
    assert_eq!(late_by().await.1, late);
}

#[tokio::test(start_paused = true)]
async fn many_triggers_of_one_moment_are_handed_over_in_few_batches() {
    let (wall, store) = (WallClock::from("2026-05-15T12:00:30Z"), Store::new());
    let (cron, tasks, shutdown) = (Cron::with_clock(wall.clock()), TaskTracker::new(), CancellationToken::new());
    for number in 0..1_500 {
        let mut cx = store.fake.context(Kind::Cron, &format!("trigger-{number}"));
        (cx.dispatch, cx.shutdown) = (store.clone(), shutdown.clone());
        let trigger = cron.bind(Config::new("* * * * *", "UTC"), cx.binding.clone()).await.unwrap();
        let running = trigger.run(cx);
        tasks.spawn(async move { running.await.unwrap() });
    }
    sleep(secs(31)).await;
    assert_eq!(store.fires().len(), 1_500);
    assert_eq!(store.batches.lock().unwrap()[..], [1_000, 500]);
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
}
