//! The table of row ids: eight bytes for each, so that those of millions of accounts fit into little memory. It keeps no
//! account ids, only parts of their hashes, and so it may now and then say a row id for an account that it does not know.

use std::hash::BuildHasher;

use crate::domain::AccountId;
use crate::store::row::RowId;

/// One line of a processor's cache.
const WAYS: usize = 8;
/// A bucket is known by so many first bits of a hash at first: 65,536 row ids, 0.5 MB.
const BUCKET_BITS_MIN: u32 = 13;
/// 8,388,608 row ids, 64 MB.
const BUCKET_BITS_MAX: u32 = 20;
/// So many bits of the hash after the first ones tell the accounts of a bucket apart, less those that a larger table finds
/// the bucket by: an account that is not known is taken for another one once in four million times, and once in 32,768
/// times when the table is at its largest and full.
const TAG_BITS: u32 = 25;

const BLOCK_BITS: u32 = 28;
const OFFSET_BITS: u32 = 11;

/// See the module. When half of it is taken it doubles; at its largest, new row ids take the room of others.
#[derive(Debug)]
pub(super) struct Table {
    buckets: Vec<Bucket>,
    bucket_bits: u32,
    bucket_bits_max: u32,
    count: usize,
    hasher: foldhash::quality::RandomState,
}

/// Each slot is 0 if it is empty, else from high to low: the tag, the block number and the offset number, which
/// is never 0.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket([u64; WAYS]);

/// A hash, as the table reads it.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn bucket(self, bucket_bits: u32) -> usize {
        (self.0 >> (u64::BITS - bucket_bits)) as usize
    }

    fn tag(self) -> u64 {
        (self.0 << BUCKET_BITS_MIN) >> (u64::BITS - TAG_BITS)
    }

    /// One of the ways of a bucket, by bits that nothing else is told by.
    fn way(self) -> usize {
        self.0 as usize % WAYS
    }
}

fn tag_of(slot: u64) -> u64 {
    slot >> (BLOCK_BITS + OFFSET_BITS)
}

fn slot(tag: u64, row_id: RowId) -> Option<u64> {
    let (block, offset) = (u64::from(row_id.block()), u64::from(row_id.offset()));
    let fits = block >> BLOCK_BITS == 0 && offset >> OFFSET_BITS == 0 && offset > 0;
    fits.then_some((tag << BLOCK_BITS | block) << OFFSET_BITS | offset)
}

fn row_id_of(slot: u64) -> RowId {
    let block = (slot >> OFFSET_BITS) & ((1 << BLOCK_BITS) - 1);
    let offset = slot & ((1 << OFFSET_BITS) - 1);
    // Both are that small.
    RowId::new(block as u32, offset as u16)
}

impl Default for Table {
    fn default() -> Self {
        Self::growing_to(BUCKET_BITS_MAX)
    }
}

impl Table {
    fn growing_to(bucket_bits_max: u32) -> Self {
        Self {
            buckets: vec![Bucket::default(); 1 << BUCKET_BITS_MIN],
            bucket_bits: BUCKET_BITS_MIN,
            bucket_bits_max,
            count: 0,
            hasher: <_>::default(),
        }
    }

    /// The row id of an account, if it is known.
    pub(super) fn get(&self, account_id: &AccountId) -> Option<RowId> {
        let hash = self.hash(account_id);
        let Bucket(slots) = &self.buckets[hash.bucket(self.bucket_bits)];
        let found = |slot: &&u64| **slot != 0 && tag_of(**slot) == hash.tag();
        slots.iter().find(found).map(|slot| row_id_of(*slot))
    }

