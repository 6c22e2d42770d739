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
        lease_until INTEGER NOT NULL,
        binding_id INTEGER NOT NULL,
        attempt INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
";

/// Puts a row in the queue, unless it is there.
pub const INSERT_QUEUE: &str = "
    INSERT INTO queue (
        invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, ordering_key, position,
        unique_key, attempts, context, payload
    ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
    ON CONFLICT (invocation_id) DO NOTHING
";

/// Rows whose moment has come at `?1` are ready; at most `?2` in one step.
pub const MAKE_READY: &str = "
    UPDATE queue SET state = 1 WHERE rowid IN (
        SELECT rowid FROM queue WHERE state = 0 AND run_at <= ?1 ORDER BY run_at LIMIT ?2
    )
";

/// Triggers that have rows which are ready and are not paused.
pub const SELECT_READY_BINDINGS: &str = "
    WITH RECURSIVE ready (binding_id) AS (
        SELECT (SELECT binding_id FROM queue WHERE state = 1 ORDER BY binding_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT binding_id FROM queue WHERE state = 1 AND binding_id > ready.binding_id
            ORDER BY binding_id LIMIT 1
        ) FROM ready WHERE ready.binding_id IS NOT NULL
    )
    SELECT b.binding_id, b.namespace, b.function_name, b.trigger_id, b.trigger_type
    FROM ready JOIN bindings b ON b.binding_id = ready.binding_id WHERE b.paused_at IS NULL
";

/// Rows of trigger `?1` that are ready at `?2` (another clock may have found them so) and that nobody works on, or whose lease ran out before `?2`; at most `?3`.
pub const SELECT_READY: &str = "
    SELECT invocation_id, run_at, attempt, version, redrive_count, ordering_key IS NOT NULL, attempts, context, payload
    FROM queue
    WHERE binding_id = ?1 AND state = 1 AND run_at <= ?2 AND NOT EXISTS (
        SELECT 1 FROM claims WHERE claims.invocation_id = queue.invocation_id AND claims.lease_until >= ?2
    )
    ORDER BY rank LIMIT ?3
";

/// Claims a row, taking it from whoever had it.
pub const INSERT_CLAIM: &str = "
    INSERT INTO claims (invocation_id, claim_token, lease_until, binding_id, attempt) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (invocation_id) DO UPDATE SET claim_token = excluded.claim_token, lease_until = excluded.lease_until
";

/// The fence: ends a claim, if it is still the token's.
pub const DELETE_CLAIM: &str =
    "DELETE FROM claims WHERE invocation_id = ?1 AND claim_token = ?2 RETURNING binding_id, attempt";

/// Keeps the result of a row that ended.
pub const INSERT_RESULT: &str = "
    INSERT OR REPLACE INTO results (
        invocation_id, binding_id, state, attempts, finished_at, keep_until, http_status, http_headers, body
    ) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
";

/// Puts a row off until `?2`. Its rank keeps what its priority is worth.
pub const RETRY: &str = "
    UPDATE queue SET run_at = ?2, rank = ?2 - (run_at - rank), attempt = attempt + 1,
        state = CASE WHEN ?2 <= ?5 THEN 1 ELSE 0 END,
        -- 0 stands for an attempt that found no version to run on.
        version = coalesce(version, nullif(?3, 0)),
        attempts = json_insert(coalesce(attempts, '[]'), '$[#]', json(?4)), progress = NULL
    WHERE invocation_id = ?1
";

/// Removes a row from the queue.
pub const DELETE_QUEUE: &str = "DELETE FROM queue WHERE invocation_id = ?1";
