-- card_lookup: what an authorization has to know first: the account's currency, both rules, what stands about its payment
SELECT (SELECT currency_code FROM accounts WHERE account_id = $1) AS currency_code,
       (SELECT category FROM card_rules WHERE kind = 'MERCHANT' AND pattern = $2) AS merchant_category,
       (SELECT category FROM card_rules WHERE kind = 'MCC' AND pattern = $3) AS mcc_category,
       stands.*
FROM (VALUES (true)) AS always
LEFT JOIN (
    SELECT v.verdict, v.unsettled, v.reversal_id, v.refusal_reason, v.settlement_id
    FROM operations o
    JOIN card_verdicts v ON v.operation_id = o.operation_id AND v.attempt = o.metadata ->> 'attempt'
    WHERE o.operation_id = $4
) AS stands ON true
