-- Bearer tokens of callers. What is kept of a token's secret is its digest.

CREATE TABLE tokens (
    token_id text NOT NULL PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32), -- SHA-256
    functions text[] NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz -- NULL: never
);

CREATE INDEX tokens_by_namespace ON tokens (namespace, created_at, token_id);
