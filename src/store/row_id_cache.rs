//! The row-id cache: the row ids (TIDs) that the balances `main` had when this process last changed them. A row is locked by
//! its row id without a descent through the index, and without a look at its page's dead versions.
//!
//! A cached row id is a hint and nothing more. The row that is found there says whose it is, and all that counts is read from
//! it under its lock. Where there is none, or another account's, somebody else moved it, and it is found by its key.

mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::row::RowId;
use crate::domain::AccountId;
use table::Table;

/// So many known ones are worth a statement of their own, also beside more that are not known.
const WORTH_A_STATEMENT: usize = 32;
/// Every so many batches, all rows are found by their keys: that is what makes PostgreSQL prune the pages of their dead
/// versions. Rows that are only ever found by their row ids fill their pages, and then move to others, which is no longer a
/// HOT update.
const BATCHES_PER_PRUNING: u32 = 8;
/// For so many batches no row id is believed after many were wrong: other instances change the same accounts.
const BATCHES_OF_DOUBT: u32 = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RowIdCache(Mutex<Known>);

/// The row ids, and how far they are believed.
#[derive(Debug, Default)]
struct Known {
    table: Table,
    batches: u32,
    batches_of_doubt: u32,
}

impl RowIdCache {
    /// The known row ids of these accounts, and the accounts that have to be found by their keys, in the order given.
    /// Few known ones are not worth a statement of their own: then none is named.
    pub(super) fn split<'a>(&self, account_ids: &[&'a AccountId]) -> (Vec<RowId>, Vec<&'a str>) {
        let mut known = self.known();
        let mut row_ids = Vec::with_capacity(account_ids.len());
        let mut unknown = Vec::new();
        known.batches = known.batches.wrapping_add(1);
        if known.batches_of_doubt > 0 {
            known.batches_of_doubt -= 1;
        } else if !known.batches.is_multiple_of(BATCHES_PER_PRUNING) {
            for account_id in account_ids {
                match known.table.get(account_id) {
                    Some(row_id) => row_ids.push(row_id),
                    None => unknown.push(account_id.as_str()),
                }
            }
        }
        if row_ids.len() <= unknown.len().min(WORTH_A_STATEMENT) {
            row_ids.clear();
            unknown = account_ids.iter().map(|id| id.as_str()).collect();
        }
        (row_ids, unknown)
    }

    /// Takes note of how many rows still had their row ids.
    pub(super) fn judge(&self, asked: usize, found: usize) {
        if found < asked - asked / 4 {
            self.known().batches_of_doubt = BATCHES_OF_DOUBT;
        }
    }

    /// Remembers where rows are now.
    pub(super) fn remember<'a>(&self, row_ids: impl Iterator<Item = (&'a AccountId, RowId)>) {
        let mut known = self.known();
        for (account_id, row_id) in row_ids {
            known.table.put(account_id, row_id);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whatever a panic left here, they are hints.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: usize) -> AccountId {
        AccountId::from_stored(&format!("account-{number}"))
    }

    fn row_id(number: usize) -> RowId {
        RowId::new(0, number as u16 + 1)
    }

    fn known_count(cache: &RowIdCache, account_ids: &[&AccountId]) -> usize {
        let (row_ids, unknown) = cache.split(account_ids);
        assert_eq!(row_ids.len() + unknown.len(), account_ids.len());
        row_ids.len()
    }

    #[test]
    fn known_row_ids_are_used_and_every_eighth_batch_prunes() {
        let cache = RowIdCache::default();
        let (one, two) = (account(1), account(2));
        assert_eq!(known_count(&cache, &[&one, &two]), 0);
        cache.remember([(&one, row_id(1)), (&two, row_id(2))].into_iter());
        let counts: Vec<usize> = (2..=16)
            .map(|_| known_count(&cache, &[&one, &two]))
            .collect();
        assert_eq!(counts, [2, 2, 2, 2, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2, 0]);
    }

    #[test]
    fn row_ids_that_are_often_wrong_are_not_believed_for_a_while() {
        let cache = RowIdCache::default();
        let one = account(1);
        cache.remember([(&one, row_id(1))].into_iter());
        cache.judge(100, 75);
        assert_eq!(known_count(&cache, &[&one]), 1);
        cache.judge(100, 74);
        let batch_with_one = (1..).find(|_| known_count(&cache, &[&one]) == 1);
        assert_eq!(batch_with_one, Some(BATCHES_OF_DOUBT + 1));
    }

    #[test]
    fn a_few_known_row_ids_among_many_accounts_are_not_worth_a_statement() {
        let cache = RowIdCache::default();
        let account_ids: Vec<AccountId> = (0..5).map(account).collect();
        let account_ids: Vec<&AccountId> = account_ids.iter().collect();
        let remember = |number: usize| {
            cache.remember([(account_ids[number], row_id(number))].into_iter());
        };
        remember(0);
        remember(1);
        assert_eq!(known_count(&cache, &account_ids), 0);
        remember(2);
        assert_eq!(known_count(&cache, &account_ids), 3);
    }

    #[test]
    fn many_known_row_ids_are_worth_a_statement_among_any_number() {
        let cache = RowIdCache::default();
        let account_ids: Vec<AccountId> = (0..1000).map(account).collect();
        let account_ids: Vec<&AccountId> = account_ids.iter().collect();
        let remember = |numbers: std::ops::Range<usize>| {
            cache.remember(numbers.map(|number| (account_ids[number], row_id(number))));
        };
        remember(0..WORTH_A_STATEMENT);
        assert_eq!(known_count(&cache, &account_ids), 0);
        remember(WORTH_A_STATEMENT..WORTH_A_STATEMENT + 1);
        assert_eq!(known_count(&cache, &account_ids), WORTH_A_STATEMENT + 1);
    }
}
