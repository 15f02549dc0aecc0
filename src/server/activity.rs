//! Activity: what the requests of one connection are at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the requests of a connection do.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// From their headers to the end of their responses.
    in_flight: AtomicUsize,
    /// Of these, those whose client has to take something before there can be more.
    unread: AtomicUsize,
    /// Parts of responses that were handed to HTTP/2.
    taken: AtomicUsize,
}

impl Activity {
    /// Nothing is in flight: what is said now is the last of it.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    pub(super) fn is_unread(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == self.unread.load(Ordering::Acquire)
    }

    pub(super) fn taken_count(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// Counts a request for as long as it lives.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    is_unread: bool,
}

impl InFlight {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.in_flight.fetch_add(1, Ordering::AcqRel);
        Self {
            activity: activity.clone(),
            is_unread: false,
        }
    }

    /// HTTP/2 asks for more only when there is room in the client's window: whoever has something for it and is not
    /// asked again has a client that does not read.
    pub(super) fn note_unread(&mut self, is_unread: bool) {
        match (self.is_unread, is_unread) {
            (false, true) => {
                self.activity.taken.fetch_add(1, Ordering::AcqRel);
                self.activity.unread.fetch_add(1, Ordering::AcqRel);
            }
            (true, false) => drop(self.activity.unread.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
        self.is_unread = is_unread;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.note_unread(false);
        self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
