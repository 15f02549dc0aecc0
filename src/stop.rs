//! A stop: asks a running command to end, first in order and then at once.

use tokio_util::sync::CancellationToken;

/// A request to end. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: CancellationToken,
    forced: CancellationToken,
}

impl Stop {
    /// Asks to end in order.
    pub fn ask(&self) {
        self.asked.cancel();
    }

    /// Asks to end at once. What was started outside of this process is still stopped.
    pub fn force(&self) {
        self.asked.cancel();
        self.forced.cancel();
    }

    /// Completes when somebody asked.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Completes when it must end at once.
    pub async fn forced(&self) {
        self.forced.cancelled().await;
    }

    /// Whether it must end at once.
    pub fn is_forced(&self) -> bool {
        self.forced.is_cancelled()
    }

    /// What `work` brings, or `None` if it had to end before.
    pub async fn unless_forced<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.forced.run_until_cancelled(work).await
    }

    /// What `work` brings, or `None` if somebody asked before.
    pub async fn unless_asked<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.asked.run_until_cancelled(work).await
    }

    /// A token that is cancelled when somebody asks, and may be cancelled alone.
    pub fn asked_token(&self) -> CancellationToken {
        self.asked.child_token()
    }
}
