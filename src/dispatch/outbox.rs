//! Messages that must reach the bus: published until it has taken them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use trigger_core::bus::MESSAGE_ID_HEADER;
use trigger_core::{Headers, Message};
use uuid::Uuid;

use super::Dispatcher;
use crate::store::OutboxRow;

/// Rows taken at once.
const BATCH: u32 = 128;

/// How long the bus may take for one message.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(10);

/// The longest pause between two tries of one message.
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Dispatcher {
    /// Publishes rows as they come, until drained.
    pub(super) async fn run_outbox(self: Arc<Self>) {
        let mut sleeper = self.clock.sleeper(|| "the outbox".to_owned());
        let mut retries = Retries::default();
        loop {
            // Armed before the look, so that a row added behind the look wakes us.
            let woken = self.outbox_wake.armed();
            let more = self.publish_due(&mut retries).await;
            if self.draining.is_cancelled() {
                return;
            }
            if !more {
                tokio::select! {
                    () = woken => {}
                    () = sleeper.until(retries.next()) => {}
                    () = tokio::time::sleep(self.settings.poll_interval) => {}
                    () = self.draining.cancelled() => {}
                }
            }
        }
    }

    /// Publishes what is due; whether there may be more.
    async fn publish_due(&self, retries: &mut Retries) -> bool {
        let began = Instant::now();
        let now = self.clock.now();
        retries.passed(now);
        let rows = match self.store.outbox_due(now, BATCH).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!("cannot read the outbox: {error}");
                return false;
            }
        };
        let full = rows.len() == BATCH as usize;
        let mut sent = Vec::with_capacity(rows.len());
        let (mut failed, mut left) = (false, false);
        for row in rows {
            // Past its lease another engine may publish the same rows.
            if began.elapsed() >= self.settings.lease / 2 {
                left = true;
                break;
            }
            match self.publish_row(&row).await {
                Ok(()) => sent.push(row.id),
                Err(error) => {
                    failed = true;
                    retries.add(self.put_off(&row, error).await);
                }
            }
        }
        if !sent.is_empty()
            && let Err(error) = self.store.outbox_sent(sent).await
        {
            tracing::warn!("messages were published but not marked so, they will be published again: {error}");
            return false;
        }
        (full || left) && !failed
    }

    async fn publish_row(&self, row: &OutboxRow) -> Result<(), String> {
        let message = identified(row.message.clone(), row.id);
        let deadline = PUBLISH_DEADLINE.min(self.settings.lease / 2);
        tokio::select! {
            published = tokio::time::timeout(deadline, self.bus.publish_durably(message)) => match published {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("the bus did not take it within {} s", deadline.as_secs_f64())),
            },
            () = self.cut.cancelled() => Err("the engine is shutting down".into()),
        }
    }

    async fn put_off(&self, row: &OutboxRow, error: String) -> DateTime<Utc> {
        let pause = Duration::from_secs(1).saturating_mul(2u32.saturating_pow(row.failures)).min(MAX_PAUSE);
        let pause = pause.mul_f64(0.75 + fastrand::f64() / 2.0);
        tracing::warn!(
            subject = %row.message.subject,
            "a message waits in the outbox, next try in {:.1} s: {error}",
            pause.as_secs_f64()
        );
        let retry_at = self.clock.after(pause);
        if let Err(error) = self.store.outbox_failed(row.id, retry_at, error).await {
            tracing::warn!("cannot put off a message: {error}");
        }
        retry_at
    }
}

/// When messages that were put off here are due again, so that none of them waits for the next poll. Only a hint, and
/// bounded: what it does not know, the poll finds.
#[derive(Default)]
struct Retries(BTreeSet<DateTime<Utc>>);

impl Retries {
    fn add(&mut self, retry_at: DateTime<Utc>) {
        self.0.insert(retry_at);
        if self.0.len() > BATCH as usize {
            self.0.pop_last();
        }
    }

    fn passed(&mut self, now: DateTime<Utc>) {
        self.0 = self.0.split_off(&now);
        self.0.remove(&now);
    }

    fn next(&self) -> Option<DateTime<Utc>> {
        self.0.first().copied()
    }
}

/// Gives the message the row's id, by which a stream recognises it when it is published twice.
fn identified(mut message: Message, id: Uuid) -> Message {
    let mut list = match std::mem::take(&mut message.headers) {
        Headers::List(list) => list,
        other => other.iter().map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value))).collect(),
    };
    list.retain(|(name, _)| !name.eq_ignore_ascii_case(MESSAGE_ID_HEADER));
    list.push((MESSAGE_ID_HEADER.to_owned(), Bytes::from(id.to_string())));
    message.headers = Headers::List(list);
    message
}
