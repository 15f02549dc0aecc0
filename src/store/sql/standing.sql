-- standing: which server answers, and what keeps it from taking what Ballast writes
WITH needed AS (
    SELECT n.name, n.privilege, to_regclass(n.name) AS relation
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS n (name, privilege, number)
), lacking AS (
    SELECT name, string_agg(privilege, ', ') AS privileges
    FROM needed
    WHERE NOT has_table_privilege(relation, privilege)
    GROUP BY name
)
SELECT pg_postmaster_start_time()::text AS server,
       pg_is_in_recovery() AS is_standby,
       current_setting('transaction_read_only') = 'on' AS is_read_only,
       current_user::text AS role,
       (SELECT string_agg(DISTINCT name, ', ') FROM needed WHERE relation IS NULL) AS missing_tables,
       (SELECT string_agg(privileges || ' on ' || name, '; ' ORDER BY name) FROM lacking) AS lacking_privileges
