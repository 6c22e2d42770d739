//! From a notification to an event.

use bytes::Bytes;
use sqlx::postgres::PgNotification;
use trigger_core::{Custody, InvocationContext, TriggerContext};

/// The event of a notification in a database.
pub(crate) fn of_notification(cx: &TriggerContext, database: &str, notification: &PgNotification) -> InvocationContext {
    let mut event = cx.event(Custody::Engine, Bytes::copy_from_slice(notification.payload().as_bytes()));
    event.subject = notification.channel().into();
    event.attributes = vec![
        ("channel".into(), notification.channel().to_owned()),
        ("pid".into(), notification.process_id().to_string()),
        ("type".into(), "tripline.postgres.notification".to_owned()),
        ("source".into(), format!("tripline:database/{database}")),
    ];
    event
}
