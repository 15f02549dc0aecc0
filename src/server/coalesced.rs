//! Coalesced writes: what many responses have to say goes out in one system call.
//!
//! A batch answers dozens of callers at once. Each response wakes its connection, which runs next and would write that one
//! response: a system call and a TCP segment each, and for the client a read. Here a write steps back once behind the
//! tasks that are ready to run, so that the answers among them come along. It does not if nothing else is in flight on the
//! connection: stepping back makes the runtime wake another thread to help. And it says that it does not gather buffers: h2
//! then copies messages of up to 1 KiB behind each other, where it would otherwise flush for each one of more than 256 bytes.
//! Larger ones go out alone either way.
//!
//! Reads are bounded here, too. HTTP/2 takes all that has come before any of it is served; so in one turn no more is read than
//! what it may safely hold. And a client that sends requests and cancels them, faster than real ones do, is read from more
//! slowly; its other calls go on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::activity::Activity;
use super::greeting::Greeting;

/// The most bytes that are read in one turn. A request that is opened and cancelled has at least 26 bytes, so HTTP/2 never
/// holds more than some 5,000 of them.
pub(super) const READ_IN_TURN_MAX: usize = 128 * 1024;
/// So many bytes are worth a system call of their own.
const WORTH_WRITING: usize = 8 * 1024;

/// How far a connection is in its turn. It reads what has come, then writes what there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has read, and not written.
    Begun,
    /// It let the others go first, and writes when it is back.
    SteppedBack,
    /// It writes; whatever follows belongs to what has waited.
    Writing,
}

/// How fast a client may abandon requests.
#[derive(Debug)]
struct Pace {
    /// The time that each costs.
    interval: Duration,
    /// Up to where what was abandoned is paid for. Ahead of the clock by a second at most, then nothing is read.
    paid_until: Instant,
    pause: Option<Pin<Box<Sleep>>>,
}

/// How far a client may be ahead of its pace.
const PACE_AHEAD_MAX: Duration = Duration::from_secs(1);

