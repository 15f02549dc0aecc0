-- verify_accounts: each account has its main balance and as many others as main counts, all in one currency; only main says
-- what state the account is in; exactly the accounts are closed that a merge emptied or that were closed last, and then empty; an
-- account that was frozen by an operation is so as its last one says; who gets the transfers to an owner is the owner's settlement
-- account
SELECT format('account %s: %s', account_id, fault)
FROM (
    SELECT coalesce(a.account_id, b.account_id, m.account_id) AS account_id, coalesce(
        CASE WHEN a.account_id IS NULL THEN 'it does not exist, and something belongs to it' END,
        CASE WHEN a.account_id ~ '[^A-Za-z0-9._:-]' OR length(a.account_id) NOT BETWEEN 1 AND 64
                OR a.owner_id ~ '[^A-Za-z0-9._:-]' OR length(a.owner_id) NOT BETWEEN 1 AND 64
            THEN 'its id or its owner breaks the rule of ids' END,
        CASE WHEN a.currency_code !~ '^[A-Z]{3}$' THEN format('its currency %s is not one', a.currency_code) END,
        CASE WHEN a.create_time NOT BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
            THEN 'its time is not one' END,
        CASE WHEN a.labels IS NOT NULL
                AND (jsonb_typeof(a.labels) <> 'object' OR a.labels = '{}'
                     OR a.labels @? 'strict $.* ? (@.type() <> "string")')
            THEN 'its labels are not a map of texts' END,
        CASE WHEN b.main_count IS DISTINCT FROM 1 THEN 'it has no balance main' END,
        CASE WHEN b.sibling_count <> b.balance_count - 1
            THEN format('its balance main counts %s others, there are %s', b.sibling_count, b.balance_count - 1) END,
        CASE WHEN b.lowest <> a.currency_code OR b.highest <> a.currency_code
            THEN 'the currency of a balance is not that of the account' END,
        CASE WHEN NOT b.are_categories_valid THEN 'a category breaks the rule of categories' END,
        CASE WHEN b.is_state_misplaced THEN 'another balance than main has a state of the account' END,
        CASE WHEN b.closed AND m.merge_count IS NULL AND s.state IS DISTINCT FROM 'CLOSE'
            THEN 'it is closed, and no operation closed it' END,
        CASE WHEN s.state = 'CLOSE' AND b.closed IS NOT TRUE THEN 'an operation closed it, and it is not closed' END,
        CASE WHEN s.state = 'CLOSE' AND b.is_empty IS NOT TRUE THEN 'an operation closed it, and it is not empty' END,
        CASE WHEN (s.debits = 'FREEZE') <> b.debits_frozen THEN 'its debits are not as its last freeze says' END,
        CASE WHEN (s.credits = 'FREEZE') <> b.credits_frozen THEN 'its credits are not as its last freeze says' END,
        CASE WHEN m.merge_count > 1 THEN 'more than one merge closed it' END,
        CASE WHEN m.merge_count > 0 AND b.closed IS NOT TRUE THEN 'a merge closed it, and it is not closed' END,
        CASE WHEN m.merge_count > 0 AND b.is_empty IS NOT TRUE THEN 'a merge closed it, and it is not empty' END,
        CASE WHEN a.settlement AND b.closed THEN 'it is closed and a settlement account' END,
        CASE WHEN p.account_id IS NOT NULL AND NOT a.settlement AND NOT b.closed
            THEN 'it got transfers to its owner, and is not the settlement account' END
        ) AS fault
    FROM accounts a
    FULL JOIN (
        SELECT account_id, count(*) FILTER (WHERE category = 'main') AS main_count, count(*) AS balance_count,
               max(sibling_count) FILTER (WHERE category = 'main') AS sibling_count,
               min(currency_code) AS lowest, max(currency_code) AS highest,
               coalesce(bool_or(closed) FILTER (WHERE category = 'main'), false) AS closed,
               bool_or(debits_frozen AND category = 'main') AS debits_frozen,
               bool_or(credits_frozen AND category = 'main') AS credits_frozen,
               bool_and(posted = 0 AND held = 0) AS is_empty,
               bool_and(category !~ '[^A-Za-z0-9._:-]' AND length(category) BETWEEN 1 AND 32) AS are_categories_valid,
               -- Who freezes an account by hand may do so in all its rows.
               bool_or(closed OR sibling_count <> 0) FILTER (WHERE category <> 'main')
                   OR bool_or(debits_frozen) FILTER (WHERE category <> 'main') > bool_or(debits_frozen AND category = 'main')
                   OR bool_or(credits_frozen) FILTER (WHERE category <> 'main') > bool_or(credits_frozen AND category = 'main')
                   AS is_state_misplaced
        FROM balances
        GROUP BY account_id
    ) AS b ON b.account_id = a.account_id
    FULL JOIN (
        SELECT source_account_id AS account_id, count(*) AS merge_count
        FROM operations
        WHERE kind = 'MERGE' AND refusal_reason IS NULL AND source_account_id IS NOT NULL
        GROUP BY source_account_id
    ) AS m ON m.account_id = a.account_id
    LEFT JOIN (
        SELECT source_account_id AS account_id,
               (array_agg(kind ORDER BY create_time DESC) FILTER (WHERE kind IN ('CLOSE', 'REOPEN')))[1] AS state,
               (array_agg(kind ORDER BY create_time DESC) FILTER (WHERE intent ->> 'debits' = 'true'))[1] AS debits,
               (array_agg(kind ORDER BY create_time DESC) FILTER (WHERE intent ->> 'credits' = 'true'))[1] AS credits
        FROM operations
        WHERE kind IN ('FREEZE', 'UNFREEZE', 'CLOSE', 'REOPEN') AND refusal_reason IS NULL
        GROUP BY source_account_id
    ) AS s ON s.account_id = a.account_id
    LEFT JOIN (
        SELECT DISTINCT destination_account_id AS account_id FROM operations WHERE destination_owner_id IS NOT NULL
    ) AS p ON p.account_id = a.account_id
    OFFSET 0
) AS a
WHERE fault IS NOT NULL
