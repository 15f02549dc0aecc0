-- verify_keys: those of the keys that no unique index guards; each a table, its columns in order of their names, and for which
-- rows it counts (empty: for all)
SELECT k.table_name, k.columns, k.predicate
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (table_name, columns, predicate)
WHERE NOT EXISTS (
    SELECT 1
    FROM pg_index i
    WHERE i.indrelid = to_regclass(k.table_name) AND i.indisunique AND i.indisvalid AND i.indisready AND i.indexprs IS NULL
        AND coalesce(pg_get_expr(i.indpred, i.indrelid), '') = k.predicate
        AND k.columns = (
            SELECT string_agg(a.attname, ', ' ORDER BY a.attname)
            FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[])
        )
)
