//! Notifications of a channel.
//!
//! PostgreSQL repeats nothing: what is said while nobody listens is gone. So the link is watched (a connection that is
//! half open says nothing, for ever), every time without it is counted and told of, and nothing here pretends to catch
//! up. Whoever must not lose anything takes a table.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trigger_core::{InvocationContext, Shed, TriggerContext};
use uuid::Uuid;

use crate::config::{ChannelSettings, Mode};
use crate::session::{self, FIRST_PAUSE, LONGEST_PAUSE, jittered, told, within};
use crate::{Server, event};

/// Silence after which a notification of our own is sent.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How long that may take to come back.
const ECHO: Duration = Duration::from_secs(4);

/// How often an engine that waits for its turn asks for it.
const TURN: Duration = Duration::from_millis(500);

/// What is said where heartbeats are sent and do not come back.
const POOLED: &str = "the server takes statements, but no notification comes back: a pooler such as PgBouncer in \
                      transaction mode gives LISTEN to another connection; name the server itself in the url";

/// Notifications of one channel for one function.
pub struct ChannelTrigger {
    pub(crate) name: Arc<str>,
    pub(crate) server: Server,
    pub(crate) settings: ChannelSettings,
}

/// Why listening came to an end.
enum Ended {
    /// It was asked to.
    Stopped,
    /// Nothing is heard any more.
    Lost(String),
}

