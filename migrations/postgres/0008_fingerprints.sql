-- What the event said that a key was accepted with, by which the same event is told from another one with its key.
ALTER TABLE accepted_keys ADD COLUMN fingerprint bytea CHECK (length(fingerprint) = 16);
