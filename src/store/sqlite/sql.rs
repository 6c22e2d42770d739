//! The statements of the hot path: what every queued invocation costs. Public, so that the benchmark can run the same
//! ones without the store around them.

/// Settings of the connection that writes, beside `synchronous`. A write-ahead log of 8,000 pages instead of 1,000
/// before each checkpoint takes a third off a job's time; its file is cut back after a burst.
pub const WRITER_SETTINGS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA foreign_keys = ON;
    PRAGMA temp_store = MEMORY;
    PRAGMA cache_size = -16384;
    PRAGMA wal_autocheckpoint = 8000;
    PRAGMA journal_size_limit = 67108864;
";

/// Who works on which row, for as long as this engine has the database.
pub const CREATE_CLAIMS: &str = "
    CREATE TEMPORARY TABLE claims (
        invocation_id BLOB NOT NULL PRIMARY KEY,
        claim_token BLOB NOT NULL,
        lease_until INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
";

/// Puts a row in the queue, unless it is there.
pub const INSERT_QUEUE: &str = "
    INSERT INTO queue (
        invocation_id, namespace, function_name, trigger_id, trigger_type,
        run_at, attempt, version, redrive_count, attempts, context, payload
    ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
    ON CONFLICT (invocation_id) DO NOTHING
";

/// Rows due at `?1` that nobody works on, or whose lease ran out before then; at most `?2`.
pub const SELECT_DUE: &str = "
    SELECT invocation_id, namespace, function_name, trigger_id, trigger_type,
        run_at, attempt, version, redrive_count, attempts, context, payload
    FROM queue
    WHERE run_at <= ?1 AND NOT EXISTS (
        SELECT 1 FROM claims WHERE claims.invocation_id = queue.invocation_id AND claims.lease_until >= ?1
    )
    ORDER BY run_at LIMIT ?2
";

/// Claims a row, taking it from whoever had it.
pub const INSERT_CLAIM: &str = "
    INSERT INTO claims (invocation_id, claim_token, lease_until) VALUES (?1, ?2, ?3)
    ON CONFLICT (invocation_id) DO UPDATE SET claim_token = excluded.claim_token, lease_until = excluded.lease_until
";

/// The fence: ends a claim, if it is still the token's.
pub const DELETE_CLAIM: &str = "DELETE FROM claims WHERE invocation_id = ?1 AND claim_token = ?2";

/// Keeps the result of a row that ended well.
pub const INSERT_RESULT: &str = "
    INSERT OR REPLACE INTO results (
        invocation_id, namespace, function_name, trigger_id, trigger_type, attempts,
        finished_at, http_status, http_headers, body
    )
    SELECT invocation_id, namespace, function_name, trigger_id, trigger_type, attempt, ?2, ?3, ?4, ?5
    FROM queue WHERE invocation_id = ?1
";

/// Removes a row from the queue.
pub const DELETE_QUEUE: &str = "DELETE FROM queue WHERE invocation_id = ?1";
