//! How an accepted invocation stands.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use trigger_core::{Headers, HttpParts, Status, StatusState};
use uuid::Uuid;

use super::error::Outcome;
use super::{column, dead};

/// In the queue, ended, or given up on: one statement, so that no row is missed while it moves. A dead letter that was
/// redriven and is not in the queue ended well, and its result was forgotten since.
const STATUS: &str = "
    SELECT namespace, function_name, trigger_id, trigger_type, attempt::bigint, 1 AS place, run_at, claim_token,
        NULL::integer AS http_status, NULL AS http_headers, NULL::bytea AS body, NULL AS reason, NULL AS failure
    FROM queue WHERE invocation_id = $1
    UNION ALL
    SELECT namespace, function_name, trigger_id, trigger_type, attempts, 2, NULL, NULL,
        http_status, http_headers, body, NULL, NULL
    FROM results WHERE invocation_id = $1
    UNION ALL
    SELECT namespace, function_name, trigger_id, trigger_type, attempt_count, 3, NULL, NULL,
        NULL, NULL, NULL, reason, failure
    FROM dead_letters WHERE invocation_id = $1 AND redriven_at IS NULL
    ORDER BY place LIMIT 1
";

/// How an invocation stands.
pub(super) async fn of(connection: &mut PgConnection, id: Uuid) -> Outcome<Option<Status>> {
    let Some(row) = sqlx::query(STATUS).bind(id).fetch_optional(connection).await? else { return Ok(None) };
    let number = column::number(&row, 4)?;
    let (attempts, state) = match row.try_get::<i32, _>(5)? {
        1 if row.try_get::<Option<Uuid>, _>(7)?.is_some() => (number, StatusState::Running),
        1 => (number.saturating_sub(1), StatusState::Queued { run_at: column::moment(&row, 6)? }),
        2 => (number, ok(&row, id)?),
        _ => (number, StatusState::Dead { reason: dead::reason(&row, 11)?, failure: dead::failure(&row, 12)? }),
    };
    Ok(Some(Status { binding: column::binding(&row, 0)?, attempts, state }))
}

fn ok(row: &PgRow, id: Uuid) -> Outcome<StatusState> {
    let body = Bytes::from(row.try_get::<Vec<u8>, _>(10)?);
    let http = match row.try_get::<Option<i32>, _>(8)? {
        None => None,
        Some(status) => {
            let headers: Option<String> = row.try_get(9)?;
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
