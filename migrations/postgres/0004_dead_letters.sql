-- The message in a failure's JSON, to look for texts in it. NULL where it cannot be read: one damaged row must not keep
-- the others from being found. `json` refuses a NUL in a string that is taken out of it.
CREATE FUNCTION failure_message(failure text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN replace(failure, '\u0000', '\ufffd')::json ->> 'message';
EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
    RETURN NULL;
END
$$;
