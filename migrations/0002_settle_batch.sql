-- A batch is settled by one statement, which has to undo itself when it finds that it came too late.
CREATE FUNCTION refuse_batch() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a request or a key of the batch was written before' USING ERRCODE = 'EM001';
END
$$;
COMMENT ON FUNCTION refuse_batch() IS 'Ends the statement that calls it, and undoes everything that it wrote.';
