//! Connections to PostgreSQL, and what goes wrong with them in words that say what would mend it.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Row as _};

use trigger_core::Binding;

use crate::Server;

/// How long a connection and a statement of the engine's own may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long an installation waits for locks: whoever writes to the table waits behind it.
pub(crate) const PATIENCE_FOR_LOCKS: Duration = Duration::from_secs(10);

/// The pauses before a database that is away is tried again.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A pause that different engines do not make together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Connects once and asks whether this is a server to work with: a pool would hide why not behind its timeout.
pub(crate) async fn probe(server: &Server) -> Result<(), String> {
    within(async {
        let mut connection = PgConnection::connect_with(&server.options).await?;
        let replica: bool = sqlx::raw_sql("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?.try_get(0)?;
        connection.close().await?;
        Ok(replica)
    })
    .await
    .and_then(|replica| match replica {
        true => Err("the server is a replica, which neither notifies nor takes writes: name the primary".to_owned()),
        false => Ok(()),
    })
}

/// A pool of the trigger's own, which the server's operator sees by its name: a connection that listens is no good for
/// anything else.
pub(crate) fn pool(server: &Server, binding: &Binding, connections: u32) -> PgPool {
    let name: String = format!("tripline {}", binding.path()).chars().take(63).collect();
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with((*server.options).clone().application_name(&name))
}

/// What the work gives, if it does within the time that a server that is there needs.
pub(crate) async fn within<T>(work: impl Future<Output = sqlx::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| told(&error)),
        Err(_) => Err(format!("the server does not answer within {} s", PATIENCE.as_secs())),
    }
}

/// What an error means, with what would mend it.
pub(crate) fn told(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::PoolTimedOut => "the server does not answer".to_owned(),
            other => format!("the server cannot be reached: {other}"),
        };
    };
    let (code, message) = (database.code().unwrap_or_default(), database.message());
    match &*code {
        "28P01" | "28000" => format!("the server refuses who asks: {message}; mend user and password in the url"),
        "3D000" => format!("{message}; mend the url, or create the database"),
        "25006" => format!("{message}: the server takes no writes; name the primary"),
        "08P01" if message.contains("startup parameter") => {
            format!("{message}: this looks like PgBouncer; name the server itself in the url")
        }
        _ => message.to_owned(),
    }
}

/// The key of an advisory lock: FNV-1a, the same on every engine and in every version.
pub(crate) fn lock_key(name: &str) -> i64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.cast_signed()
}
