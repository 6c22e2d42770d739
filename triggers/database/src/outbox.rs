//! Changes from an outbox to the engine: whichever database they come from.

use std::borrow::Cow;

use trigger_core::{Refused, Shed, TriggerContext};

use crate::config::{Capture, Operation};
use crate::event;

/// The largest change that is read, in bytes of both rows together. A larger one is put aside.
pub(crate) const MAX_CHANGE: usize = 16 << 20;

/// Bytes of changes that are read at once: the last of them may go beyond.
pub(crate) const MAX_BATCH_BYTES: usize = 8 << 20;

/// What changes of one table have in common.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// `postgres` or `sqlite`.
    pub(crate) dialect: &'static str,
    /// The database's name.
    pub(crate) database: String,
    pub(crate) capture: Capture,
}

/// One row of an outbox.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) id: i64,
    /// The transaction, where the database tells.
    pub(crate) xid: Option<String>,
    /// When it was made, in microseconds since 1970.
    pub(crate) at_micros: i64,
    pub(crate) operation: Operation,
    pub(crate) key: Option<String>,
    pub(crate) cause: Option<String>,
    /// The rows as JSON.
    pub(crate) old: Option<String>,
    pub(crate) new: Option<String>,
    /// Whether it is too large to be read, and the rows are left out.
    pub(crate) too_large: bool,
}

/// What became of changes that were handed over.
#[derive(Debug, Default)]
pub(crate) struct HandedOver {
    /// The engine has them.
    pub(crate) taken: Vec<i64>,
    /// It will never take them, and why.
    pub(crate) refused: Vec<(i64, Cow<'static, str>)>,
    /// It cannot take the others now, and why.
    pub(crate) waits: Option<String>,
}

/// Hands changes over, in their order, in one commit of the engine's. What it has taken before is taken again without
/// becoming a second event.
pub(crate) async fn hand_over(cx: &TriggerContext, origin: &Origin, changes: Vec<Change>) -> HandedOver {
    let mut handed = HandedOver::default();
    let (mut ids, mut events) = (Vec::with_capacity(changes.len()), Vec::with_capacity(changes.len()));
    for change in changes {
        if change.too_large {
            cx.dispatch.count_shed(&cx.binding, Shed::TooLarge, 1);
            handed.refused.push((change.id, format!("the rows have more than {MAX_CHANGE} bytes").into()));
            continue;
        }
        ids.push(change.id);
        events.push(event::of_change(cx, origin, change));
    }
    for (id, answer) in ids.into_iter().zip(cx.dispatch.accept_all(events).await) {
        match answer {
            Ok(_) => handed.taken.push(id),
            Err(Refused { reason, message, .. }) if is_passing(reason) => handed.waits = Some(message.into_owned()),
            Err(refused) => handed.refused.push((id, refused.message)),
        }
    }
    for (id, why) in &handed.refused {
        tracing::error!(trigger = %cx.binding.path(), change = id, "a change was put aside: {why}");
    }
    handed
}

/// Whether the same event may fare better in a while.
fn is_passing(reason: Shed) -> bool {
    matches!(reason, Shed::Overload | Shed::CircuitOpen | Shed::ShuttingDown | Shed::StoreUnavailable | Shed::Backlog)
}
