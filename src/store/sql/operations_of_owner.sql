-- operations_of_owner, before list_operation_ids: all accounts of the owner, however many
listed_accounts AS (
    SELECT account_id FROM accounts WHERE owner_id = $1
),
