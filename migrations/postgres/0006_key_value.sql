-- What functions keep under keys, and how much of it each namespace has.

CREATE TABLE kv (
    namespace text NOT NULL,
    bucket text NOT NULL,
    key bytea NOT NULL, -- UTF-8; in bytes, so that keys with one beginning are one range
    value bytea NOT NULL,
    version bigint NOT NULL, -- never the same twice
    expires_at timestamptz, -- NULL: never
    PRIMARY KEY (namespace, bucket, key)
);

CREATE INDEX kv_by_expiry ON kv (expires_at) WHERE expires_at IS NOT NULL;

CREATE SEQUENCE kv_versions;

-- Entries that have expired count until they are removed. In stripes, so that writers do not queue up for one row: only
-- their sum means something.
CREATE TABLE kv_usage (
    namespace text NOT NULL,
    stripe smallint NOT NULL,
    keys bigint NOT NULL,
    bytes bigint NOT NULL, -- of keys and values
    PRIMARY KEY (namespace, stripe)
);
