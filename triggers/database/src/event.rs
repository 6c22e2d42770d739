//! From a notification or a change to an event.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use sqlx::postgres::PgNotification;
use trigger_core::{Custody, InvocationContext, Ordering, TriggerContext};

use crate::outbox::{Change, Origin};

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

/// The event of a change. However often the change is read, it is one event: its number alone would not do, since a
/// database that was restored counts on from where it was.
pub(crate) fn of_change(cx: &TriggerContext, origin: &Origin, change: Change) -> InvocationContext {
    let mut event = cx.event(Custody::Engine, payload(origin, &change));
    let (table, operation) = (&origin.capture.table, change.operation.as_str());
    event.subject = match &change.key {
        Some(key) => format!("{}/{key}", origin.capture.name()).into(),
        None => origin.capture.name().into(),
    };
    event.content_type = Some("application/json".into());
    event.idempotency_key = Some(format!("{}:{}", change.id, change.at_micros).into());
    event.attributes = vec![
        ("type".into(), format!("tripline.{}.{table}.{operation}", origin.dialect)),
        ("source".into(), format!("tripline:database/{}", origin.database)),
        ("table".into(), origin.capture.name()),
        ("operation".into(), operation.to_owned()),
    ];
    if let Some(xid) = change.xid {
        event.attributes.push(("xid".into(), xid));
    }
    if let Some(cause) = &change.cause {
        event.adopt_cause(cause);
    }
    if let Some(key) = change.key.filter(|_| origin.capture.is_ordered()) {
        event.terms_mut().ordering = Some(Ordering { key: key.into(), limit: None });
    }
    event
}

/// What functions get. The rows are put in as the database wrote them.
fn payload(origin: &Origin, change: &Change) -> Bytes {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let maybe = |value: Option<&str>| value.map_or_else(|| "null".to_owned(), text);
    let at = DateTime::from_timestamp_micros(change.at_micros).unwrap_or_default();
    let payload = format!(
        r#"{{"operation":"{}","schema":{},"table":{},"old":{},"new":{},"xid":{},"id":"{}","at":"{}"}}"#,
        change.operation.as_str(),
        maybe(origin.capture.schema.as_deref()),
        text(&origin.capture.table),
        change.old.as_deref().unwrap_or("null"),
        change.new.as_deref().unwrap_or("null"),
        maybe(change.xid.as_deref()),
        change.id,
        at.to_rfc3339_opts(SecondsFormat::Micros, true),
    );
    payload.into()
}
