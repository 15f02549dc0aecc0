//! HTTP/2, frame by frame: for clients that do what no library does.

use std::net::SocketAddr;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u8 = 4;

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Nothing more comes on its stream.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a connection begins with; the client's window for each stream.
pub fn greeting(window: u32) -> Vec<u8> {
    let mut setting = vec![0, INITIAL_WINDOW_SIZE];
    setting.extend(window.to_be_bytes());
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &setting)].concat()
}

/// A whole unary call, with the deadline of its caller.
pub fn call(stream: u32, path: &str, timeout: &str, message: &impl Message) -> Vec<u8> {
    // Indexed: POST, http.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend(value.bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\x00\x02te", "trailers");
    literal(b"\x00\x0cgrpc-timeout", timeout);
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).expect("a small message");
    let body = [&[0], &length.to_be_bytes()[..], &encoded].concat();
    [
        frame(HEADERS, END_HEADERS, stream, &block),
        frame(DATA, END_STREAM, stream, &body),
    ]
    .concat()
}

/// The end of a call that its client does not want any more.
pub fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// Room for more bytes, on a stream or (0) on the connection.
pub fn window_update(stream: u32, size: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &size.to_be_bytes())
}

/// A connection of which the test sees every frame.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// A connection that has begun.
    pub async fn connect(address: SocketAddr, window: u32) -> Self {
        let mut frames = Self::silent(address).await;
        frames.send(&greeting(window)).await;
        frames
    }

    /// A connection on which nothing was sent.
    pub async fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        Self { stream }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// The next frame; `None` when the connection is closed.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).await.ok()?;
        let [high, middle, low, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    /// Waits until the server closes the connection.
    pub async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Whether the call of this stream was answered with OK and a message. Fails if the connection ends instead.
    pub async fn answer(&mut self, stream: u32) -> bool {
        let mut has_message = false;
        loop {
            let frame = self.next().await.expect("the connection stays");
            assert_ne!(
                frame.kind,
                GOAWAY,
                "{:?}",
                String::from_utf8_lossy(&frame.payload)
            );
            if frame.stream == stream {
                has_message |= frame.kind == DATA && frame.payload.len() >= 5;
                if frame.is_end() {
                    return has_message;
                }
            }
        }
    }
}
