//! What attempts cause: released with their success, dropped with their failure, one deeper each time.

use trigger_core::Progress;

use super::*;
use crate::store::ClaimRequest;

/// Causes an event "caused" by every attempt for "payload", the first `failures` of which fail.
fn causing(failures: u32) -> NativeExecutor {
    let made = AtomicU32::new(0);
    NativeExecutor::new(move |invocation: &InvocationContext| {
        if invocation.payload == "caused" {
            return Box::pin(async { native_attempt(Ok(Response::default())) });
        }
        let number = made.fetch_add(1, Ordering::SeqCst) + 1;
        let mut caused = InvocationContext::new(binding(Kind::Job), Custody::Engine, Bytes::from_static(b"caused"));
        caused.caused_by(invocation);
        let result = if number <= failures { Err(guest_error()) } else { Ok(Response::default()) };
        let effects = Effects { messages: Vec::new(), events: vec![caused], ..Effects::default() };
        Box::pin(async move { Attempt { effects, ..native_attempt(result) } })
    })
}

/// How often an event of a job ended how.
fn caused(rig: &Rig) -> Vec<&'static str> {
    let records = rig.ring.recent(100);
    let jobs = records.iter().filter(|record| record.binding.trigger_type == Kind::Job);
    jobs.map(|record| record.outcome.as_str()).collect()
}

async fn balanced(rig: &Rig) {
    rig.dispatcher.tell_ledger().await;
    for row in rig.store.ledger().await.unwrap() {
        assert_eq!(row.drift(), 0, "{row:?}");
    }
}

#[tokio::test]
async fn an_inline_attempt_causes_events_when_it_has_succeeded() {
    let rig = Rig::new(definition(), Settings::default(), causing(1)).await;
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Failed(_)));
    assert_eq!(rig.store.depths().await.unwrap(), crate::store::Depths::default(), "nothing was kept");
    let cause = event(Custody::Caller);
    let (id, trace_id) = (cause.invocation_id, cause.trace.trace_id);
    assert!(matches!(rig.dispatcher.dispatch(cause).await, Answer::Ok(_)));
    eventually("the event to run", || caused(&rig) == ["ok"]).await;
    let records = rig.ring.recent(100);
    let record = records.iter().find(|record| record.binding.trigger_type == Kind::Job).unwrap();
    assert_eq!((record.depth, record.parent, record.trace_id), (1, Some(id), trace_id));
    balanced(&rig).await;
}

#[tokio::test]
async fn an_attempt_of_a_row_causes_events_with_the_end_of_its_row() {
    let rig = Rig::new(definition(), Settings::default(), causing(2)).await;
    rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    eventually("the event to run", || caused(&rig) == ["ok"]).await;
    let counters = rig.dispatcher.ledger().counters(&binding(Kind::Job));
    assert_eq!(counters.sum("accepted"), 1, "two attempts failed, and what they asked for is gone");
    balanced(&rig).await;
}

#[tokio::test]
async fn an_event_that_is_given_up_on_has_caused_nothing() {
    let rig = Rig::new(definition(), Settings::default(), causing(u32::MAX)).await;
    rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    eventually("the dead letter", || rig.outcomes().last() == Some(&(3, "dead"))).await;
    let depths = rig.store.depths().await.unwrap();
    assert_eq!((depths.queued, depths.running, depths.dead), (0, 0, 1));
    assert!(caused(&rig).is_empty());
}

#[tokio::test]
async fn an_attempt_whose_claim_was_lost_causes_nothing() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inside = gate.clone();
    let executor = NativeExecutor::new(move |invocation: &InvocationContext| {
        let mut caused = InvocationContext::new(binding(Kind::Job), Custody::Engine, Bytes::new());
        caused.caused_by(invocation);
        let gate = inside.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            let effects = Effects { messages: Vec::new(), events: vec![caused], ..Effects::default() };
            Attempt { effects, ..native_attempt(Ok(Response::default())) }
        })
    });
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    eventually("the attempt to begin", || rig.dispatcher.running() == 1).await;
    // Another engine, by whose clock the lease has run out.
    let now = rig.dispatcher.now() + Duration::from_secs(3600);
    let lease_until = now + Duration::from_secs(3600);
    let request = ClaimRequest { now, lease_until, limit: 1, limits: Vec::new() };
    assert_eq!(rig.store.claim(request).await.unwrap().len(), 1);
    gate.add_permits(1);
    eventually("the late end", || !rig.outcomes().is_empty()).await;
    let depths = rig.store.depths().await.unwrap();
    assert_eq!((depths.queued, depths.running), (0, 1), "the row is the other's, and no event is beside it");
}

