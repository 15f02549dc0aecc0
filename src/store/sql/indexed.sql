-- indexed, after recorded: every 16th entry of a balance, for a batch that has any; the primary key refuses such a version if
-- it is already there
, indexed AS (
    INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
    SELECT unnest(:entry_marks.account_id::text[]), unnest(:entry_marks.category::text[]),
           unnest(:entry_marks.version::bigint[]), unnest(:entry_marks.operation_id::text[]),
           unnest(:entry_marks.create_time::timestamptz[])
)
