//! How an accepted invocation stands.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use trigger_core::{Headers, HttpParts, Status, StatusState};
use uuid::Uuid;

use super::error::Outcome;
use super::{column, dead};
use crate::store::queued;

/// In the queue, ended, or given up on: one statement, so that no row is missed while it moves. A dead letter that was
/// redriven and is not in the queue ended well, and its result was forgotten since.
const STATUS: &str = "
    SELECT b.namespace, b.function_name, b.trigger_id, b.trigger_type, found.* FROM (
        SELECT binding_id, attempt::bigint, 1 AS place, run_at, claim_token, progress,
            NULL::integer AS http_status, NULL AS http_headers, NULL::bytea AS body, NULL AS reason, NULL AS failure
        FROM queue WHERE invocation_id = $1
        UNION ALL
        SELECT binding_id, attempts, CASE state WHEN 'ok' THEN 2 ELSE 3 END, NULL, NULL, NULL,
            http_status, http_headers, body, NULL, NULL
        FROM results WHERE invocation_id = $1
    ) AS found JOIN bindings b USING (binding_id)
    UNION ALL
    SELECT namespace, function_name, trigger_id, trigger_type, NULL, attempt_count, 4, NULL, NULL, NULL,
        NULL, NULL, NULL, reason, failure
    FROM dead_letters WHERE invocation_id = $1 AND redriven_at IS NULL
    ORDER BY place LIMIT 1
";

/// How an invocation stands.
pub(super) async fn of(connection: &mut PgConnection, id: Uuid) -> Outcome<Option<Status>> {
    let Some(row) = sqlx::query(STATUS).bind(id).fetch_optional(connection).await? else { return Ok(None) };
    let number = column::number(&row, 5)?;
    let (attempts, state) = match row.try_get::<i32, _>(6)? {
        1 if row.try_get::<Option<Uuid>, _>(8)?.is_some() => {
            (number, StatusState::Running { progress: queued::read_progress(row.try_get(9)?) })
        }
        1 => (number.saturating_sub(1), StatusState::Queued { run_at: column::moment(&row, 7)? }),
        2 => (number, ok(&row, id)?),
        3 => (number, StatusState::Cancelled),
        _ => (number, StatusState::Dead { reason: dead::reason(&row, 13)?, failure: dead::failure(&row, 14)? }),
    };
    Ok(Some(Status { binding: column::binding(&row, 0)?, attempts, state }))
}

fn ok(row: &PgRow, id: Uuid) -> Outcome<StatusState> {
    let body = Bytes::from(row.try_get::<Vec<u8>, _>(12)?);
    let http = match row.try_get::<Option<i32>, _>(10)? {
        None => None,
        Some(status) => {
            let headers: Option<String> = row.try_get(11)?;
            Some(Box::new(http_parts(status, headers.as_deref().unwrap_or("[]"), id)?))
        }
    };
    Ok(StatusState::Ok { body, http })
}

fn http_parts(status: i32, headers: &str, id: Uuid) -> Outcome<HttpParts> {
    let whose = || format!("the result of {id}");
    let stored: Headers = column::json(headers, whose)?;
    let mut headers = HeaderMap::new();
    for (name, value) in stored.iter() {
        let name: HeaderName = name.parse().map_err(|error| column::corrupt(whose(), error))?;
        headers.append(name, HeaderValue::from_bytes(value).map_err(|error| column::corrupt(whose(), error))?);
    }
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| column::corrupt(whose(), "its status is not one of HTTP's"))?;
    Ok(HttpParts { status, headers })
}
