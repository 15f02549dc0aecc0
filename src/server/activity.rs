//! Activity: what the requests of one connection are at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the requests of a connection do.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// From their headers to the end of their responses.
    in_flight: AtomicUsize,
    /// Of these, those whose client has to take something before there can be more.
    unread: AtomicUsize,
    /// Parts of responses that were handed to HTTP/2.
    taken: AtomicUsize,
    /// Requests whose client left before the answer, and that nobody has looked at yet.
    abandoned: AtomicUsize,
    /// Bytes that were read since the connection had its turn.
    read_in_turn: AtomicUsize,
    /// The client has sent all that a connection begins with.
    is_greeted: AtomicBool,
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

    /// The requests that were abandoned since this was asked last.
    pub(super) fn take_abandoned(&self) -> usize {
        // Mostly there are none, and then nothing is written.
        match self.abandoned.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.abandoned.swap(0, Ordering::Relaxed),
        }
    }

    pub(super) fn begin_turn(&self) {
        self.read_in_turn.store(0, Ordering::Relaxed);
    }

    pub(super) fn read_in_turn(&self) -> usize {
        self.read_in_turn.load(Ordering::Relaxed)
    }

    pub(super) fn note_read(&self, size: usize) {
        self.read_in_turn.fetch_add(size, Ordering::Relaxed);
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.is_greeted.load(Ordering::Relaxed)
    }

    pub(super) fn note_greeted(&self) {
        self.is_greeted.store(true, Ordering::Relaxed);
    }
}

/// Counts a request for as long as it lives.
pub(super) struct InFlight {
    activity: Arc<Activity>,
    /// Whether a drain waits for the answer.
    is_awaited: bool,
    is_answered: bool,
    is_unread: bool,
}

impl InFlight {
    pub(super) fn new(activity: &Arc<Activity>, is_awaited: bool) -> Self {
        if is_awaited {
            activity.in_flight.fetch_add(1, Ordering::AcqRel);
        }
        Self {
            activity: activity.clone(),
            is_awaited,
            is_answered: false,
            is_unread: false,
        }
    }

    /// There is an answer, or its beginning.
    pub(super) fn note_answered(&mut self) {
        self.is_answered = true;
    }

    /// HTTP/2 asks for more only when there is room in the client's window: whoever has something for it and is not
    /// asked again has a client that does not read.
    pub(super) fn note_unread(&mut self, is_unread: bool) {
        if !self.is_awaited {
            return;
        }
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
        if self.is_awaited {
            self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        if !self.is_answered {
            self.activity.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}
