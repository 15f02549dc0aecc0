-- all_updated: the new places of `updated`, in the order of the old ones; fails before the COMMIT behind it if a row was not there
SELECT array_agg(row_id) AS row_ids, 1 / (count(*) = cardinality($1))::integer AS all_there FROM updated
