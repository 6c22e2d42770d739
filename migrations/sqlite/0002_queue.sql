-- The queue with priorities, ordering keys and unique keys, the fires of schedules, and the ledger.

-- Triggers that ever had an event or a pause. Rows that there are many of name them by number.
CREATE TABLE bindings (
    binding_id INTEGER NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    function_name TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    trigger_type TEXT NOT NULL
        CHECK (trigger_type IN ('http', 'websocket', 'cron', 'database', 'pubsub', 'timer', 'job')),
    last_scheduled_at INTEGER, -- when the newest fire was due
    paused_at INTEGER, -- NULL: it is not
    paused_note TEXT,
    UNIQUE (namespace, function_name, trigger_id, trigger_type)
) STRICT;

INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type)
SELECT namespace, function_name, trigger_id, trigger_type FROM queue
UNION SELECT namespace, function_name, trigger_id, trigger_type FROM results
UNION SELECT namespace, function_name, trigger_id, trigger_type FROM dead_letters;

INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type)
SELECT namespace, function_name, trigger_id, 'cron' FROM schedules WHERE true
ON CONFLICT DO NOTHING;

UPDATE bindings SET last_scheduled_at = (
    SELECT s.last_scheduled_at FROM schedules s
    WHERE (s.namespace, s.function_name, s.trigger_id)
        = (bindings.namespace, bindings.function_name, bindings.trigger_id)
);

DROP TABLE schedules;

-- Rows leave when their invocation ends. A row is written when it comes, when it becomes ready, when it is tried again
-- and when it leaves; claims are the running engine's own and live in its temporary table `claims`.
ALTER TABLE queue RENAME TO queue_0001;

CREATE TABLE queue (
    invocation_id BLOB NOT NULL PRIMARY KEY CHECK (length(invocation_id) = 16),
    binding_id INTEGER NOT NULL REFERENCES bindings (binding_id),
    state INTEGER NOT NULL CHECK (state IN (0, 1, 2)), -- 0 waits for its moment, 1 ready, 2 behind one of its key
    run_at INTEGER NOT NULL,
    rank INTEGER NOT NULL, -- run_at less what the priority is worth: the lowest goes first
    attempt INTEGER NOT NULL CHECK (attempt >= 0), -- the one to make next; overrules the context
    version INTEGER CHECK (version >= 0), -- overrules the context
    redrive_count INTEGER NOT NULL CHECK (redrive_count >= 0),
    ordering_key TEXT,
    position INTEGER, -- among those of its key
    unique_key TEXT,
    cancel_requested_at INTEGER,
    progress TEXT, -- JSON, of the attempt under way
    attempts TEXT, -- JSON list of the failed ones; NULL for none
    context TEXT NOT NULL, -- JSON
    payload BLOB NOT NULL
) STRICT;

INSERT INTO queue (
    invocation_id, binding_id, state, run_at, rank, attempt, version, redrive_count, attempts, context, payload
)
SELECT q.invocation_id, b.binding_id, 0, q.run_at, q.run_at, q.attempt, q.version, q.redrive_count, q.attempts,
    q.context, q.payload
FROM queue_0001 q
JOIN bindings b USING (namespace, function_name, trigger_id, trigger_type);

DROP TABLE queue_0001;

CREATE INDEX queue_waiting ON queue (run_at) WHERE state = 0;
CREATE INDEX queue_ready ON queue (binding_id, rank) WHERE state = 1;
CREATE INDEX queue_ordered ON queue (binding_id, ordering_key, position) WHERE ordering_key IS NOT NULL;

-- Events that are known by their source's identity.
ALTER TABLE accepted_keys RENAME TO accepted_keys_0001;

CREATE TABLE accepted_keys (
    binding_id INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    invocation_id BLOB NOT NULL,
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (binding_id, idempotency_key)
) STRICT, WITHOUT ROWID;

-- A key whose trigger is known by more than one kind, or by none any more, is kept for each, or not.
INSERT INTO accepted_keys (binding_id, idempotency_key, invocation_id, accepted_at)
SELECT b.binding_id, k.idempotency_key, k.invocation_id, k.accepted_at
FROM accepted_keys_0001 k JOIN bindings b USING (namespace, function_name, trigger_id);

DROP TABLE accepted_keys_0001;
CREATE INDEX accepted_keys_accepted_at ON accepted_keys (accepted_at);

-- Who holds a unique key. One whose time is over, or whose event has come as far as its scope says, is nobody's.
CREATE TABLE unique_keys (
    binding_id INTEGER NOT NULL,
    unique_key TEXT NOT NULL,
    invocation_id BLOB NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('queued', 'live', 'period')),
    held_until INTEGER, -- of 'period'
    PRIMARY KEY (binding_id, unique_key)
) STRICT, WITHOUT ROWID;

-- The fires of schedules, made and not made: whoever inserts one owns it.
CREATE TABLE fires (
    binding_id INTEGER NOT NULL,
    scheduled_at INTEGER NOT NULL,
    manual INTEGER NOT NULL CHECK (manual IN (0, 1)), -- somebody asked for it at that moment
    until INTEGER, -- when the last of several was due; NULL for one
    count INTEGER NOT NULL DEFAULT 1,
    cause TEXT, -- why it was made; NULL for one that was not
    skipped TEXT, -- why it was not made
    fired_at INTEGER NOT NULL,
    invocation_id BLOB,
    PRIMARY KEY (binding_id, scheduled_at, manual),
    CHECK ((cause IS NULL) <> (skipped IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX fires_fired_at ON fires (fired_at);

-- What is kept of an event that ended well or was cancelled, for those who ask.
ALTER TABLE results RENAME TO results_0001;

CREATE TABLE results (
    invocation_id BLOB NOT NULL PRIMARY KEY,
    binding_id INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ok', 'cancelled')),
    attempts INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    keep_until INTEGER NOT NULL,
    http_status INTEGER,
    http_headers TEXT, -- JSON
    body BLOB NOT NULL
) STRICT;

INSERT INTO results
SELECT r.invocation_id, b.binding_id, 'ok', r.attempts, r.finished_at, r.finished_at + 86400000000, r.http_status,
    r.http_headers, r.body
FROM results_0001 r JOIN bindings b USING (namespace, function_name, trigger_id, trigger_type);

DROP TABLE results_0001;
CREATE INDEX results_keep_until ON results (keep_until);

-- The ledger: events by trigger, ever accepted and ended. What is neither ended nor in the queue is lost.
CREATE TABLE ledger (
    binding_id INTEGER NOT NULL,
    outcome TEXT NOT NULL
        CHECK (outcome IN ('accepted', 'ok', 'failed', 'dead', 'skipped', 'shed', 'cancelled')),
    reason TEXT NOT NULL, -- '' where the outcome has none
    count INTEGER NOT NULL,
    PRIMARY KEY (binding_id, outcome, reason)
) STRICT, WITHOUT ROWID;

INSERT INTO ledger
SELECT binding_id, 'dead', reason, count(*) FROM dead_letters
JOIN bindings USING (namespace, function_name, trigger_id, trigger_type)
WHERE redriven_at IS NULL GROUP BY binding_id, reason;

INSERT INTO ledger SELECT binding_id, 'ok', '', count(*) FROM results GROUP BY binding_id;

INSERT INTO ledger
SELECT binding_id, 'accepted', '', sum(count) FROM (
    SELECT binding_id, count FROM ledger
    UNION ALL SELECT binding_id, 1 FROM queue
) GROUP BY binding_id;
