-- What the engine keeps, in a schema of its own. Words and columns are those of the manifest and the API.
--
-- Columns that hold JSON say so. They are texts, because `jsonb` refuses a NUL in a string, and events come from
-- strangers. Names are compared byte by byte, so that they are in the same order in every database.

-- Moments: what a calendar can write.
CREATE DOMAIN moment AS timestamptz
    CHECK (VALUE >= '0001-01-01 00:00:00+00' AND VALUE < '10000-01-01 00:00:00+00');

-- Numbers of attempts, versions and the like: 32 bits without a sign.
CREATE DOMAIN number AS bigint CHECK (VALUE BETWEEN 0 AND 4294967295);

-- Functions ----------------------------------------------------------------------------------------------------------

CREATE TABLE modules (
    digest text COLLATE "C" NOT NULL PRIMARY KEY,
    size_bytes bigint NOT NULL,
    created_at moment NOT NULL
);

-- The bytes live apart, so that nothing that lists has to step over them.
CREATE TABLE module_blobs (
    digest text COLLATE "C" NOT NULL PRIMARY KEY REFERENCES modules (digest),
    bytes bytea NOT NULL
);

CREATE TABLE functions (
    function_id uuid NOT NULL PRIMARY KEY,
    namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    UNIQUE (namespace, name)
);

CREATE TABLE versions (
    function_id uuid NOT NULL REFERENCES functions (function_id),
    version number NOT NULL CHECK (version > 0),
    digest text COLLATE "C" NOT NULL REFERENCES modules (digest),
    abi text NOT NULL,
    definition text NOT NULL, -- JSON
    definition_digest text COLLATE "C" NOT NULL,
    created_at moment NOT NULL,
    PRIMARY KEY (function_id, version),
    UNIQUE (function_id, digest, definition_digest)
);

-- A function without a row here is deployed nowhere.
CREATE TABLE routes (
    function_id uuid NOT NULL PRIMARY KEY,
    version number NOT NULL,
    FOREIGN KEY (function_id, version) REFERENCES versions (function_id, version)
);

CREATE TABLE triggers (
    function_id uuid NOT NULL REFERENCES functions (function_id),
    trigger_id text COLLATE "C" NOT NULL,
    trigger_type text NOT NULL,
    position bigint NOT NULL, -- in the function's list
    config text NOT NULL, -- JSON
    PRIMARY KEY (function_id, trigger_id)
);

-- The queue ----------------------------------------------------------------------------------------------------------

