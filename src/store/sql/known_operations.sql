-- known_operations: a later statement than the lock, so it sees whatever the lock waited for; the time, and who replays
SELECT clock_timestamp() AS now,
       ARRAY(SELECT operation_id FROM operations WHERE operation_id = ANY($1)) AS operation_ids
