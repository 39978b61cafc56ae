//! The least of RFC 6455 that both ends need: whole messages in one frame each.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::handshake::derive_accept_key;

/// A message of text.
pub const TEXT: u8 = 0x1;
/// A message of bytes.
pub const BINARY: u8 = 0x2;
/// The end of the stream.
pub const CLOSE: u8 = 0x8;
/// A question that wants a [`PONG`].
pub const PING: u8 = 0x9;
/// The answer to a [`PING`].
pub const PONG: u8 = 0xa;

/// One frame on the front of the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The opcode.
    pub opcode: u8,
    /// The message ends here. (What does not is counted, not understood.)
    pub fin: bool,
    /// Where the payload begins (bytes).
    pub start: usize,
    /// Where it ends (bytes).
    pub end: usize,
    mask: Option<[u8; 4]>,
}

impl Frame {
    /// Parses the frame on the front of `bytes` (RFC 6455 5.2), if it is all there.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
        let (len, rest) = match second & 0x7f {
            126 => rest.split_first_chunk().map(|(&len, rest)| (u64::from(u16::from_be_bytes(len)), rest))?,
            127 => rest.split_first_chunk().map(|(&len, rest)| (u64::from_be_bytes(len), rest))?,
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            rest.split_first_chunk().map(|(&mask, rest)| (Some(mask), rest))?
        };
        let len = usize::try_from(len).ok().filter(|&len| len <= rest.len())?;
        let start = bytes.len() - rest.len();
        Some(Self { opcode: first & 0x0f, fin: first & 0x80 != 0, start, end: start + len, mask })
    }

    /// The payload, unmasked in place.
    pub fn payload<'b>(&self, bytes: &'b mut [u8]) -> &'b mut [u8] {
        let payload = &mut bytes[self.start..self.end];
        if let Some(mask) = self.mask {
            apply_mask(payload, mask);
        }
        payload
    }
}

/// Appends a frame. A client masks, a server does not (RFC 6455 5.1).
pub fn write_frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(bit | len as u8),
        len @ 126..=0xffff => {
            out.push(bit | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| &mask[..]));
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    let key = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// What was read and is not yet used up.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    filled: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: vec![0; 16 * 1024], filled: 0 }
    }
}

impl Inbox {
    /// Reads once. `false`: the other side closed.
    ///
    /// # Errors
    /// The socket's own.
    pub async fn fill(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        if self.filled == self.bytes.len() {
            self.bytes.resize(self.filled * 2, 0);
        }
        let read = socket.read(&mut self.bytes[self.filled..]).await?;
        self.filled += read;
        Ok(read > 0)
    }

    /// What is there.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.filled]
    }

    /// Forgets the first `used` bytes.
    pub fn consume(&mut self, used: usize) {
        self.bytes.copy_within(used..self.filled, 0);
        self.filled -= used;
    }

    /// Reads until the empty line that ends an HTTP head, and returns the head.
    async fn head(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(self.bytes(), b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
                self.consume(end + 4);
                return Ok(head);
            }
            if !self.fill(socket).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Answers an upgrade. What follows it stays in `inbox`.
///
/// # Errors
/// The socket's own, and a request without a key.
pub async fn accept(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), inbox: &mut Inbox) -> io::Result<()> {
    let head = inbox.head(socket).await?;
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let key = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map(|(_, value)| value.trim());
    let key = key.ok_or_else(|| io::Error::other("an upgrade without a key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.flush().await
}

/// Asks for an upgrade. What follows the answer stays in `inbox`.
///
/// # Errors
/// The socket's own, and any answer but 101.
pub async fn connect(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    inbox: &mut Inbox,
    host: &str,
) -> io::Result<()> {
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    socket.flush().await?;
    let head = inbox.head(socket).await?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 101 ") { Ok(()) } else { Err(io::Error::other(status.to_owned())) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_masked_hello_of_the_rfc_is_read() {
        // RFC 6455 5.7
        let mut bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        for cut in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..cut]), None);
        }
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!((frame.opcode, frame.fin, frame.end), (TEXT, true, bytes.len()));
        assert_eq!(frame.payload(&mut bytes), b"Hello");
    }

    #[test]
    fn a_frame_is_read_as_it_was_written_at_every_size_of_length() {
        for len in [0, 1, 125, 126, 320, 65_535, 65_536, 100_000] {
            for mask in [None, Some([1, 2, 3, 250])] {
                let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let mut bytes = Vec::new();
                write_frame(BINARY, &payload, mask, &mut bytes);
                let frame = Frame::parse(&bytes).unwrap();
                assert_eq!(frame.end, bytes.len());
                assert_eq!(frame.payload(&mut bytes), payload);
            }
        }
    }

    #[test]
    fn a_length_beyond_memory_is_waited_for_and_not_believed() {
        assert_eq!(Frame::parse(&[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2]), None);
    }
}
