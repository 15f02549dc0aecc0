-- end_settlement: the credit of a settlement is posted, or it is refused for ever, and another settlement may begin
UPDATE card_verdicts
SET unsettled = NOT $4, settle_time = CASE WHEN $4 THEN clock_timestamp() END,
    settlement_id = CASE WHEN $4 THEN settlement_id END,
    settlement_method = CASE WHEN $4 THEN settlement_method END,
    settlement_account_id = CASE WHEN $4 THEN settlement_account_id END,
    settlement_category = CASE WHEN $4 THEN settlement_category END,
    settlement_note = CASE WHEN $4 THEN settlement_note END
WHERE operation_id = $1 AND attempt = $2 AND unsettled AND settlement_id = $3
