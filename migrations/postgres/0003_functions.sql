-- What transactions of others may do here: `enqueue`, `schedule` and `cancel` take effect with the caller's commit.
--
-- They run with the rights of this schema's owner, and nobody may call them who was not granted it. With the caller's
-- rights, whoever may enqueue would have to be able to read every payload and definition, and to write any row.
-- The path on which they look for names is this schema alone, whatever the caller's is.
--
-- A row that such a transaction writes is its own until it ends: its locks of ordering and unique keys make whoever
-- uses the same keys wait. What everybody writes is avoided: counts go to stripes of the transaction's own.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Triggers have their numbers from the moment they are deployed, so that no transaction of others has to give them one,
-- for which everybody would wait until it ends.
INSERT INTO bindings (namespace, function_name, trigger_id, trigger_type)
SELECT f.namespace, f.name, t.trigger_id, t.trigger_type FROM triggers t JOIN functions f USING (function_id)
ON CONFLICT DO NOTHING;

-- A UUID of version 7 (RFC 9562): it begins with the time in milliseconds.
CREATE OR REPLACE FUNCTION new_invocation_id() RETURNS uuid
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1),
            52, 1), 53, 1),
        'hex')::uuid
$$;

-- A moment as JSON has it.
CREATE OR REPLACE FUNCTION moment_text(p_moment timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT to_char(p_moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Counts events, in a stripe of the transaction's own.
CREATE OR REPLACE FUNCTION count_events(p_binding_id bigint, p_outcome text, p_reason text) RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    INSERT INTO ledger AS l (binding_id, outcome, reason, stripe, count)
    VALUES (p_binding_id, p_outcome, p_reason, 16 + pg_current_xact_id()::text::bigint, 1)
    ON CONFLICT (binding_id, outcome, reason, stripe) DO UPDATE SET count = l.count + 1
$$;

-- Wakes the engines when the transaction commits.
CREATE OR REPLACE FUNCTION wake_engines() RETURNS void
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT pg_notify(current_schema() || '_queue', '')
$$;

-- Refuses a key that the engine would refuse.
CREATE OR REPLACE FUNCTION check_key(p_name text, p_key text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF p_key = '' THEN
        RAISE EXCEPTION '% is empty', p_name
            USING ERRCODE = '22023', HINT = 'leave it out, or NULL, for an event without one';
    ELSIF octet_length(p_key) > 512 THEN
        RAISE EXCEPTION '% has % bytes, the limit is 512', p_name, octet_length(p_key)
            USING ERRCODE = '22023', HINT = 'use a digest of what is longer';
    ELSIF p_key ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION '% has a control character', p_name
            USING ERRCODE = '22023', HINT = 'keys are printable text';
    END IF;
END
$$;

-- Locks keys until the transaction ends. What comes after sees what their holders before have committed, which a
-- transaction does not that looks at one moment only.
CREATE OR REPLACE FUNCTION lock_keys(p_locks bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'an ordering or unique key cannot be decided on in a % transaction',
            current_setting('transaction_isolation')
            USING ERRCODE = '0A000', HINT = 'use READ COMMITTED, or leave the key out';
    END IF;
    PERFORM pg_advisory_xact_lock(lock) FROM (
        SELECT DISTINCT lock FROM unnest(p_locks) AS asked (lock) WHERE lock IS NOT NULL ORDER BY lock
    ) AS locks;
END
$$;

-- Headers as the engine keeps them: a list of names and values.
CREATE OR REPLACE FUNCTION header_list(p_headers jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    v_list jsonb;
BEGIN
    IF octet_length(p_headers::text) > 65536 THEN
        RAISE EXCEPTION 'the headers have % bytes, the limit is 65536', octet_length(p_headers::text)
            USING ERRCODE = '22023', HINT = 'put what is long in the payload';
    END IF;
    IF jsonb_typeof(p_headers) = 'object' THEN
        SELECT jsonb_agg(jsonb_build_array(name, value)) INTO v_list FROM jsonb_each(p_headers) AS h (name, value);
    ELSIF jsonb_typeof(p_headers) = 'array' THEN
        v_list := p_headers;
    END IF;
    IF v_list IS NULL AND p_headers NOT IN ('{}', '[]', 'null') OR EXISTS (
        SELECT FROM jsonb_array_elements(v_list) AS h (pair)
        WHERE jsonb_typeof(pair) <> 'array' OR jsonb_array_length(pair) <> 2
            OR jsonb_typeof(pair -> 0) <> 'string' OR jsonb_typeof(pair -> 1) <> 'string'
            OR pair ->> 0 = '' OR pair ->> 0 ~ '[[:cntrl:]:]'
    ) THEN
        RAISE EXCEPTION 'the headers are not names with texts'
            USING ERRCODE = '22023', HINT = 'write {"name": "value"}, or [["name", "value"]] for repeated names';
    END IF;
    RETURN nullif(v_list, '[]');
END
$$;

-- The first value of a header, whatever the case of its name.
CREATE OR REPLACE FUNCTION header(p_headers jsonb, p_name text) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT h.pair ->> 1 FROM jsonb_array_elements(p_headers) WITH ORDINALITY AS h (pair, place)
    WHERE lower(h.pair ->> 0) = lower(p_name) ORDER BY place LIMIT 1
$$;

-- Removes a row that waits, and gives the one behind it its turn. Its ordering key is locked.
CREATE OR REPLACE FUNCTION take_back(p_invocation_id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    v_gone queue;
BEGIN
    DELETE FROM queue q WHERE q.invocation_id = p_invocation_id AND q.claim_token IS NULL RETURNING * INTO v_gone;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO results (invocation_id, binding_id, state, attempts, finished_at, keep_until, body)
    VALUES (v_gone.invocation_id, v_gone.binding_id, 'cancelled', greatest(v_gone.attempt - 1, 0), clock_timestamp(),
        clock_timestamp() + interval '24 hours', '')
    ON CONFLICT (invocation_id) DO UPDATE SET state = excluded.state, attempts = excluded.attempts,
        finished_at = excluded.finished_at, keep_until = excluded.keep_until, http_status = NULL, http_headers = NULL,
        body = excluded.body;
    IF v_gone.ordering_key IS NOT NULL AND v_gone.state <> 2 THEN
        UPDATE queue q SET state = CASE WHEN q.run_at <= clock_timestamp() THEN 1 ELSE 0 END
        WHERE q.state = 2 AND q.invocation_id = (
            SELECT n.invocation_id FROM queue n
            WHERE n.binding_id = v_gone.binding_id AND n.ordering_key = v_gone.ordering_key
            ORDER BY n.position LIMIT 1
        );
    END IF;
    PERFORM count_events(v_gone.binding_id, 'cancelled', '');
    RETURN true;
END
$$;

-- Puts an event in the queue for the trigger of type `p_type` whose section says `p_name` in `p_field`.
CREATE OR REPLACE FUNCTION accept_event(
    p_type text, p_field text, p_name text, p_payload bytea, p_content_type text, p_headers jsonb, p_unique_key text,
    p_conflict text, p_priority integer, p_run_at timestamptz, p_ordering_key text, p_max_retries integer
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    v_trigger record;
    v_binding_id bigint;
    v_holder uuid;
    v_holder_key text;
    v_holder_lock bigint;
    v_headers jsonb := header_list(p_headers);
    v_depth text := header(header_list(p_headers), 'Tripline-Depth');
    v_parent text := header(header_list(p_headers), 'Tripline-Parent');
    v_id uuid := new_invocation_id();
    v_now timestamptz := clock_timestamp();
    v_run_at timestamptz := coalesce(p_run_at, v_now);
    v_priority integer;
    v_ordering_key text;
    v_backlog numeric;
    v_last bigint;
    v_state smallint;
    v_locks bigint[];
BEGIN
    SELECT f.namespace, f.name, t.trigger_id, (v.definition::json ->> 'max_input_bytes')::bigint AS max_bytes,
        (t.config::json ->> 'priority')::integer AS priority, t.config::json ->> 'ordering' = 'queue' AS in_order,
        (t.config::json ->> 'max_backlog')::numeric AS max_backlog,
        (t.config::json ->> 'result_ttl_seconds')::bigint AS result_ttl_seconds
    INTO v_trigger
    FROM triggers t JOIN functions f USING (function_id) JOIN routes r USING (function_id)
    JOIN versions v ON v.function_id = r.function_id AND v.version = r.version
    WHERE t.trigger_type = p_type AND t.config::json ->> p_field = p_name
    ORDER BY f.namespace, f.name LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% %', CASE p_type WHEN 'job' THEN 'no function works on queue'
            ELSE 'no function has timers called' END, coalesce(quote_literal(left(p_name, 200)), 'NULL')
            USING ERRCODE = 'TL404', HINT = 'there is ' || coalesce((
                SELECT string_agg(name, ', ') FROM (
                    SELECT DISTINCT t.config::json ->> p_field AS name
                    FROM triggers t JOIN routes r USING (function_id) WHERE t.trigger_type = p_type
                    ORDER BY name LIMIT 50
                ) AS known
            ), 'none');
    END IF;
    IF octet_length(p_payload) > v_trigger.max_bytes THEN
        RAISE EXCEPTION 'the payload has % bytes, the limit of %/% is %', octet_length(p_payload), v_trigger.namespace,
            v_trigger.name, v_trigger.max_bytes
            USING ERRCODE = 'TL413', HINT = 'pass a reference to it, or raise the function''s max_input_bytes';
    END IF;
    v_priority := coalesce(p_priority, v_trigger.priority, 0);
    IF v_priority NOT BETWEEN -100 AND 100 THEN
        RAISE EXCEPTION 'priority is %', v_priority USING ERRCODE = '22023', HINT = 'it is a number from -100 to 100';
    END IF;
    IF p_max_retries NOT BETWEEN 0 AND 1000 THEN
        RAISE EXCEPTION 'max_retries is %', p_max_retries
            USING ERRCODE = '22023', HINT = 'it is a number from 0 to 1000';
    END IF;
    IF NOT isfinite(v_run_at) OR v_run_at > v_now + interval '3650 days' OR v_run_at < '0002-01-01 00:00:00+00' THEN
        RAISE EXCEPTION 'run_at is %', v_run_at
            USING ERRCODE = '22023', HINT = 'it is a moment that is at most 3650 days ahead';
    END IF;
    IF p_type = 'timer' AND v_run_at < v_now - interval '1 minute' THEN
        RAISE EXCEPTION 'run_at is %, which is past', v_run_at
            USING ERRCODE = '22023', HINT = 'a timer is for a moment to come; write now() for at once';
    END IF;
    IF octet_length(p_content_type) > 256 OR p_content_type ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'content_type is no media type'
            USING ERRCODE = '22023', HINT = 'write one such as application/json';
    END IF;
    PERFORM check_key(CASE p_type WHEN 'job' THEN 'unique_key' ELSE 'key' END, p_unique_key),
        check_key('ordering_key', p_ordering_key);
    -- A queue in order has one key for all its jobs.
    v_ordering_key := CASE WHEN v_trigger.in_order THEN '*' ELSE p_ordering_key END;
    IF v_trigger.in_order AND p_ordering_key IS NOT NULL THEN
        RAISE EXCEPTION 'ordering_key is given, and every job of queue % waits for the one before it',
            quote_literal(p_name)
            USING ERRCODE = '22023', HINT = 'leave it out';
    END IF;

    SELECT b.binding_id INTO v_binding_id FROM bindings b
    WHERE (b.namespace, b.function_name, b.trigger_id, b.trigger_type)
        = (v_trigger.namespace, v_trigger.name, v_trigger.trigger_id, p_type);

    IF p_unique_key IS NOT NULL OR v_ordering_key IS NOT NULL THEN
        v_locks := ARRAY[
            hashtextextended('u' || p_unique_key, v_binding_id), hashtextextended('o' || v_ordering_key, v_binding_id),
            (SELECT hashtextextended('o' || q.ordering_key, q.binding_id)
             FROM unique_keys u JOIN queue q USING (invocation_id)
             WHERE u.binding_id = v_binding_id AND u.unique_key = convert_to(p_unique_key, 'UTF8'))
        ];
        PERFORM lock_keys(v_locks);
    END IF;
    IF p_unique_key IS NOT NULL THEN
        SELECT u.invocation_id, hashtextextended('o' || q.ordering_key, q.binding_id) INTO v_holder, v_holder_lock
        FROM unique_keys u LEFT JOIN queue q USING (invocation_id)
        WHERE u.binding_id = v_binding_id AND u.unique_key = convert_to(p_unique_key, 'UTF8')
            AND CASE u.scope
                WHEN 'period' THEN u.held_until > v_now
                WHEN 'live' THEN q.invocation_id IS NOT NULL
                ELSE q.attempt = 1 AND q.claim_token IS NULL END;
        IF v_holder IS NOT NULL AND p_conflict = 'keep' THEN
            PERFORM count_events(v_binding_id, 'accepted', ''), count_events(v_binding_id, 'skipped', 'duplicate');
            RETURN v_holder;
        END IF;
    END IF;
    IF v_trigger.max_backlog IS NOT NULL THEN
        SELECT sum(CASE l.outcome WHEN 'accepted' THEN l.count ELSE -l.count END) INTO v_backlog
        FROM ledger l WHERE l.binding_id = v_binding_id;
        IF v_backlog >= v_trigger.max_backlog THEN
            RAISE EXCEPTION 'queue % has % jobs, its max_backlog is %', quote_literal(p_name), v_backlog,
                v_trigger.max_backlog
                USING ERRCODE = 'TL429', HINT = 'try again when some have ended, or raise max_backlog';
        END IF;
    END IF;
    -- One that runs already cannot be replaced: it goes on, and the new one is another event.
    IF v_holder IS NOT NULL THEN
        PERFORM lock_keys(ARRAY[v_holder_lock]);
        PERFORM take_back(v_holder);
    END IF;

    v_state := CASE WHEN v_run_at <= v_now THEN 1 ELSE 0 END;
    IF v_ordering_key IS NOT NULL THEN
        SELECT q.position INTO v_last FROM queue q
        WHERE q.binding_id = v_binding_id AND q.ordering_key = v_ordering_key ORDER BY q.position DESC LIMIT 1;
        IF FOUND THEN
            v_state := 2;
        END IF;
    END IF;
    INSERT INTO queue (
        invocation_id, binding_id, state, run_at, rank, attempt, redrive_count, ordering_key, position, unique_key,
        context, payload
    ) VALUES (
        v_id, v_binding_id, v_state, v_run_at, v_run_at - interval '1 minute' * v_priority, 1, 0, v_ordering_key,
        CASE WHEN v_ordering_key IS NOT NULL THEN coalesce(v_last, 0) + 1 END, p_unique_key,
        jsonb_strip_nulls(jsonb_build_object(
            'invocation_id', v_id, 'namespace', v_trigger.namespace, 'function_name', v_trigger.name,
            'trigger_id', v_trigger.trigger_id, 'trigger_type', p_type, 'custody', 'engine', 'attempt', 1,
            'depth', CASE WHEN v_depth IS NULL THEN 0 WHEN v_depth ~ '^[0-9]{1,9}$' THEN v_depth::bigint
                ELSE 4294967295 END, -- what is no number must not lower the guard
            'parent', CASE WHEN v_parent ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN v_parent END,
            'subject', CASE p_type WHEN 'job' THEN p_name ELSE p_name || '/' || p_unique_key END,
            'attributes', CASE p_type WHEN 'timer' THEN jsonb_build_array(
                jsonb_build_array('timer', p_name), jsonb_build_array('key', p_unique_key)) END,
            'content_type', p_content_type, 'headers', v_headers,
            'scheduled_at', moment_text(p_run_at), 'received_at', moment_text(v_now),
            'tracestate', header(v_headers, 'tracestate'),
            'traceparent', coalesce(
                header(v_headers, 'traceparent'),
                '00-' || replace(gen_random_uuid()::text, '-', '') || '-'
                    || substring(replace(gen_random_uuid()::text, '-', '') FROM 1 FOR 16) || '-01'
            ),
            'terms', nullif(jsonb_strip_nulls(jsonb_build_object(
                'priority', nullif(v_priority, 0), 'retry_count', p_max_retries,
                'result_ttl_seconds', v_trigger.result_ttl_seconds,
                'ordering', CASE WHEN v_ordering_key IS NOT NULL THEN jsonb_build_object('key', v_ordering_key) END,
                'unique', CASE WHEN p_unique_key IS NOT NULL THEN jsonb_build_object(
                    'key', p_unique_key, 'scope', 'live', 'conflict', p_conflict) END
            )), '{}')
        ))::text,
        coalesce(p_payload, '')
    );
    IF p_unique_key IS NOT NULL THEN
        INSERT INTO unique_keys (binding_id, unique_key, invocation_id, scope)
        VALUES (v_binding_id, convert_to(p_unique_key, 'UTF8'), v_id, 'live')
        ON CONFLICT (binding_id, unique_key) DO UPDATE SET
            invocation_id = excluded.invocation_id, scope = excluded.scope, held_until = NULL;
    END IF;
    PERFORM count_events(v_binding_id, 'accepted', '');
    PERFORM wake_engines();
    RETURN v_id;
END
$$;

-- Puts a job in a queue; with a unique key that a job holds which has not ended, that job is the answer.
CREATE OR REPLACE FUNCTION enqueue(
    queue text, payload bytea, content_type text DEFAULT NULL, headers jsonb DEFAULT NULL,
    unique_key text DEFAULT NULL, priority integer DEFAULT NULL, run_at timestamptz DEFAULT NULL,
    ordering_key text DEFAULT NULL, max_retries integer DEFAULT NULL
) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT accept_event('job', 'queue', $1, $2, $3, $4, $5, 'keep', $6, $7, $8, $9)
$$;

CREATE OR REPLACE FUNCTION enqueue(
    queue text, payload text, content_type text DEFAULT 'text/plain; charset=utf-8', headers jsonb DEFAULT NULL,
    unique_key text DEFAULT NULL, priority integer DEFAULT NULL, run_at timestamptz DEFAULT NULL,
    ordering_key text DEFAULT NULL, max_retries integer DEFAULT NULL
) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT accept_event('job', 'queue', $1, convert_to($2, 'UTF8'), $3, $4, $5, 'keep', $6, $7, $8, $9)
$$;

CREATE OR REPLACE FUNCTION enqueue(
    queue text, payload jsonb, content_type text DEFAULT 'application/json', headers jsonb DEFAULT NULL,
    unique_key text DEFAULT NULL, priority integer DEFAULT NULL, run_at timestamptz DEFAULT NULL,
    ordering_key text DEFAULT NULL, max_retries integer DEFAULT NULL
) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT accept_event('job', 'queue', $1, convert_to($2::text, 'UTF8'), $3, $4, $5, 'keep', $6, $7, $8, $9)
$$;

-- Sets a timer for a moment, in place of the one of the same key that has not begun.
CREATE OR REPLACE FUNCTION schedule(
    timer text, key text, run_at timestamptz, payload bytea DEFAULT '', content_type text DEFAULT NULL,
    headers jsonb DEFAULT NULL, priority integer DEFAULT NULL, max_retries integer DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF $2 IS NULL OR $3 IS NULL THEN
        RAISE EXCEPTION 'a timer needs a key and a moment'
            USING ERRCODE = '22004', HINT = 'write schedule(''timer'', ''key'', now() + interval ''1 hour'')';
    END IF;
    RETURN accept_event('timer', 'timers', $1, $4, $5, $6, $2, 'replace', $7, $3, NULL, $8);
END
$$;

CREATE OR REPLACE FUNCTION schedule(
    timer text, key text, run_at timestamptz, payload text, content_type text DEFAULT 'text/plain; charset=utf-8',
    headers jsonb DEFAULT NULL, priority integer DEFAULT NULL, max_retries integer DEFAULT NULL
) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT schedule($1, $2, $3, convert_to($4, 'UTF8'), $5, $6, $7, $8)
$$;

CREATE OR REPLACE FUNCTION schedule(
    timer text, key text, run_at timestamptz, payload jsonb, content_type text DEFAULT 'application/json',
    headers jsonb DEFAULT NULL, priority integer DEFAULT NULL, max_retries integer DEFAULT NULL
) RETURNS uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT schedule($1, $2, $3, convert_to($4::text, 'UTF8'), $5, $6, $7, $8)
$$;

-- Takes an event back that has not ended. True: it waited, and has not run since its last attempt, and will not. False:
-- it has ended, or is not known, or an attempt is under way, which is asked to stop.
CREATE OR REPLACE FUNCTION cancel(id uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    v_row record;
BEGIN
    SELECT q.binding_id, q.ordering_key INTO v_row FROM queue q WHERE q.invocation_id = $1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_row.ordering_key IS NOT NULL THEN
        PERFORM lock_keys(ARRAY[hashtextextended('o' || v_row.ordering_key, v_row.binding_id)]);
    END IF;
    PERFORM wake_engines();
    IF take_back($1) THEN
        RETURN true;
    END IF;
    UPDATE queue q SET cancel_requested_at = clock_timestamp() WHERE q.invocation_id = $1;
    RETURN false;
END
$$;

-- The same for the timer of a key.
CREATE OR REPLACE FUNCTION cancel(timer text, key text) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT coalesce(bool_or(cancel(u.invocation_id)), false)
    FROM triggers t JOIN functions f USING (function_id)
    JOIN bindings b ON (b.namespace, b.function_name, b.trigger_id, b.trigger_type)
        = (f.namespace, f.name, t.trigger_id, t.trigger_type)
    JOIN unique_keys u ON u.binding_id = b.binding_id AND u.unique_key = convert_to($2, 'UTF8')
    WHERE t.trigger_type = 'timer' AND t.config::json ->> 'timers' = $1
$$;

DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
END
$$;
