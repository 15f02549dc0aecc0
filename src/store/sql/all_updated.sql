-- all_updated: the new row ids of `updated`, in the order of the old ones; fails before the COMMIT behind it if a row was not there
SELECT array_agg(row_id) AS row_ids, 1 / (count(*) = cardinality(:balances.row_id))::integer AS all_there FROM updated