impl ChannelTrigger {
    pub(crate) async fn run(self, cx: TriggerContext) {
        let most = self.settings.max_in_flight;
        let worker = Arc::new(Worker { cx: cx.clone(), durable: self.settings.durable });
        let slots = Arc::new(Semaphore::new(most as usize));
        let mut pause = FIRST_PAUSE;
        loop {
            let mut listened = false;
            match self.listen(&worker, &slots, &mut listened).await {
                Ended::Stopped => break,
                Ended::Lost(why) if listened => {
                    cx.dispatch.count_gap(&cx.binding);
                    cx.degraded(format!("{why}; what is notified until it is heard again is lost"));
                    pause = FIRST_PAUSE;
                }
                Ended::Lost(why) => cx.degraded(why),
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = cx.shutdown.cancelled() => break,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let _ = slots.acquire_many(most).await;
    }

    /// Listens until that fails. `listened` says whether it began to.
    async fn listen(&self, worker: &Arc<Worker>, slots: &Arc<Semaphore>, listened: &mut bool) -> Ended {
        let cx = &worker.cx;
        let pool = session::pool(&self.server, &cx.binding, 1);
        let hearing = async {
            session::probe(&self.server).await?;
            let mut link = Link::open(&pool, &self.settings.channel).await?;
            if self.settings.mode == Mode::One && link.wait_for_turn(cx, self.lock(cx)).await? {
                // Whoever had the turn heard until it went; nobody heard between that and now.
                cx.dispatch.count_gap(&cx.binding);
                tracing::warn!(trigger = %cx.binding.path(), "took over: what was notified in between is lost");
            }
            cx.healthy();
            *listened = true;
            loop {
                let slot = slots.clone().acquire_owned().await.expect("nobody closes it");
                let notification = link.next().await?;
                worker.start(event::of_notification(cx, &self.name, &notification), slot);
            }
        };
        let ended = tokio::select! {
            biased;
            () = cx.shutdown.cancelled() => Ended::Stopped,
            heard = hearing => match heard {
                Ok(never) => never,
                Err(why) => Ended::Lost(why),
            },
        };
        // Its session has the turn; one that is half open cannot be asked to give it up.
        let _ = tokio::time::timeout(Duration::from_secs(1), pool.close()).await;
        ended
    }

    /// What the engines that run this trigger take turns by.
    fn lock(&self, cx: &TriggerContext) -> i64 {
        session::lock_key(&format!("{}/{}/{}", self.server.schema, cx.binding.path(), self.settings.channel))
    }
}

/// A connection that listens.
struct Link {
    listener: PgListener,
    /// A channel that nobody else knows.
    heartbeat: String,
    /// Whether one is on its way.
    expected: bool,
}

impl Link {
    /// Listens on a channel, and has heard itself.
    async fn open(pool: &sqlx::PgPool, channel: &str) -> Result<Self, String> {
        let heartbeat = format!("tripline_{}", Uuid::now_v7().simple());
        let listener = within(async {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.eager_reconnect(false);
            listener.ignore_pool_close_event(true);
            listener.listen_all([channel, &heartbeat]).await?;
            Ok(listener)
        })
        .await?;
        let mut link = Self { listener, heartbeat, expected: false };
        link.beat().await?;
        let deadline = tokio::time::Instant::now() + ECHO;
        while link.expected {
            match tokio::time::timeout_at(deadline, link.hear()).await {
                Ok(heard) => drop(heard?),
                Err(_) => return Err(POOLED.to_owned()),
            }
        }
        Ok(link)
    }

    /// Waits for the one turn that there is; says whether another engine had it. What is notified meanwhile is for that
    /// one.
    async fn wait_for_turn(&mut self, cx: &TriggerContext, key: i64) -> Result<bool, String> {
        let mut waited = false;
        loop {
            let ask = AssertSqlSafe(format!("SELECT pg_try_advisory_lock({key})"));
            let mine =
                within(async { sqlx::raw_sql(ask).fetch_one(&mut self.listener).await?.try_get::<bool, _>(0) }).await?;
            if mine {
                return Ok(waited);
            }
            waited = true;
            cx.healthy();
            let until = tokio::time::Instant::now() + jittered(TURN);
            while let Ok(heard) = tokio::time::timeout_at(until, self.hear()).await {
                heard?;
            }
        }
    }

    /// The next notification of the channel. Watches the link while there is none.
    async fn next(&mut self) -> Result<PgNotification, String> {
        loop {
            let patience = if self.expected { ECHO } else { HEARTBEAT };
            match tokio::time::timeout(patience, self.hear()).await {
                Ok(heard) => {
                    if let Some(notification) = heard? {
                        return Ok(notification);
                    }
                }
                Err(_) if self.expected => return Err(POOLED.to_owned()),
                Err(_) => self.beat().await?,
            }
        }
    }

    /// Sends a heartbeat.
    async fn beat(&mut self) -> Result<(), String> {
        let notify = AssertSqlSafe(format!("SELECT pg_notify('{}', '')", self.heartbeat));
        within(async { sqlx::raw_sql(notify).execute(&mut self.listener).await }).await?;
        self.expected = true;
        Ok(())
    }

    /// What is notified next: `None` for a heartbeat. May be dropped while it waits.
    async fn hear(&mut self) -> Result<Option<PgNotification>, String> {
        match self.listener.try_recv().await {
            Ok(Some(notification)) if notification.channel() == self.heartbeat => {
                self.expected = false;
                Ok(None)
            }
            Ok(Some(notification)) => Ok(Some(notification)),
            Ok(None) => Err("the connection to the server was lost".to_owned()),
            Err(error) => Err(told(&error)),
        }
    }
}

/// Sees one notification to its end.
struct Worker {
    cx: TriggerContext,
    durable: bool,
}

impl Worker {
    fn start(self: &Arc<Self>, event: InvocationContext, slot: OwnedSemaphorePermit) {
        let worker = self.clone();
        let busy = self.cx.clock.busy(|| format!("a notification for {}", self.cx.binding.path()));
        self.cx.tasks.spawn(async move {
            if worker.durable {
                worker.keep(event).await;
            } else {
                // What became of it is the engine's to know: a row, a dead letter, a count.
                worker.cx.dispatch.dispatch(event).await;
            }
            drop((slot, busy));
        });
    }

    /// Has a notification kept. A store that cannot take it now is waited for: nobody else has it.
    async fn keep(&self, event: InvocationContext) {
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(refused) = self.cx.dispatch.accept(event.clone()).await else { return };
            let passing = matches!(refused.reason, Shed::StoreUnavailable | Shed::Overload);
            if !passing || self.cx.shutdown.is_cancelled() {
                tracing::error!(trigger = %self.cx.binding.path(), "a notification was not kept: {refused}");
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                // One last try.
                () = self.cx.shutdown.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