#[tokio::test]
async fn a_chain_of_jobs_is_cut_at_its_depth() {
    let executor = NativeExecutor::new(|invocation: &InvocationContext| {
        let mut next = InvocationContext::new(binding(Kind::Job), Custody::Engine, Bytes::new());
        next.caused_by(invocation);
        let effects = Effects { messages: Vec::new(), events: vec![next], ..Effects::default() };
        Box::pin(async move { Attempt { effects, ..native_attempt(Ok(Response::default())) } })
    });
    let rig = Rig::new(definition(), Settings { max_depth: 3, ..Settings::default() }, executor).await;
    rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    eventually("the end of the chain", || caused(&rig).contains(&"dead")).await;
    assert_eq!(caused(&rig), ["dead", "ok", "ok", "ok"], "the newest first");
    let filter = DeadLetterPage { limit: 10, ..DeadLetterPage::default() };
    let dead = rig.store.dead_letters(filter).await.unwrap();
    assert_eq!((dead.len(), dead[0].reason), (1, DeadReason::DepthExceeded));
    balanced(&rig).await;
}

#[tokio::test]
async fn the_newest_progress_of_a_running_row_is_kept() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let inside = gate.clone();
    let executor = NativeExecutor::telling(move |_: &InvocationContext, progress| {
        let gate = inside.clone();
        Box::pin(async move {
            for step in 0..50 {
                if let Some(progress) = &progress {
                    progress.send_replace(Progress { percent: step as f32, note: "early".to_owned() });
                }
            }
            tokio::task::yield_now().await;
            if let Some(progress) = &progress {
                progress.send_replace(Progress { percent: 50.0, note: "half".to_owned() });
            }
            gate.acquire().await.unwrap().forget();
            native_attempt(Ok(Response::default()))
        })
    });
    let rig = Rig::new(definition(), Settings::default(), executor).await;
    let id = rig.dispatcher.accept(event(Custody::Engine)).await.unwrap().invocation_id;
    let half = Some(Progress { percent: 50.0, note: "half".to_owned() });
    let kept = async || match rig.dispatcher.status(id).await.unwrap().unwrap().state {
        StatusState::Running { progress } => progress,
        _ => None,
    };
    let told = async {
        while kept().await != half {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("the progress is kept");
    gate.add_permits(2);
    eventually("the end", || rig.outcomes() == [(1, "ok")]).await;
    // Nobody keeps what an inline attempt says.
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Ok(_)));
}

/// Sends a frame to everyone by every attempt, the first `failures` of which fail.
fn telling(failures: u32) -> NativeExecutor {
    let made = AtomicU32::new(0);
    NativeExecutor::new(move |_: &InvocationContext| {
        let number = made.fetch_add(1, Ordering::SeqCst) + 1;
        let frame = SocketFrame::Text(number.to_string());
        let command = SocketCommand::Send { to: Recipients::Everyone, frame };
        let effect = SocketEffect { namespace: "default".into(), function: "chat".into(), command };
        let result = if number <= failures { Err(guest_error()) } else { Ok(Response::default()) };
        let effects = Effects { sockets: vec![effect], ..Effects::default() };
        Box::pin(async move { Attempt { effects, ..native_attempt(result) } })
    })
}

#[tokio::test]
async fn sockets_are_told_by_the_attempt_that_succeeds() {
    let frames = |rig: &Rig| -> Vec<String> {
        let text = |command: &SocketCommand| match command {
            SocketCommand::Send { frame: SocketFrame::Text(text), .. } => text.clone(),
            other => panic!("{other:?}"),
        };
        rig.told.0.lock().unwrap().iter().map(text).collect()
    };
    let rig = Rig::new(definition(), Settings::default(), telling(1)).await;
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Failed(_)));
    assert!(frames(&rig).is_empty(), "what failed has told nobody");
    assert!(matches!(rig.dispatcher.dispatch(event(Custody::Caller)).await, Answer::Ok(_)));
    assert_eq!(frames(&rig), ["2"], "before its caller is answered");
    let rig = Rig::new(definition(), Settings::default(), telling(2)).await;
    rig.dispatcher.accept(event(Custody::Engine)).await.unwrap();
    eventually("the row to end", || !frames(&rig).is_empty()).await;
    assert_eq!(frames(&rig), ["3"], "two attempts failed");
}
