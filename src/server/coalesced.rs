//! Coalesced writes: what many responses have to say goes out in one system call.
//!
//! A batch answers dozens of callers at once. Each response wakes its connection, which runs next and would write that one
//! response: a system call and a TCP segment each, and for the client a read. Here a write steps back once behind the
//! tasks that are ready to run, so that the answers among them come along; on an idle server that is no wait at all. And it
//! says that it does not gather buffers: h2 then copies small messages behind each other into one, where it would
//! otherwise flush for each message of more than 256 bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes are worth a system call of their own.
const WORTH_WRITING: usize = 8 * 1024;

/// A stream whose small writes wait until all tasks that are ready now had their turn.
#[derive(Debug)]
pub(crate) struct Coalesced<S> {
    stream: S,
    has_stepped_back: bool,
}

impl<S> Coalesced<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            has_stepped_back: false,
        }
    }

    /// Ready when it is time to write. Without, the task has been woken: it runs again after the others.
    fn poll_turn(&mut self, len: usize, context: &mut Context<'_>) -> Poll<()> {
        if self.has_stepped_back || len >= WORTH_WRITING {
            return Poll::Ready(());
        }
        self.has_stepped_back = true;
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
        self.has_stepped_back = false;
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

    use super::*;

    #[tokio::test]
    async fn a_small_write_lets_the_ready_tasks_go_first() {
        let (client, mut server) = duplex(64 * 1024);
        let mut coalesced = Coalesced::new(client);
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
    async fn every_small_write_steps_back_once_and_a_large_one_never() {
        let (client, _server) = duplex(64 * 1024);
        let mut coalesced = Coalesced::new(client);
        let mut polls = |bytes: &[u8]| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            let mut count = 1;
            while Pin::new(&mut coalesced)
                .poll_write(&mut context, bytes)
                .is_pending()
            {
                count += 1;
            }
            count
        };
        assert_eq!([polls(b"1"), polls(b"2")], [2, 2]);
        assert_eq!(polls(&[0; WORTH_WRITING]), 1);
        assert_eq!(polls(b"3"), 2);
    }
}
