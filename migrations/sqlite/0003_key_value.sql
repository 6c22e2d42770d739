-- What functions keep under keys, and how much of it each namespace has.

CREATE TABLE kv (
    namespace TEXT NOT NULL,
    bucket TEXT NOT NULL,
    key BLOB NOT NULL, -- UTF-8; in bytes, so that keys with one beginning are one range
    value BLOB NOT NULL,
    version INTEGER NOT NULL, -- of its namespace, never the same twice
    expires_at INTEGER, -- NULL: never
    PRIMARY KEY (namespace, bucket, key)
) STRICT;

CREATE INDEX kv_by_expiry ON kv (expires_at) WHERE expires_at IS NOT NULL;

-- Entries that have expired count until they are removed.
CREATE TABLE kv_usage (
    namespace TEXT NOT NULL PRIMARY KEY,
    keys INTEGER NOT NULL,
    bytes INTEGER NOT NULL, -- of keys and values
    version INTEGER NOT NULL -- the newest
) STRICT;
