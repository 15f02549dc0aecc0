//! What the schedule knows of an account: who has it, and which jobs wait for it or reserved it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::batcher::ticket::Ticket;

/// Who has an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody. Jobs may still wait for it, or have it reserved.
    Nobody,
    /// A lane, with the batch of this number.
    Lane(u64),
    /// Another session; a lock-wait connection waits for it, or will.
    OtherSession,
    /// A lock-wait connection that was granted its lock, and does nothing with it yet.
    GrantedLock,
    /// Nobody, but its jobs go one by one, see [`super::quarantine`].
    Quarantine,
}

/// Jobs in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct JobQueue {
    tickets: BTreeMap<u64, Ticket>,
    weight: usize,
}

impl JobQueue {
    pub(super) fn insert(&mut self, ticket: Ticket) {
        self.weight += ticket.job.weight();
        self.tickets.insert(ticket.number(), ticket);
    }

    pub(super) fn pop_first(&mut self) -> Option<Ticket> {
        let (_, ticket) = self.tickets.pop_first()?;
        self.weight -= ticket.job.weight();
        Some(ticket)
    }

    pub(super) fn first(&self) -> Option<&Ticket> {
        self.tickets.first_key_value().map(|(_, ticket)| ticket)
    }

    pub(super) fn first_number(&self) -> Option<u64> {
        self.tickets.first_key_value().map(|(number, _)| *number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// The sum of the weights, see [`crate::store::Job::weight`].
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Ticket> {
        self.tickets.values()
    }

    /// The jobs, of which nothing may be changed that their weights or their order depend on.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Ticket> {
        self.tickets.values_mut()
    }

    /// Takes the jobs that are meant.
    pub(super) fn extract(&mut self, mut is_meant: impl FnMut(&Ticket) -> bool) -> Vec<Ticket> {
        let meant = self
            .tickets
            .extract_if(.., |_, ticket| is_meant(ticket))
            .map(|(_, ticket)| ticket);
        let meant: Vec<Ticket> = meant.collect();
        self.weight -= meant.iter().map(|it| it.job.weight()).sum::<usize>();
        meant
    }
}

/// How an account stands among those whose jobs may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    /// The number of its oldest job.
    pub(super) number: u64,
    /// The weight of its jobs when it was counted.
    pub(super) weight: usize,
}

/// An account that somebody has, that jobs wait for, or that jobs reserved. Others have no state.
#[derive(Debug)]
pub(super) struct AccountState {
    pub(super) holder: Holder,
    pub(super) waiting: JobQueue,
    /// The numbers of the jobs that keep it from younger ones, see [`super::reservations`].
    pub(super) reservations: BTreeSet<u64>,
    /// Set while its jobs may go.
    pub(super) ready: Option<Ready>,
    /// Since when another session has it.
    pub(super) held_outside_since: Option<Instant>,
}

impl AccountState {
    pub(super) fn by(holder: Holder) -> Self {
        Self {
            holder,
            waiting: JobQueue::default(),
            reservations: BTreeSet::new(),
            ready: None,
            held_outside_since: None,
        }
    }

    /// Whether it keeps the job of this number out of the batch of `lane`.
    pub(super) fn keeps_out(&self, number: u64, lane: Holder) -> bool {
        match self.holder {
            Holder::Nobody => self.is_reserved_before(number),
            holder => holder != lane,
        }
    }

    /// Whether an older job than that of this number reserved it.
    fn is_reserved_before(&self, number: u64) -> bool {
        let oldest = self.reservations.first();
        oldest.is_some_and(|oldest| *oldest < number)
    }

    /// How it would stand among the accounts whose jobs may go into the batch of `lane`; `None`: its oldest job may not.
    pub(super) fn readiness(&self, lane: Holder) -> Option<Ready> {
        let number = self.waiting.first_number()?;
        (!self.keeps_out(number, lane)).then(|| Ready {
            number,
            weight: self.waiting.weight(),
        })
    }

    /// Nothing needs to be known of it any more.
    pub(super) fn is_unused(&self) -> bool {
        self.holder == Holder::Nobody && self.waiting.is_empty() && self.reservations.is_empty()
    }
}