-- Rows leave when their invocation ends. The claim's columns are in no index, so that claiming and renewing rewrite
-- the row in its page and touch nothing else; the free space is for that.
CREATE TABLE queue (
    invocation_id uuid NOT NULL PRIMARY KEY,
    namespace text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    trigger_id text COLLATE "C" NOT NULL,
    trigger_type text NOT NULL
        CHECK (trigger_type IN ('http', 'websocket', 'cron', 'database', 'pubsub', 'timer', 'job')),
    run_at moment NOT NULL,
    claim_token uuid, -- whose attempt it is; NULL while nobody has it
    lease_until moment,
    attempt number NOT NULL, -- the one to make next; overrules the context
    version number, -- overrules the context
    redrive_count number NOT NULL,
    attempts text, -- JSON list of the failed ones; NULL for none
    context text NOT NULL, -- JSON
    payload bytea NOT NULL,
    CHECK ((claim_token IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE INDEX queue_run_at ON queue (run_at);

-- Rows whose context or attempts could not be read: the text, for whoever can. Their payload is in `dead_letters`.
CREATE TABLE parked (
    invocation_id uuid NOT NULL PRIMARY KEY,
    reason text NOT NULL,
    context text NOT NULL,
    attempts text,
    parked_at moment NOT NULL
);

-- Keys are bytes: they come from outside and may hold what a text cannot.
CREATE TABLE accepted_keys (
    namespace text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    trigger_id text COLLATE "C" NOT NULL,
    idempotency_key bytea NOT NULL,
    invocation_id uuid NOT NULL,
    accepted_at moment NOT NULL,
    PRIMARY KEY (namespace, function_name, trigger_id, idempotency_key)
);

CREATE INDEX accepted_keys_accepted_at ON accepted_keys (accepted_at);

-- Apart from the keys, because keys are forgotten after a while and a yearly schedule must not be.
CREATE TABLE schedules (
    namespace text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    trigger_id text COLLATE "C" NOT NULL,
    last_scheduled_at moment NOT NULL,
    PRIMARY KEY (namespace, function_name, trigger_id)
);

CREATE TABLE results (
    invocation_id uuid NOT NULL PRIMARY KEY,
    namespace text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    trigger_id text COLLATE "C" NOT NULL,
    trigger_type text NOT NULL,
    attempts number NOT NULL,
    finished_at moment NOT NULL,
    http_status integer,
    http_headers text, -- JSON
    body bytea NOT NULL
);

CREATE INDEX results_finished_at ON results (finished_at);

-- Failed attempts of events that their source redelivers: such events have no row in the queue.
CREATE TABLE remembered_attempts (
    invocation_id uuid NOT NULL,
    number number NOT NULL,
    attempt text NOT NULL, -- JSON
    remembered_at moment NOT NULL,
    PRIMARY KEY (invocation_id, number)
);

CREATE INDEX remembered_attempts_remembered_at ON remembered_attempts (remembered_at);

-- Dead letters -------------------------------------------------------------------------------------------------------

CREATE TABLE dead_letters (
    invocation_id uuid NOT NULL PRIMARY KEY,
    namespace text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    trigger_id text COLLATE "C" NOT NULL,
    trigger_type text NOT NULL,
    subject text NOT NULL,
    reason text NOT NULL,
    failure text NOT NULL, -- JSON
    attempt_count number NOT NULL,
    died_at moment NOT NULL,
    redriven_at moment, -- and not dead again since
    redrive_count number NOT NULL, -- before it died
    version number,
    digest text,
    outbox_id uuid, -- the message about it; NULL where there is no topic
    published boolean NOT NULL DEFAULT false,
    attempts text NOT NULL, -- JSON list
    context text NOT NULL, -- JSON
    payload bytea NOT NULL
);

CREATE INDEX dead_letters_died_at ON dead_letters (died_at, invocation_id);
CREATE INDEX dead_letters_function ON dead_letters (namespace, function_name, died_at, invocation_id);
CREATE INDEX dead_letters_kept ON dead_letters (died_at, invocation_id) WHERE redriven_at IS NULL;

-- The outbox ---------------------------------------------------------------------------------------------------------

-- Ids grow with time: they are the order among rows that are due at the same moment.
CREATE TABLE outbox (
    id uuid NOT NULL PRIMARY KEY,
    due_at moment NOT NULL,
    publisher uuid, -- the engine that publishes it, until its time is over; NULL for none yet
    publisher_until moment,
    failures number NOT NULL DEFAULT 0,
    last_error text,
    dead_letter_id uuid, -- the dead letter that the message is about
    created_at moment NOT NULL,
    subject text NOT NULL,
    reply text,
    headers text NOT NULL, -- JSON
    payload bytea NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX outbox_due_at ON outbox (due_at, id);

-- Traces -------------------------------------------------------------------------------------------------------------

CREATE TABLE traces (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    invocation_id uuid NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    outcome text NOT NULL,
    started_at moment NOT NULL,
    trace text NOT NULL -- JSON: the whole row
);

CREATE INDEX traces_started_at ON traces (started_at, invocation_id);
CREATE INDEX traces_function ON traces (function_name, started_at, invocation_id);
CREATE INDEX traces_outcome ON traces (outcome, started_at, invocation_id);
CREATE INDEX traces_invocation ON traces (invocation_id, started_at);
