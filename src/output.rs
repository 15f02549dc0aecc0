//! Output: what the process says on stdout and stderr. A reader that is slow or gone never stops, slows or ends anything.
//!
//! Log lines, the banner and other messages go through a bounded queue to a thread that writes them. If the queue is full
//! or the write fails, the line is dropped and counted; the log says how many as soon as lines get through again. Only the
//! result of a command such as `ballast verify` is written in place, since it must be complete: see [`print`].

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait to be written.
const QUEUE_LINES_MAX: usize = 8192;
/// The most bytes that wait to be written.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// How long the process waits at its end until all lines are written.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the thread waits before it tries again to write to an output that would block. Another process that shares
/// the output may have made it non-blocking.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

static STDOUT: OnceLock<Output> = OnceLock::new();
static STDERR: OnceLock<Output> = OnceLock::new();

fn stdout() -> &'static Output {
    STDOUT.get_or_init(|| Output::start("ballast-stdout", io::stdout(), QUEUE_LINES_MAX))
}

fn stderr() -> &'static Output {
    STDERR.get_or_init(|| Output::start("ballast-stderr", io::stderr(), QUEUE_LINES_MAX))
}

/// Says a line on stderr. Never blocks and never fails.
pub fn say(line: impl Display) {
    stderr().queue(format!("{line}\n").into_bytes());
}

/// Shows text on stdout, for a person. Never blocks and never fails.
pub fn show(text: impl Display) {
    stdout().queue(format!("{text}\n").into_bytes());
}

/// Writes a line of a command's result to stdout and waits until it is written. A reader that has seen enough, such as
/// `head`, is not an error.
pub fn print(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Waits until everything that was said is written, at most a second for each output.
pub fn finish() {
    for output in [&STDOUT, &STDERR] {
        if let Some(output) = output.get() {
            output.finish(FINISH_TIMEOUT);
        }
    }
}

/// Lets the message of a panic take the same way as all lines: the default writes to stderr itself, and may block there.
pub fn redirect_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        say(format_args!("thread {name} {panic}{backtrace}"));
    }));
}

/// Writes log lines to stderr, through the queue.
#[derive(Debug, Clone, Copy)]
pub struct Log;

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Log {
    /// A line comes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        stderr().queue(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Message {
    Line(Vec<u8>),
    Finish(SyncSender<()>),
}

/// What is counted of an output.
#[derive(Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// An output and the way to it.
struct Output {
    messages: SyncSender<Message>,
    counts: Arc<Counts>,
}

impl Output {
    fn start(name: &str, target: impl Write + Send + 'static, lines_max: usize) -> Self {
        let (messages, received) = sync_channel(lines_max);
        let counts = Arc::<Counts>::default();
        let counted = counts.clone();
        let thread = thread::Builder::new().name(name.to_owned());
        // If the system grants no thread, nobody receives from the queue, and every line is dropped.
        let _running = thread.spawn(move || write_all(target, &received, &counted));
        Self { messages, counts }
    }

    fn queue(&self, line: Vec<u8>) {
        let size = line.len();
        let before = self.counts.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let queued =
            before + size <= QUEUE_BYTES_MAX && self.messages.try_send(Message::Line(line)).is_ok();
        if !queued {
            self.counts.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn finish(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let (done, finished) = sync_channel(1);
        let mut message = Message::Finish(done);
        loop {
            match self.messages.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(again)) if Instant::now() < end => message = again,
                Err(_) => return,
            }
            pause();
        }
        // No answer comes in time if the reader is slow.
        let _written = finished.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

fn write_all(mut target: impl Write, messages: &Receiver<Message>, counts: &Counts) {
    let (mut told, mut is_writable) = (0, true);
    loop {
        let message = match messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                let dropped = counts.dropped.load(Ordering::Relaxed);
                if is_writable && dropped > told {
                    // It comes back to this thread through the queue, which has room now.
                    tracing::warn!(
                        dropped,
                        new = dropped - told,
                        "log lines were dropped, because their reader was too slow or gone"
                    );
                    told = dropped;
                    continue;
                }
                match messages.recv() {
                    Ok(message) => message,
                    Err(_disconnected) => return,
                }
            }
        };
        match message {
            Message::Line(line) => {
                is_writable = write(&mut target, &line).is_ok();
                counts
                    .waiting_bytes
                    .fetch_sub(line.len(), Ordering::Relaxed);
                if !is_writable {
                    counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Whoever asked may have stopped waiting.
            Message::Finish(done) => drop(done.send(())),
        }
    }
}

fn write(target: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match target.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(size) => rest = &rest[size..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => pause(),
            Err(error) => return Err(error),
        }
    }
    target.flush()
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, or at the end of the process"
)]
fn pause() {
    thread::sleep(RETRY_INTERVAL);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let output = Output::start("slow", writer, 4);
        let line = vec![b'x'; 4096];
        // More than the pipe and the queue can hold together.
        for _ in 0..1000 {
            output.queue(line.clone());
        }
        output.finish(Duration::from_millis(20));
        let dropped = usize::try_from(output.counts.dropped.load(Ordering::Relaxed)).expect("few");
        assert!(dropped > 0);
        let counts = output.counts.clone();
        drop(output);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("the rest");
        assert_eq!(read.len(), (1000 - dropped) * line.len());
        assert_eq!(counts.waiting_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reader_that_is_gone_is_counted() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let output = Output::start("gone", writer, 4);
        output.queue(b"a\n".to_vec());
        output.finish(FINISH_TIMEOUT);
        assert_eq!(output.counts.dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn one_line_that_is_larger_than_all_may_be_is_dropped() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let output = Output::start("large", writer, 4);
        output.queue(vec![b'x'; QUEUE_BYTES_MAX + 1]);
        assert_eq!(output.counts.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(output.counts.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
