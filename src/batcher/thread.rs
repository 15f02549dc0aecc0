//! The thread of the write path: the schedule, its lanes and their connections run apart from the requests.
//!
//! Beside the requests, what the database answered would wait behind the dozens of callers that the batch before has just
//! woken, twice in each batch, with its locks held. The operating system soon lets a thread run that mostly waits.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread that runs a runtime. Dropping it ends the thread, and drops what still runs there.
#[derive(Debug)]
pub struct WriteThread {
    runtime: Handle,
    _running: oneshot::Sender<()>,
}

impl WriteThread {
    /// Starts the thread. It fails if the system grants no thread or no file descriptors.
    pub async fn start() -> io::Result<Self> {
        let (started, starting) = oneshot::channel();
        let (running, ended) = oneshot::channel::<()>();
        // The runtime is made and dropped on its thread, since dropping it waits.
        thread::Builder::new()
            .name("ballast-writes".to_owned())
            .spawn(
                move || match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => {
                        if started.send(Ok(runtime.handle().clone())).is_ok() {
                            let _dropped = runtime.block_on(ended);
                        }
                    }
                    Err(error) => drop(started.send(Err(error))),
                },
            )?;
        let runtime = starting.await.map_err(io::Error::other)??;
        Ok(Self {
            runtime,
            _running: running,
        })
    }

    /// Where to spawn.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_there_ends_with_it() {
        let writes = WriteThread::start().await.expect("a thread");
        let (_held, never) = oneshot::channel::<()>();
        let running = writes.runtime().spawn(never);
        let elsewhere = writes
            .runtime()
            .spawn(async { thread::current().name().map(str::to_owned) });
        let name = elsewhere.await.expect("no panic");
        assert_eq!(name.as_deref(), Some("ballast-writes"));
        drop(writes);
        assert!(running.await.is_err_and(|error| error.is_cancelled()));
    }
}
