-- begin_settlement: no other settlement of the payment may begin; one that moves nothing is done with this
UPDATE card_verdicts
SET settlement_id = $3, settlement_method = $4, settlement_account_id = $5, settlement_category = $6, settlement_note = $7,
    unsettled = ($4 = 'CREDIT'), settle_time = CASE $4 WHEN 'OTHER' THEN clock_timestamp() END
WHERE operation_id = $1 AND attempt = $2 AND unsettled AND refusal_reason IS NOT NULL AND settlement_id IS NULL
RETURNING operation_id
