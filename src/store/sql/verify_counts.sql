-- verify_counts: how much there is to verify
SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT count(*) FROM balances) AS balances,
       (SELECT count(*) FROM card_verdicts) AS verdicts, (SELECT count(*) FROM card_rules) AS rules,
       l.legs, o.operations, o.refusals, o.intents, o.reversals, o.entries + l.entries AS entries
FROM (SELECT count(*) AS legs, count(version) AS entries FROM operation_legs) AS l
CROSS JOIN (
    SELECT count(*) AS operations, count(refusal_reason) AS refusals, count(intent) AS intents,
           count(reversed_operation_id) AS reversals,
           count(source_version) + count(destination_version) AS entries
    FROM operations
) AS o
