//! The recorder of a load: in which phase it is, and what was answered when.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::calls::Facts;
use super::measured::{Answer, Measured};
use super::parts::Parts;
use super::schedule::Schedule;
use crate::bench::scenario::Scenario;

/// In an open loop: the most operations in flight before those that are due are counted as not sent.
const IN_FLIGHT_MAX: usize = 50_000;
/// The load runs and is not measured yet; that of a new [`Recorder`].
const WARMING_UP: u8 = 0;
/// What is answered now counts.
const MEASURING: u8 = 1;
/// Nothing is sent any more.
const STOPPING: u8 = 2;

/// Tells all senders in which phase the load is, and counts what they were answered.
#[derive(Default)]
pub(super) struct Recorder {
    phase: AtomicU8,
    /// Cancelled when nothing is to be sent any more, for who sleeps until something is due.
    stopping: CancellationToken,
    locked: AtomicBool,
    in_flight: AtomicUsize,
    /// The first answer that counts has come, in the warm-up mostly.
    is_answered: AtomicBool,
    answered: Notify,
    started: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    parts: Parts,
}

impl Recorder {
    /// For a load of this scenario.
    pub(super) fn of(scenario: Scenario) -> Self {
        Self {
            parts: Parts::of(scenario),
            ..Self::default()
        }
    }

    /// Waits until the first answer has come.
    pub(super) async fn first_answer(&self) {
        self.answered.notified().await;
    }

    /// The warm-up is over: what is answered from now on counts.
    pub(super) fn start(&self) -> Instant {
        let started = *self.started.get_or_init(Instant::now);
        self.phase.store(MEASURING, Ordering::Release);
        started
    }

    /// Whether somebody holds a balance locked from now on.
    pub(super) fn set_locked(&self, is_locked: bool) {
        self.locked.store(is_locked, Ordering::Release);
    }

    /// The load is over. In one step: an answer of an open loop is either in time or late.
    pub(super) fn end(&self) -> Instant {
        let ended = *self.ended.get_or_init(Instant::now);
        self.phase.store(STOPPING, Ordering::Release);
        self.stopping.cancel();
        ended
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.phase.load(Ordering::Acquire) == STOPPING
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.phase.load(Ordering::Acquire) == MEASURING
    }

    fn book(&self, measured: &mut Measured, facts: Facts, answer: &Answer) {
        measured.book(facts, answer);
        if !facts.is_apart && !self.is_answered.load(Ordering::Relaxed) {
            self.is_answered.store(true, Ordering::Relaxed);
            self.answered.notify_one();
        }
    }

    /// Books an answer, and counts it if it is measured.
    pub(super) fn note(
        &self,
        measured: &mut Measured,
        facts: Facts,
        answer: &Answer,
        latency: Duration,
    ) {
        self.book(measured, facts, answer);
        if self.is_measuring() {
            self.note_measured(measured, facts, answer, latency);
        }
    }

    /// In an open loop: counts so many as in flight if there is room for them.
    pub(super) fn admit(&self, count: usize) -> bool {
        let with = |in_flight: usize| Some(in_flight + count).filter(|sum| *sum <= IN_FLIGHT_MAX);
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        self.in_flight.fetch_update(set, get, with).is_ok()
    }

    /// In an open loop: so many are answered.
    pub(super) fn dismiss(&self, count: usize) {
        self.in_flight.fetch_sub(count, Ordering::AcqRel);
    }

    /// In an open loop: so many were due and could not be sent.
    pub(super) fn note_not_sent(&self, measured: &mut Measured, count: usize, why: &str) {
        if self.phase.load(Ordering::Acquire) != WARMING_UP {
            let reason = format!("not sent: {why}");
            *measured.all.errors.entry(reason).or_default() += count as u64;
        }
    }

    /// In an open loop: waits until something is due, or the load is over. What was due before its end is still sent, since
    /// a stall at the end must show; false: that was the last of it.
    pub(super) async fn until_due(
        &self,
        schedule: &mut Schedule,
        send: impl FnMut(Instant),
    ) -> bool {
        tokio::select! {
            () = sleep_until(schedule.due) => {}
            () = self.stopping.cancelled() => {}
        }
        let ended = self.ended.get().copied();
        schedule.take_due(ended.unwrap_or_else(Instant::now), send);
        ended.is_none()
    }

    /// In an open loop: what is still in flight is answered after the end, but its time until then counts, since a stall
    /// must show.
    pub(super) fn note_open(
        &self,
        measured: &mut Measured,
        facts: Facts,
        answer: &Answer,
        latency: Duration,
    ) {
        self.book(measured, facts, answer);
        match self.phase.load(Ordering::Acquire) {
            WARMING_UP => {}
            MEASURING => self.note_measured(measured, facts, answer, latency),
            _ if facts.is_apart => {}
            _ => measured.all.note_late(answer, latency),
        }
    }

    fn note_measured(
        &self,
        measured: &mut Measured,
        facts: Facts,
        answer: &Answer,
        latency: Duration,
    ) {
        let is_locked = self.locked.load(Ordering::Acquire);
        if let Some(name) = self.parts.name(facts, is_locked) {
            measured.part(name).note(answer, latency);
        }
        if !facts.is_apart {
            let since_start = self.started.get().map(Instant::elapsed).unwrap_or_default();
            measured.note(answer, latency, since_start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_due_before_the_end_is_sent_and_nothing_after_it() {
        let (recorder, start) = (Recorder::default(), Instant::now());
        // Once in an hour; this one is due at once.
        let mut schedule = Schedule::part(1.0 / 3600.0, 0, 1);
        let mut sent = Vec::new();
        let mut send = |due: Instant| sent.push((due - start).as_secs());
        assert!(recorder.until_due(&mut schedule, &mut send).await);
        tokio::time::advance(Duration::from_secs(7201)).await;
        recorder.end();
        tokio::time::advance(Duration::from_secs(7200)).await;
        assert!(!recorder.until_due(&mut schedule, &mut send).await);
        assert_eq!(sent, [0, 3600, 7200]);
        // The next one is due in two hours, and nobody waits for that.
        let waiting = recorder.until_due(&mut schedule, |_| panic!("it is over"));
        let waited = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert_eq!(waited, Ok(false));
    }
}
