-- The queue with priorities, ordering keys and unique keys, the fires of schedules, and the ledger.

-- Triggers that ever had an event or a pause. Rows that there are many of name them by number; no row is ever removed,
-- and none of those refers to this table by a foreign key, whose check would lock the one row that everybody names.
CREATE TABLE bindings (
    binding_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text COLLATE "C" NOT NULL,
    function_name text COLLATE "C" NOT NULL,
    trigger_id text COLLATE "C" NOT NULL,
    trigger_type text COLLATE "C" NOT NULL
        CHECK (trigger_type IN ('http', 'websocket', 'cron', 'database', 'pubsub', 'timer', 'job')),
    last_scheduled_at moment, -- when the newest fire was due
    paused_at moment, -- NULL: it is not
    paused_note text,
    UNIQUE (namespace, function_name, trigger_id, trigger_type)
) WITH (fillfactor = 70);

INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type)
SELECT namespace, function_name, trigger_id, trigger_type FROM queue
UNION SELECT namespace, function_name, trigger_id, trigger_type FROM results
UNION SELECT namespace, function_name, trigger_id, trigger_type FROM dead_letters;

INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type)
SELECT namespace, function_name, trigger_id, 'cron' FROM schedules
ON CONFLICT DO NOTHING;

UPDATE bindings b SET last_scheduled_at = s.last_scheduled_at FROM schedules s
WHERE (s.namespace, s.function_name, s.trigger_id) = (b.namespace, b.function_name, b.trigger_id);

DROP TABLE schedules;

-- Rows leave when their invocation ends. Neither the claim's columns nor what is said of a running attempt is in an
-- index, so that claiming, renewing and progress rewrite the row in its page and touch nothing else; the free space is
-- for that: as much as the rows themselves take, because a claim writes all rows of a page at once. A claimed row stays ready: whoever looks for rows passes by it until its lease runs out.
ALTER TABLE queue RENAME TO queue_0001;
ALTER INDEX queue_pkey RENAME TO queue_0001_pkey;

