-- What the engine keeps. Words and columns are those of the manifest and the API.
--
-- Ids are 16 bytes (UUID, big endian): `lower(hex(invocation_id))` shows one. Moments are microseconds since
-- 1970-01-01 UTC. Columns that hold JSON say so.

-- Functions ----------------------------------------------------------------------------------------------------------

CREATE TABLE modules (
    digest TEXT NOT NULL PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The bytes live apart, so that nothing that lists has to step over them.
CREATE TABLE module_blobs (
    digest TEXT NOT NULL PRIMARY KEY REFERENCES modules (digest),
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE functions (
    function_id BLOB NOT NULL PRIMARY KEY CHECK (length(function_id) = 16),
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (namespace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    function_id BLOB NOT NULL REFERENCES functions (function_id),
    version INTEGER NOT NULL CHECK (version > 0),
    digest TEXT NOT NULL REFERENCES modules (digest),
    abi TEXT NOT NULL,
    definition TEXT NOT NULL, -- JSON
    definition_digest TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (function_id, version),
    UNIQUE (function_id, digest, definition_digest)
) STRICT, WITHOUT ROWID;

-- A function without a row here is deployed nowhere.
CREATE TABLE routes (
    function_id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    FOREIGN KEY (function_id, version) REFERENCES versions (function_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE triggers (
    function_id BLOB NOT NULL REFERENCES functions (function_id),
    trigger_id TEXT NOT NULL,
    trigger_type TEXT NOT NULL,
    position INTEGER NOT NULL, -- in the function's list
    config TEXT NOT NULL, -- JSON
    PRIMARY KEY (function_id, trigger_id)
) STRICT, WITHOUT ROWID;

-- The queue ----------------------------------------------------------------------------------------------------------

-- Rows leave when their invocation ends. A row is written when it comes, when it is tried again and when it leaves;
-- claims are the running engine's own and live in its temporary table `claims`.
CREATE TABLE queue (
    invocation_id BLOB NOT NULL PRIMARY KEY CHECK (length(invocation_id) = 16),
    namespace TEXT NOT NULL,
    function_name TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    trigger_type TEXT NOT NULL
        CHECK (trigger_type IN ('http', 'websocket', 'cron', 'database', 'pubsub', 'timer', 'job')),
    run_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 0), -- the one to make next; overrules the context
    version INTEGER CHECK (version >= 0), -- overrules the context
    redrive_count INTEGER NOT NULL CHECK (redrive_count >= 0),
    attempts TEXT, -- JSON list of the failed ones; NULL for none
    context TEXT NOT NULL, -- JSON
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX queue_run_at ON queue (run_at);

-- Rows whose context or attempts could not be read: the text, for whoever can. Their payload is in `dead_letters`.
CREATE TABLE parked (
    invocation_id BLOB NOT NULL PRIMARY KEY,
    reason TEXT NOT NULL,
    context BLOB NOT NULL,
    attempts BLOB,
    parked_at INTEGER NOT NULL
) STRICT;

CREATE TABLE accepted_keys (
    namespace TEXT NOT NULL,
    function_name TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    invocation_id BLOB NOT NULL,
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, function_name, trigger_id, idempotency_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX accepted_keys_accepted_at ON accepted_keys (accepted_at);

-- Apart from the keys, because keys are forgotten after a while and a yearly schedule must not be.
CREATE TABLE schedules (
    namespace TEXT NOT NULL,
    function_name TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    last_scheduled_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, function_name, trigger_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
    invocation_id BLOB NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    function_name TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    trigger_type TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    http_status INTEGER,
    http_headers TEXT, -- JSON
    body BLOB NOT NULL
) STRICT;

CREATE INDEX results_finished_at ON results (finished_at);

-- Failed attempts of events that their source redelivers: such events have no row in the queue.
CREATE TABLE remembered_attempts (
    invocation_id BLOB NOT NULL,
    number INTEGER NOT NULL,
    attempt TEXT NOT NULL, -- JSON
    remembered_at INTEGER NOT NULL,
    PRIMARY KEY (invocation_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX remembered_attempts_remembered_at ON remembered_attempts (remembered_at);

-- Dead letters -------------------------------------------------------------------------------------------------------

-- The large columns come last: a list reads none of them.
CREATE TABLE dead_letters (
    invocation_id BLOB NOT NULL PRIMARY KEY CHECK (length(invocation_id) = 16),
    namespace TEXT NOT NULL,
    function_name TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    trigger_type TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    failure TEXT NOT NULL, -- JSON
    attempt_count INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    redriven_at INTEGER, -- and not dead again since
    redrive_count INTEGER NOT NULL, -- before it died
    version INTEGER,
    digest TEXT,
    outbox_id BLOB, -- the message about it; NULL where there is no topic
    published INTEGER NOT NULL DEFAULT 0,
    attempts TEXT NOT NULL, -- JSON list
    context TEXT NOT NULL, -- JSON
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX dead_letters_died_at ON dead_letters (died_at, invocation_id);
CREATE INDEX dead_letters_function ON dead_letters (namespace, function_name, died_at, invocation_id);
CREATE INDEX dead_letters_kept ON dead_letters (died_at, invocation_id) WHERE redriven_at IS NULL;

-- The outbox ---------------------------------------------------------------------------------------------------------

CREATE TABLE outbox (
    id BLOB NOT NULL PRIMARY KEY,
    due_at INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    dead_letter_id BLOB, -- the dead letter that the message is about
    created_at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    reply TEXT,
    headers TEXT NOT NULL, -- JSON
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX outbox_due_at ON outbox (due_at);

-- Traces -------------------------------------------------------------------------------------------------------------

CREATE TABLE traces (
    invocation_id BLOB NOT NULL,
    function_name TEXT NOT NULL,
    outcome TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    trace TEXT NOT NULL -- JSON: the whole row
) STRICT;

CREATE INDEX traces_started_at ON traces (started_at, invocation_id);
CREATE INDEX traces_function ON traces (function_name, started_at, invocation_id);
CREATE INDEX traces_outcome ON traces (outcome, started_at, invocation_id);
CREATE INDEX traces_invocation ON traces (invocation_id, started_at);
