//! Quarantine: accounts whose jobs the database rejects. For some seconds each of their jobs is alone in its
//! transaction, and they go one by one with a pause, so that their neighbours do not pay for them. The first one that is
//! executed ends it.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{AccountId, Map};

/// The pause between two jobs on one account.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an account is in quarantine after the last rejection.
const LENGTH: Duration = Duration::from_secs(5);
/// The most accounts. What fails beyond it fails with its neighbours.
const COUNT_MAX: usize = 10_000;

#[derive(Debug)]
struct Suspect {
    /// When its next job may go.
    next: Instant,
    /// When one went last; `None`: none did.
    turn: Option<Instant>,
    end: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    accounts: Map<AccountId, Suspect>,
}

impl Quarantine {
    pub(super) fn contains(&self, account_id: &AccountId) -> bool {
        !self.accounts.is_empty() && self.accounts.contains_key(account_id)
    }

    /// Jobs on these accounts were rejected alone. Returns how many accounts are newly in quarantine: none, if one of
    /// these accounts is already known to be the cause. Their next jobs may go at once: one that is executed shows that
    /// its accounts are not the cause.
    pub(super) fn note_rejected(&mut self, suspects: &[AccountId], now: Instant) -> usize {
        let mut is_explained = false;
        for account_id in suspects {
            if let Some(suspect) = self.accounts.get_mut(account_id) {
                suspect.next = now + PAUSE;
                suspect.end = now + LENGTH;
                is_explained = true;
            }
        }
        if is_explained || self.accounts.len() >= COUNT_MAX {
            return 0;
        }
        for account_id in suspects {
            let suspect = Suspect {
                next: now,
                turn: None,
                end: now + LENGTH,
            };
            self.accounts.insert(account_id.clone(), suspect);
        }
        suspects.len()
    }

    /// A job on this account was executed.
    pub(super) fn note_executed(&mut self, account_id: &AccountId) {
        if !self.accounts.is_empty() {
            self.accounts.remove(account_id);
        }
    }

    /// The accounts whose next job may go. The one whose last turn is longest ago comes first: of the accounts that one
    /// rejected job named, the one that is not the cause must have a turn of its own to show it.
    pub(super) fn due(&self, now: Instant) -> Vec<AccountId> {
        let due = self
            .accounts
            .iter()
            .filter(|(_, suspect)| suspect.next <= now);
        let mut due: Vec<_> = due.collect();
        due.sort_unstable_by_key(|(_, suspect)| suspect.turn);
        due.into_iter()
            .map(|(account_id, _)| account_id.clone())
            .collect()
    }

    /// A job of this account goes now.
    pub(super) fn note_turn(&mut self, account_id: &AccountId, now: Instant) {
        if let Some(suspect) = self.accounts.get_mut(account_id) {
            suspect.turn = Some(now);
        }
    }

    /// Ends the quarantine of accounts that had no rejection for long enough.
    pub(super) fn take_over(&mut self, now: Instant) -> Vec<AccountId> {
        let over = self
            .accounts
            .iter()
            .filter(|(_, suspect)| suspect.end <= now);
        let over: Vec<AccountId> = over.map(|(account_id, _)| account_id.clone()).collect();
        for account_id in &over {
            self.accounts.remove(account_id);
        }
        over
    }

    /// When to look again; `None`: no account is in quarantine.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let next = |suspect: &Suspect| match suspect.next > now {
            true => suspect.next.min(suspect.end),
            false => suspect.end,
        };
        self.accounts.values().map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AccountId {
        AccountId::from_stored(text)
    }

    #[test]
    fn the_neighbour_of_a_known_cause_is_no_suspect() {
        let mut quarantine = Quarantine::default();
        let now = Instant::now();
        assert_eq!(quarantine.note_rejected(&[id("bad")], now), 1);
        assert_eq!(quarantine.due(now), [id("bad")]);
        assert_eq!(quarantine.note_rejected(&[id("bad"), id("good")], now), 0);
        assert!(quarantine.contains(&id("bad")) && !quarantine.contains(&id("good")));
        assert!(quarantine.due(now).is_empty(), "after a pause");
        assert_eq!(quarantine.due(now + PAUSE), [id("bad")]);
    }

    #[test]
    fn two_suspects_have_their_turns_one_after_the_other() {
        let mut quarantine = Quarantine::default();
        let mut now = Instant::now();
        quarantine.note_rejected(&[id("bad"), id("good")], now);
        let first = quarantine.due(now)[0].clone();
        quarantine.note_turn(&first, now);
        // It was a command of both, and it was rejected again.
        quarantine.note_rejected(&[id("bad"), id("good")], now);
        now += PAUSE;
        assert_eq!(quarantine.due(now).len(), 2);
        assert_ne!(quarantine.due(now)[0], first);
    }

    #[test]
    fn it_ends_with_an_execution_or_after_its_time() {
        let mut quarantine = Quarantine::default();
        let now = Instant::now();
        quarantine.note_rejected(&[id("a"), id("b")], now);
        quarantine.note_executed(&id("a"));
        assert!(!quarantine.contains(&id("a")));
        assert_eq!(quarantine.next(now), Some(now + LENGTH));
        assert_eq!(quarantine.take_over(now + LENGTH), [id("b")]);
        assert_eq!(quarantine.next(now), None);
    }
}
