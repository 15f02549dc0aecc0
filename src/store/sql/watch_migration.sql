-- watch_migration: what the session of a migration waits for, and how far it is with an index
SELECT pg_blocking_pids(a.pid) AS blocking_pids, p.phase,
       CASE WHEN p.blocks_total > 0 THEN p.blocks_done ELSE p.tuples_done END AS done,
       CASE WHEN p.blocks_total > 0 THEN p.blocks_total ELSE p.tuples_total END AS total
FROM pg_stat_activity a
LEFT JOIN pg_stat_progress_create_index p ON p.pid = a.pid
WHERE a.pid = $1
