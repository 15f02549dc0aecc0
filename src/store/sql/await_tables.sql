-- await_tables: waits while somebody alters a table that batches write to; the locks are given back at once
LOCK TABLE accounts, balances, operations, entry_marks, operation_legs IN ROW EXCLUSIVE MODE
