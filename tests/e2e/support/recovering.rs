//! What a PostgreSQL that recovers from a crash answers, until it is told that it may be ready.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Answers a client that connects with SQLSTATE 57P03. It may be gone already.
pub async fn answer(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is in recovery mode\0\0";
    let length = u32::try_from(fields.len() + 4).expect("short");
    let mut answer = vec![b'E'];
    answer.extend(length.to_be_bytes());
    answer.extend(fields);
    // What it asks for does not matter.
    let _asked = client.read(&mut [0; 1024]).await;
    let _answered = client.write_all(&answer).await;
}
