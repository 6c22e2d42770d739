//! How engines on one schema wake each other: `NOTIFY` after commits that made rows due, `LISTEN` for those of others.
//!
//! A notification is a hint and the table is the truth: several commits share one (a commit that notifies waits for
//! every other one that does, in the whole server), and what is lost while a connection is away is found by polling.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::claim::Waiting;
use super::settings::PostgresSettings;

/// The shortest time between two notifications.
const TELL_PAUSE: Duration = Duration::from_millis(5);

/// A notification of our own after this much silence, since nothing else finds a connection that is half open.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Silence, heartbeats included, after which a connection is given up.
const SILENCE: Duration = Duration::from_secs(25);

/// The pauses between tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the store and its tasks share.
#[derive(Default)]
pub(super) struct Signals {
    /// Rows of ours are due: tell the others.
    pub(super) tell: Notify,
    /// Rows of others are due, or may be.
    woken: Notify,
    /// When a row that waits may come due.
    pub(super) waiting: Waiting,
}

impl Signals {
    /// Others may have changed anything.
    fn wake(&self) {
        self.waiting.forget();
        self.woken.notify_one();
    }

    /// Ends when others have made rows due, or may have.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

/// Tells the other engines, until stopped. `me` is how we know our own notifications.
pub(super) async fn tell(pool: PgPool, channel: String, me: Uuid, signals: Arc<Signals>, stop: CancellationToken) {
    let work = async {
        loop {
            // Silence is broken even where nothing happens: see `hear`.
            let _ = tokio::time::timeout(HEARTBEAT, signals.tell.notified()).await;
            let told = sqlx::query("SELECT pg_notify($1, $2)").bind(&channel).bind(me.to_string()).execute(&pool);
            if let Err(error) = told.await {
                tracing::debug!("other engines could not be told that rows are due, they will find them: {error}");
            }
            tokio::time::sleep(TELL_PAUSE).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Hears the other engines, until stopped; connects again as often as it must.
pub(super) async fn hear(settings: PostgresSettings, me: Uuid, signals: Arc<Signals>, stop: CancellationToken) {
    let work = async {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            match listen(&settings, me, &signals).await {
                Ok(()) => tracing::info!("the store's notifications fell silent, connecting anew"),
                Err(error) => tracing::info!("the store's notifications are away, rows are polled for: {error}"),
            }
            if began.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Listens until the connection fails (`Err`) or falls silent (`Ok`).
async fn listen(settings: &PostgresSettings, me: Uuid, signals: &Signals) -> sqlx::Result<()> {
    // A pool of its own: a connection that listens is no good for anything else.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(settings.options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(&settings.channel()).await?;
    let me = me.to_string();
    // What was told before we listened.
    signals.wake();
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Err(_) => return Ok(()),
            Ok(Ok(Some(notification))) if notification.payload() == me => {}
            // `None`: the connection was lost and is there again, and what was told meanwhile is lost.
            Ok(Ok(Some(_) | None)) => signals.wake(),
            Ok(Err(error)) => {
                signals.wake();
                return Err(error);
            }
        }
    }
}
