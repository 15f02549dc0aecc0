-- operations_of_account, before list_operation_ids
listed_accounts (account_id) AS (
    SELECT $1::text COLLATE "C"
),
