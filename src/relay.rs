//! What guests commit in a transaction of their own database: messages, jobs and timers with what they wrote, both or
//! neither, whatever becomes of the engine.
//!
//! ```text
//! guest's transaction ─► its writes + a sealed row of `tripline_outbox` ─► COMMIT ─► relay ─► store ─► row removed
//! ```
//!
//! The commit is the one moment that decides. From then on the row is moved to the store until that has been done: by
//! whoever committed it at once, and by any engine of that store when it starts and every minute. The store remembers
//! the row's id with what came in by it, in one commit, so a row that is moved twice does nothing twice.
//!
//! Whoever may write in that database could put rows there: so a row carries a MAC under a key that only the store has
//! (`seal`). Rows that no engine of this store wrote are counted, told of, and left.

mod seal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trigger_core::Clock;
use trigger_core::clock::Wake;
use uuid::Uuid;

use self::seal::{Refused, Seal};
use crate::databases::{self, Database, Databases, Transaction};
use crate::dispatch::Dispatcher;
use crate::executor::Effects;
use crate::store::{self, Store};

/// The pauses before a database or a store that is away is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Moves what was committed in guests' databases to the store.
pub struct Relay {
    seal: Seal,
    clock: Clock,
    databases: Databases,
    outboxes: BTreeMap<String, Outbox>,
}

/// What is known of the outbox in one database.
struct Outbox {
    wake: Wake,
    /// Rows that were left where they are at the last look, by why.
    refused: Mutex<BTreeMap<Refused, u64>>,
}

/// Rows could not be moved now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Database(#[from] databases::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Relay {
    /// One for these databases, with the key that the store has; it is made where there is none.
    pub async fn new(store: &dyn Store, databases: Databases, clock: Clock) -> store::Result<Arc<Self>> {
        let outbox = || Outbox { wake: Wake::new(&clock, "an outbox of guests"), refused: Mutex::default() };
        let outboxes = databases.names().map(|name| (name.to_owned(), outbox())).collect();
        let seal = Seal::of(store, clock.now()).await?;
        Ok(Arc::new(Self { seal, clock, databases, outboxes }))
    }

    /// Commits a guest's transaction in a database with what the guest asked for.
    pub async fn commit(
        &self,
        database: &str,
        transaction: Box<dyn Transaction>,
        effects: &Effects,
    ) -> databases::Result<()> {
        let row = self.seal.close(effects, self.clock.now())?;
        // Moved also where nobody was told that it was committed: the answer may be lost, or nobody wait for it.
        let _wake = WakeOnDrop(self.outboxes.get(database).map(|outbox| &outbox.wake));
        transaction.commit_with(self.seal.engine().to_owned(), row).await
    }

    /// Has every outbox looked at.
    pub fn wake(&self) {
        self.outboxes.values().for_each(|outbox| outbox.wake.wake());
    }

    /// By database, the rows of its outbox that were left where they are.
    pub fn refused(&self) -> Vec<(&str, u64)> {
        self.outboxes.iter().map(|(name, outbox)| (name.as_str(), outbox.refused.lock().values().sum())).collect()
    }

    /// Moves rows until `stop`: what a crash has left, and then what is committed. Each database by itself, so that one
    /// that is away holds up no other.
    pub fn start(self: &Arc<Self>, dispatcher: &Arc<Dispatcher>, tasks: &TaskTracker, stop: &CancellationToken) {
        for name in self.outboxes.keys() {
            let (this, dispatcher, stop, name) = (self.clone(), dispatcher.clone(), stop.clone(), name.clone());
            tasks.spawn(async move { this.serve(&name, &dispatcher, &stop).await });
        }
    }

    async fn serve(&self, name: &str, dispatcher: &Dispatcher, stop: &CancellationToken) {
        let (Some(outbox), Some(database)) = (self.outboxes.get(name), self.databases.get(name)) else { return };
        let mut pause = FIRST_PAUSE;
        loop {
            let busy = self.clock.busy(|| format!("the outbox in {name}"));
            // Armed before the look, so that a row that is committed behind the look wakes us.
            let woken = outbox.wake.armed();
            let moved = tokio::select! {
                moved = self.move_rows(name, outbox, &*database, dispatcher) => moved,
                () = stop.cancelled() => return,
            };
            drop(busy);
            let again = match moved {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    None
                }
                Err(error) => {
                    tracing::warn!(database = name, "what guests committed cannot be taken over now: {error}");
                    let again = pause;
                    pause = (pause * 2).min(MAX_PAUSE);
                    Some(again)
                }
            };
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Moves every row that there is now.
    async fn move_rows(
        &self,
        name: &str,
        outbox: &Outbox,
        database: &dyn Database,
        dispatcher: &Dispatcher,
    ) -> Result<(), Error> {
        let engine = self.seal.engine();
        let (mut after, mut refused) = (Uuid::nil(), BTreeMap::new());
        loop {
            let rows = database.outbox(engine.to_owned(), after).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            let mut moved = Vec::with_capacity(rows.len());
            for row in rows {
                let why = match self.seal.open(&row, self.clock.now()) {
                    Err(why) => why,
                    Ok(effects) => match dispatcher.release_once(row.id, effects).await {
                        Ok(()) => {
                            moved.push(row.id);
                            continue;
                        }
                        // It must not hold up those behind it.
                        Err(store::Error::Corrupt { .. }) => Refused::Unreadable,
                        Err(error) => return Err(error.into()),
                    },
                };
                *refused.entry(why).or_default() += 1;
            }
            if !moved.is_empty() {
                database.outbox_remove(engine.to_owned(), moved).await?;
            }
        }
        let before = std::mem::replace(&mut *outbox.refused.lock(), refused.clone());
        if refused != before {
            for (why, rows) in refused {
                tracing::warn!(database = name, rows, "rows of tripline_outbox are left where they are: {why}");
            }
        }
        Ok(())
    }
}

struct WakeOnDrop<'a>(Option<&'a Wake>);

impl Drop for WakeOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(wake) = self.0 {
            wake.wake();
        }
    }
}