    /// Remembers a row id. One of a block with too high a number is not remembered: then a table has more than 2 TB.
    pub(super) fn put(&mut self, account_id: &AccountId, row_id: RowId) {
        let hash = self.hash(account_id);
        let Some(new) = slot(hash.tag(), row_id) else {
            return;
        };
        if self.count > self.buckets.len() * WAYS / 2 && self.bucket_bits < self.bucket_bits_max {
            self.grow();
        }
        let Bucket(slots) = &mut self.buckets[hash.bucket(self.bucket_bits)];
        let known = |slot: &u64| *slot != 0 && tag_of(*slot) == hash.tag();
        let way = slots.iter().position(known);
        let way = way.or_else(|| slots.iter().position(|slot| *slot == 0));
        let way = way.unwrap_or(hash.way());
        self.count += usize::from(slots[way] == 0);
        slots[way] = new;
    }

    /// Twice as many buckets. The first bits of a tag say to which of two buckets each row id goes.
    fn grow(&mut self) {
        let shift = TAG_BITS - 1 - (self.bucket_bits - BUCKET_BITS_MIN);
        let mut buckets = vec![Bucket::default(); 2 * self.buckets.len()];
        for (old, new) in self.buckets.iter().zip(buckets.chunks_exact_mut(2)) {
            for (way, slot) in old.0.into_iter().enumerate().filter(|(_, slot)| *slot != 0) {
                let upper = (tag_of(slot) >> shift) & 1;
                new[upper as usize].0[way] = slot;
            }
        }
        self.buckets = buckets;
        self.bucket_bits += 1;
    }

    fn hash(&self, account_id: &AccountId) -> Hash {
        Hash(self.hasher.hash_one(account_id.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: u32) -> AccountId {
        AccountId::from_stored(&format!("account-{number}"))
    }

    fn row_id(number: u32) -> RowId {
        RowId::new(number / 50, (number % 50 + 1) as u16)
    }

    fn filled(count: u32, bucket_bits_max: u32) -> Table {
        let mut table = Table::growing_to(bucket_bits_max);
        for number in 0..count {
            table.put(&account(number), row_id(number));
        }
        table
    }

    fn right_count(table: &Table, numbers: std::ops::Range<u32>) -> usize {
        let is_right = |number: &u32| table.get(&account(*number)) == Some(row_id(*number));
        numbers.filter(is_right).count()
    }

    #[test]
    fn it_grows_and_keeps_nearly_all() {
        let table = filled(500_000, BUCKET_BITS_MAX);
        assert_eq!(table.bucket_bits, BUCKET_BITS_MIN + 4);
        assert!(right_count(&table, 0..500_000) > 490_000);
        let count: usize = table
            .buckets
            .iter()
            .map(|bucket| bucket.0.iter().filter(|slot| **slot != 0).count())
            .sum();
        assert_eq!(count, table.count);
    }

    #[test]
    fn what_is_not_known_has_no_row_id() {
        let table = filled(500_000, BUCKET_BITS_MAX);
        let wrong = (500_000..1_000_000).filter(|number| table.get(&account(*number)).is_some());
        // By chance it is one.
        assert!(wrong.count() < 30);
    }

    #[test]
    fn memory_is_bounded_and_most_of_the_latest_row_ids_stay() {
        let table = filled(500_000, BUCKET_BITS_MIN + 1);
        assert_eq!(table.buckets.len(), 1 << (BUCKET_BITS_MIN + 1));
        assert!(right_count(&table, 490_000..500_000) > 8_000);
        assert!(right_count(&table, 0..100_000) < 10_000);
    }

    #[test]
    fn a_row_id_is_the_latest_one() {
        let mut table = Table::default();
        table.put(&account(1), row_id(1));
        table.put(&account(1), row_id(2));
        assert_eq!(table.get(&account(1)), Some(row_id(2)));
        assert_eq!(table.count, 1);
        let last = RowId::new((1 << BLOCK_BITS) - 1, (1 << OFFSET_BITS) - 1);
        table.put(&account(1), last);
        assert_eq!(table.get(&account(1)), Some(last));
        table.put(&account(2), RowId::new(1 << BLOCK_BITS, 1));
        assert_eq!(table.get(&account(2)), None);
    }
}
