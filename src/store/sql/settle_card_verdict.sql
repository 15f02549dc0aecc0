-- settle_card_verdict: nothing is left to be done about a payment that was answered 07
UPDATE card_verdicts SET unsettled = false WHERE operation_id = $1 AND attempt = $2 AND unsettled
