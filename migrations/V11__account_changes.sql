-- Changes of accounts. Reopening asks whether a merge emptied the account: merges that posted are found by their source.
-- Instances of the version before go on while this runs, and after it. They answer INTERNAL for operations of the new kinds.

SET LOCAL statement_timeout = 0;
CREATE INDEX operations_merged ON operations (source_account_id) WHERE kind = 'MERGE' AND refusal_reason IS NULL;
