//! The client processes of a stress run, seen from the process that started them.

use std::net::SocketAddr;
use std::process::Stdio;

use indicatif::ProgressBar;
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;

use super::error::StressError;
use super::plan::{Part, Plan};
use super::tally::{Message, Tally};
use crate::harness::this_binary;

/// Files that a process has open in addition to its connections.
const OTHER_FILES: u64 = 500;

/// How many processes it takes to have so many connections, each of which is a file.
pub(super) fn process_count(connection_count: u64) -> u64 {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let per_process = files.saturating_sub(OTHER_FILES).max(1);
    connection_count.div_ceil(per_process)
}

/// The client processes, and what they say.
pub(super) struct Clients {
    children: Vec<(Child, ChildStdin)>,
    messages: mpsc::Receiver<(usize, Message)>,
    opened: Vec<u64>,
    done: Vec<u64>,
}

impl Clients {
    /// Starts as many as it takes, each with its part of the plan.
    pub(super) fn start(
        plan: &Plan,
        run: &str,
        addresses: &[SocketAddr],
    ) -> Result<Self, StressError> {
        let count = process_count(plan.connection_count);
        let (sender, messages) = mpsc::channel(64);
        let mut children = Vec::new();
        for index in 0..count {
            let first = plan.connection_count * index / count;
            let part = Part {
                run: run.to_owned(),
                addresses: addresses.to_vec(),
                connection_first: first,
                connection_count: plan.connection_count * (index + 1) / count - first,
                connection_total: plan.connection_count,
                transfer_total: plan.transfer_count,
                account_count: plan.account_count,
            };
            let part = serde_json::to_string(&part).map_err(std::io::Error::other)?;
            let mut child = this_binary()?
                .args(["stress-client", &part])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (stdin, stdout) = pipes.ok_or_else(|| std::io::Error::other("no pipes"))?;
            let (sender, number) = (sender.clone(), children.len());
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let message = serde_json::from_str(&line)
                        .unwrap_or_else(|error| Message::Failed(format!("{error}: {line}")));
                    if sender.send((number, message)).await.is_err() {
                        return;
                    }
                }
                let ended = Message::Failed("it ended before its work".to_owned());
                // Nobody listens any more if it had finished.
                let _unheard = sender.send((number, ended)).await;
            });
            children.push((child, stdin));
        }
        let zeros = vec![0; children.len()];
        Ok(Self {
            children,
            messages,
            opened: zeros.clone(),
            done: zeros,
        })
    }

    /// How many processes there are.
    pub(super) fn count(&self) -> usize {
        self.children.len()
    }

    /// The next final word of a client; what it says before only moves the numbers.
    async fn next(&mut self) -> Result<Option<Tally>, StressError> {
        let gone = || StressError::Client("nobody is left".to_owned());
        let (number, message) = self.messages.recv().await.ok_or_else(gone)?;
        match message {
            Message::Progress { opened, done } => {
                (self.opened[number], self.done[number]) = (opened, done);
                Ok(None)
            }
            Message::Finished(tally) => Ok(Some(*tally)),
            Message::Failed(cause) => Err(StressError::Client(cause)),
        }
    }

    /// Waits until all connections are open.
    pub(super) async fn until_open(&mut self, bar: &ProgressBar) -> Result<(), StressError> {
        while self.opened.iter().sum::<u64>() < bar.length().unwrap_or(0) {
            self.next().await?;
            bar.set_position(self.opened.iter().sum());
        }
        Ok(())
    }

    /// Tells all clients to begin, and adds up what they found.
    pub(super) async fn until_done(&mut self, bar: &ProgressBar) -> Result<Tally, StressError> {
        for (_, stdin) in &mut self.children {
            stdin.write_all(b"go\n").await?;
        }
        let (mut tally, mut finished) = (Tally::default(), 0);
        while finished < self.children.len() {
            if let Some(part) = self.next().await? {
                tally.add(part);
                finished += 1;
            }
            bar.set_position(self.done.iter().sum());
        }
        Ok(tally)
    }

    /// Lets the clients close their connections.
    pub(super) async fn end(self) {
        for (mut child, stdin) in self.children {
            drop(stdin);
            let _status = child.wait().await;
        }
    }
}
