-- await_operation: waits until nobody else is about to record this id; the row itself is taken back by a ROLLBACK
INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id, refusal_reason, refusal_facts)
VALUES ($1, 'CREDIT', 1, 'XXX', clock_timestamp(), '', 'PROBE', '{}')
