//! What the schedule does about accounts in quarantine.

use tokio::time::Instant;

use super::{Holder, Schedule};
use crate::batcher::Ticket;
use crate::store::Ledger;

impl<L: Ledger> Schedule<L> {
    /// Starts one command of each account in quarantine whose turn it is, alone.
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
            while self.holder(&account_id) == Holder::Quarantine {
                let Some(ticket) = self.unpark(&account_id) else {
                    break;
                };
                if self.end_if_pointless(&ticket, now) {
                    ticket.end();
                    continue;
                }
                match self.obstacle_beside(&ticket, Holder::Quarantine) {
                    None => {}
                    // It may wait long, and those behind it need not.
                    Some(other) if self.holder(&other) == Holder::Outside => {
                        self.park(ticket, other);
                        continue;
                    }
                    Some(_) => {
                        self.repark(&account_id, ticket);
                        break;
                    }
                }
                self.quarantine.note_turn(&account_id, now);
                self.start_alone(ticket);
                break;
            }
        }
    }

    pub(super) fn start_alone(&mut self, mut ticket: Ticket) {
        self.batch_count += 1;
        let lane = Holder::Lane(self.batch_count);
        let (mut taken, mut fronted) = (Vec::new(), Vec::new());
        self.take(&mut ticket, lane, &mut taken, &mut fronted);
        for account_id in &fronted {
            self.close_front(account_id);
        }
        self.waiting -= 1;
        self.start_lane(vec![ticket], taken);
    }
}