impl Pace {
    fn new(abandoned_per_second_max: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / abandoned_per_second_max.max(1),
            paid_until: Instant::now(),
            pause: None,
        }
    }

    /// Ready when the client may be read from, after so many more abandoned requests.
    fn poll(&mut self, abandoned_count: usize, context: &mut Context<'_>) -> Poll<()> {
        if abandoned_count > 0 {
            let now = Instant::now();
            let count = u32::try_from(abandoned_count).unwrap_or(u32::MAX);
            self.paid_until = self.paid_until.max(now) + self.interval * count;
            if self.paid_until > now + PACE_AHEAD_MAX {
                let pause = tokio::time::sleep_until(self.paid_until - PACE_AHEAD_MAX);
                self.pause = Some(Box::pin(pause));
            }
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

/// A stream whose small writes wait, once in a turn, until all tasks that are ready now had their turn.
#[derive(Debug)]
pub(super) struct Coalesced<S> {
    stream: S,
    activity: Arc<Activity>,
    turn: Turn,
    pace: Pace,
    /// `None` once it is complete.
    greeting: Option<Greeting>,
}

impl<S> Coalesced<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, abandoned_per_second_max: u32) -> Self {
        Self {
            stream,
            activity,
            turn: Turn::Begun,
            pace: Pace::new(abandoned_per_second_max),
            greeting: Some(Greeting::default()),
        }
    }

    /// Ready when more may be read.
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.pace.poll(self.activity.take_abandoned(), context));
        if self.activity.read_in_turn() >= READ_IN_TURN_MAX {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn note_read(&mut self, bytes: &[u8]) {
        self.activity.note_read(bytes.len());
        if let Some(greeting) = &mut self.greeting
            && greeting.is_complete_with(bytes)
        {
            self.greeting = None;
            self.activity.note_greeted();
        }
    }

    /// Ready when it is time to write. Without, the task has been woken: it runs again after the others.
    fn poll_turn(&mut self, len: usize, context: &mut Context<'_>) -> Poll<()> {
        let is_due = self.turn != Turn::Begun || len >= WORTH_WRITING;
        if is_due || self.activity.is_idle() {
            return Poll::Ready(());
        }
        self.turn = Turn::SteppedBack;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn == Turn::Writing {
            self.turn = Turn::Begun;
        }
        ready!(self.poll_readable(context));
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.note_read(&buffer.filled()[before..]);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(buffer.len(), context));
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, buffer));
        self.turn = Turn::Writing;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::activity::InFlight;
    use super::*;

    /// A connection with so many requests in flight.
    fn coalesced<S>(stream: S, request_count: usize) -> (Coalesced<S>, Vec<InFlight>) {
        let activity = Arc::default();
        let requests = (0..request_count).map(|_| InFlight::new(&activity, true));
        let requests = requests.collect();
        (Coalesced::new(stream, activity, 10), requests)
    }

    #[tokio::test]
    async fn in_one_turn_so_much_is_read_and_no_more() {
        let (mut client, server) = duplex(2 * READ_IN_TURN_MAX);
        let (mut coalesced, _requests) = coalesced(server, 1);
        client
            .write_all(&[0; READ_IN_TURN_MAX + 1])
            .await
            .expect("written");
        let mut all = vec![0; READ_IN_TURN_MAX];
        coalesced.read_exact(&mut all).await.expect("read");
        let mut one = [0; 1];
        let more = tokio::time::timeout(Duration::ZERO, coalesced.read(&mut one)).await;
        assert!(more.is_err(), "the turn is over");
        coalesced.activity.begin_turn();
        assert_eq!(coalesced.read(&mut one).await.expect("read"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_abandons_its_requests_is_read_from_at_its_pace() {
        let (mut client, server) = duplex(1024);
        let (mut coalesced, mut requests) = coalesced(server, 25);
        client.write_all(b"12").await.expect("written");
        let mut one = [0; 1];
        let begun = Instant::now();
        for answered in &mut requests[..5] {
            answered.note_answered();
        }
        requests.truncate(15);
        coalesced.read_exact(&mut one).await.expect("read");
        assert_eq!(begun.elapsed(), Duration::ZERO, "a second's worth at once");
        requests.drain(5..);
        coalesced.read_exact(&mut one).await.expect("read");
        let waited = begun.elapsed();
        assert!(
            (1000..1010).contains(&waited.as_millis()),
            "{waited:?}: ten more at ten in a second"
        );
        requests.clear();
        client.write_all(b"3").await.expect("written");
        coalesced.read_exact(&mut one).await.expect("read");
        assert_eq!(begun.elapsed(), waited, "what was answered costs nothing");
    }

    #[tokio::test]
    async fn a_small_write_lets_the_ready_tasks_go_first() {
        let (client, mut server) = duplex(64 * 1024);
        let (mut coalesced, _requests) = coalesced(client, 1);
        let (said, mut others) = tokio::sync::mpsc::unbounded_channel();
        let other = said.clone();
        tokio::spawn(async move { other.send("another task") });
        coalesced.write_all(b"answer").await.expect("written");
        said.send("the writer").expect("somebody listens");
        assert_eq!(others.recv().await, Some("another task"));
        assert_eq!(others.recv().await, Some("the writer"));
        let mut answer = [0; 6];
        server.read_exact(&mut answer).await.expect("read");
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn what_is_small_steps_back_once_in_a_turn() {
        let (client, _server) = duplex(64 * 1024);
        let (mut coalesced, mut requests) = coalesced(client, 1);
        // How often each of these writes of one turn had to be polled. Each poll of a connection begins with a read.
        let mut polls = |writes: &[&[u8]]| -> Vec<u32> {
            let mut context = Context::from_waker(std::task::Waker::noop());
            let mut coalesced = Pin::new(&mut coalesced);
            let read = |mut coalesced: Pin<&mut Coalesced<_>>| {
                let mut buffer = [0; 8];
                let read = coalesced.as_mut().poll_read(
                    &mut Context::from_waker(std::task::Waker::noop()),
                    &mut ReadBuf::new(&mut buffer),
                );
                assert!(read.is_pending(), "nobody says anything");
            };
            read(coalesced.as_mut());
            let mut counts = Vec::new();
            for bytes in writes {
                let mut count = 1;
                while coalesced
                    .as_mut()
                    .poll_write(&mut context, bytes)
                    .is_pending()
                {
                    count += 1;
                    read(coalesced.as_mut());
                }
                counts.push(count);
            }
            counts
        };
        let large: &[u8] = &[0; WORTH_WRITING];
        assert_eq!(polls(&[b"answers"]), [2]);
        assert_eq!(polls(&[b"head", b"body"]), [2, 1], "one message");
        assert_eq!(
            polls(&[b"head", large, b"head", b"end"]),
            [2, 1, 1, 1],
            "a page"
        );
        assert_eq!(polls(&[large]), [1], "many answers");
        assert_eq!(polls(&[b"answer", b"answer"]), [2, 1], "the next ones");
        requests.clear();
        assert_eq!(polls(&[b"answer"]), [1], "the last one");
    }

    #[tokio::test]
    async fn small_messages_are_copied_behind_each_other() {
        let (client, _server) = duplex(1024);
        assert!(!coalesced(client, 0).0.is_write_vectored());
    }
}
