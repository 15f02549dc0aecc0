//! What the schedule does about accounts in quarantine.

use tokio::time::Instant;

use super::{Holder, Schedule};
use crate::domain::AccountId;
use crate::store::Ledger;

impl<L: Ledger> Schedule<L> {
    /// Starts one job of each account in quarantine whose turn it is, alone.
    pub(super) fn run_quarantined(&mut self) {
        let now = Instant::now();
        if self.quarantine.next(now).is_none() {
            return;
        }
        for account_id in self.quarantine.take_over(now) {
            if self.holder(&account_id) == Holder::Quarantine {
                self.release(account_id);
            }
        }
        for account_id in self.quarantine.due(now) {
            if !self.has_free_lane() {
                return;
            }
            self.run_quarantined_at(&account_id, now);
        }
    }

    /// Starts the oldest job that waits for this account, unless another account keeps it out.
    fn run_quarantined_at(&mut self, account_id: &AccountId, now: Instant) {
        while self.holder(account_id) == Holder::Quarantine {
            let Some(mut ticket) = self.take_waiting(account_id) else {
                return;
            };
            if self.end_if_pointless(&mut ticket, now) {
                ticket.end();
                continue;
            }
            let Some(other) = self.obstacle_beside(&ticket, Holder::Quarantine) else {
                self.quarantine.note_turn(account_id, now);
                let gathered = self.gather_alone(ticket);
                self.start_lane(gathered);
                return;
            };
            if self.holder(&other) == Holder::OtherSession {
                // It may wait long, and those behind it need not.
                self.wait_at(ticket, other);
                continue;
            }
            // It goes as soon as batches that run now have ended: they are all that it waits for.
            self.reserve(&mut ticket);
            self.put_back(account_id, ticket);
            return;
        }
    }
}
