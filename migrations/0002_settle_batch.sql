-- One statement settles a batch. If a business, a key or a row is not as expected, the statement calls this function, which
-- undoes all of it.
CREATE FUNCTION refuse_batch() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a request or a key of the batch was written before' USING ERRCODE = 'EM001';
END
$$;
COMMENT ON FUNCTION refuse_batch() IS 'Ends the statement that calls it with the error EM001, which undoes everything that the statement wrote.';
