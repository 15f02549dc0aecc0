-- insert_legs: what an operation changed besides its first debit and its first credit, and where else a refused one is listed
INSERT INTO operation_legs (
    operation_id, account_id, category, position, amount, version, posted_after, held_after, available_after, previous_id,
    refuse_time
)
SELECT unnest(:legs.operation_id::text[]), unnest(:legs.account_id::text[]), unnest(:legs.category::text[]),
       unnest(:legs.position::integer[]), unnest(:legs.amount::bigint[]), unnest(:legs.version::bigint[]),
       unnest(:legs.posted_after::bigint[]), unnest(:legs.held_after::bigint[]),
       unnest(:legs.available_after::bigint[]), unnest(:legs.previous_id::text[]),
       unnest(:legs.refuse_time::timestamptz[])