CREATE TABLE queue (
    invocation_id uuid NOT NULL PRIMARY KEY,
    binding_id bigint NOT NULL,
    state smallint NOT NULL CHECK (state IN (0, 1, 2)), -- 0 waits for its moment, 1 ready, 2 behind one of its key
    run_at moment NOT NULL,
    rank timestamptz NOT NULL, -- run_at less what the priority is worth: the lowest goes first
    claim_token uuid, -- whose attempt it is; NULL while nobody has it
    lease_until moment,
    attempt number NOT NULL, -- the one to make next; overrules the context
    version number, -- overrules the context
    redrive_count number NOT NULL,
    ordering_key text COLLATE "C",
    position bigint, -- among those of its key
    unique_key text COLLATE "C", -- for people: who holds which is in unique_keys
    cancel_requested_at moment,
    progress text, -- JSON, of the attempt under way
    attempts text, -- JSON list of the failed ones; NULL for none
    context text NOT NULL, -- JSON
    payload bytea NOT NULL,
    CHECK ((claim_token IS NULL) = (lease_until IS NULL)),
    CHECK ((ordering_key IS NULL) = (position IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

INSERT INTO queue (
    invocation_id, binding_id, state, run_at, rank, claim_token, lease_until, attempt, version, redrive_count,
    attempts, context, payload
)
SELECT q.invocation_id, b.binding_id, CASE WHEN q.claim_token IS NULL THEN 0 ELSE 1 END, q.run_at, q.run_at,
    q.claim_token, q.lease_until, q.attempt, q.version, q.redrive_count, q.attempts, q.context, q.payload
FROM queue_0001 q
JOIN bindings b USING (namespace, function_name, trigger_id, trigger_type);

DROP TABLE queue_0001;

CREATE INDEX queue_waiting ON queue (run_at) WHERE state = 0;
CREATE INDEX queue_ready ON queue (binding_id, rank) WHERE state = 1;
CREATE INDEX queue_ordered ON queue (binding_id, ordering_key, position) WHERE ordering_key IS NOT NULL;

-- Events that are known by their source's identity. Keys are bytes: they come from outside and may hold what a text
-- cannot.
ALTER TABLE accepted_keys RENAME TO accepted_keys_0001;
ALTER INDEX accepted_keys_pkey RENAME TO accepted_keys_0001_pkey;
ALTER INDEX accepted_keys_accepted_at RENAME TO accepted_keys_0001_accepted_at;

CREATE TABLE accepted_keys (
    binding_id bigint NOT NULL,
    idempotency_key bytea NOT NULL,
    invocation_id uuid NOT NULL,
    accepted_at moment NOT NULL,
    PRIMARY KEY (binding_id, idempotency_key)
);

-- A key whose trigger is known by more than one kind, or by none any more, is kept for each, or not.
INSERT INTO accepted_keys (binding_id, idempotency_key, invocation_id, accepted_at)
SELECT b.binding_id, k.idempotency_key, k.invocation_id, k.accepted_at
FROM accepted_keys_0001 k JOIN bindings b USING (namespace, function_name, trigger_id);

DROP TABLE accepted_keys_0001;
CREATE INDEX accepted_keys_accepted_at ON accepted_keys (accepted_at);

-- Who holds a unique key. One whose time is over, or whose event has come as far as its scope says, is nobody's.
CREATE TABLE unique_keys (
    binding_id bigint NOT NULL,
    unique_key bytea NOT NULL,
    invocation_id uuid NOT NULL,
    scope text NOT NULL CHECK (scope IN ('queued', 'live', 'period')),
    held_until moment, -- of 'period'
    PRIMARY KEY (binding_id, unique_key)
);

-- The fires of schedules, made and not made: whoever inserts one owns it.
CREATE TABLE fires (
    binding_id bigint NOT NULL,
    scheduled_at moment NOT NULL,
    manual boolean NOT NULL, -- somebody asked for it at that moment
    until moment, -- when the last of several was due; NULL for one
    count bigint NOT NULL DEFAULT 1,
    cause text, -- why it was made; NULL for one that was not
    skipped text, -- why it was not made
    fired_at moment NOT NULL,
    invocation_id uuid,
    PRIMARY KEY (binding_id, scheduled_at, manual),
    CHECK ((cause IS NULL) <> (skipped IS NULL))
);

CREATE INDEX fires_fired_at ON fires (fired_at);

-- What is kept of an event that ended well or was cancelled, for those who ask.
ALTER TABLE results RENAME TO results_0001;
ALTER INDEX results_pkey RENAME TO results_0001_pkey;

CREATE TABLE results (
    invocation_id uuid NOT NULL PRIMARY KEY,
    binding_id bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('ok', 'cancelled')),
    attempts number NOT NULL,
    finished_at moment NOT NULL,
    keep_until moment NOT NULL,
    http_status integer,
    http_headers text, -- JSON
    body bytea NOT NULL
);

INSERT INTO results
SELECT r.invocation_id, b.binding_id, 'ok', r.attempts, r.finished_at, r.finished_at + interval '24 hours',
    r.http_status, r.http_headers, r.body
FROM results_0001 r JOIN bindings b USING (namespace, function_name, trigger_id, trigger_type);

DROP TABLE results_0001;
CREATE INDEX results_keep_until ON results (keep_until);

-- The ledger: events by trigger, ever accepted and ended. What is neither ended nor in the queue is lost. A count is
-- the sum of its stripes. Connections write to different ones, so that they need not wait for each other's commits:
-- engines to those below 16, by the connection's process; transactions of others, which may stay open for long, each to
-- one of its own, by the transaction's number. Those are folded into the others when they are pruned.
CREATE TABLE ledger (
    binding_id bigint NOT NULL,
    outcome text COLLATE "C" NOT NULL
        CHECK (outcome IN ('accepted', 'ok', 'failed', 'dead', 'skipped', 'shed', 'cancelled')),
    reason text COLLATE "C" NOT NULL, -- '' where the outcome has none
    stripe bigint NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (binding_id, outcome, reason, stripe)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

INSERT INTO ledger
SELECT binding_id, 'dead', reason, 0, count(*) FROM dead_letters
JOIN bindings USING (namespace, function_name, trigger_id, trigger_type)
WHERE redriven_at IS NULL GROUP BY binding_id, reason;

INSERT INTO ledger SELECT binding_id, 'ok', '', 0, count(*) FROM results GROUP BY binding_id;

INSERT INTO ledger
SELECT binding_id, 'accepted', '', 0, sum(count) FROM (
    SELECT binding_id, count FROM ledger
    UNION ALL SELECT binding_id, 1 FROM queue
) AS known GROUP BY binding_id;
