//! The open loop of unary calls and batches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::task::TaskTracker;

use super::calls::{Calls, Client};
use super::measured::Measured;
use super::payload::Payload;
use super::recorder::Recorder;
use super::schedule::Schedule;

/// Sends what is due. Each request notes its own answer as it comes, so that a latency ends with the answer and not when
/// somebody has time to look at it.
pub(super) async fn open(
    clients: Vec<Client>,
    mut calls: Calls,
    batch_size: Option<usize>,
    recorder: Arc<Recorder>,
    mut schedule: Schedule,
) -> Measured {
    let measured = Arc::new(Mutex::new(Measured::new()));
    let sending = TaskTracker::new();
    let mut sent_count = 0;
    let mut send = |due| {
        let payload = Payload::next(&mut calls, batch_size);
        let size = payload.size();
        if !recorder.admit(size) {
            return recorder.note_not_sent(&mut locked(&measured), size, "too many in flight");
        }
        let mut client = clients[sent_count % clients.len()].clone();
        sent_count += 1;
        let (recorder, measured) = (recorder.clone(), measured.clone());
        sending.spawn(async move {
            let answers = payload.send(&mut client).await;
            let latency = answers.came - due;
            recorder.dismiss(size);
            let mut measured = locked(&measured);
            for (facts, answer) in answers.all {
                recorder.note_open(&mut measured, facts, &answer, latency);
            }
        });
    };
    while recorder.until_due(&mut schedule, &mut send).await {}
    sending.close();
    sending.wait().await;
    std::mem::replace(&mut locked(&measured), Measured::new())
}

/// What a sender that panicked has noted counts too.
fn locked(measured: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}
