-- Bearer tokens of callers. What is kept of a token's secret is its digest.

CREATE TABLE tokens (
    token_id TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32), -- SHA-256
    functions TEXT NOT NULL, -- JSON, a list of names
    scopes TEXT NOT NULL, -- JSON, a list of words
    created_at INTEGER NOT NULL,
    expires_at INTEGER -- NULL: never
) STRICT;

CREATE INDEX tokens_by_namespace ON tokens (namespace, created_at, token_id);
