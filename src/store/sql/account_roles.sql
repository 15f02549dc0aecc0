-- account_roles: whose accounts are, whether they receive for their owners, which account a merge moved each into, and when each was
-- changed or refused last without an entry; for merges and changes of accounts, whose main is locked by now
SELECT a.account_id, a.owner_id, a.settlement,
       (
           SELECT o.destination_account_id
           FROM operations o
           WHERE o.source_account_id = a.account_id AND o.kind = 'MERGE' AND o.refusal_reason IS NULL
           LIMIT 1
       ) AS merged_into,
       (
           SELECT o.create_time
           FROM operations o
           WHERE o.source_account_id = a.account_id AND o.source_version IS NULL
           ORDER BY o.create_time DESC
           LIMIT 1
       ) AS change_time
FROM accounts a
WHERE a.account_id = ANY($1)
