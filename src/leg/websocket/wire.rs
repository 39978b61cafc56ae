//! The frames of a WebSocket (RFC 6455 5), without the socket.
//!
//! All storage is allocated once. Bytes read land in one fixed buffer and are unmasked where they lie; what comes out
//! of [`Wire::peek`] are slices of it. So a message cap is a limit and not a buffer: a message that fits the buffer is
//! given whole, a longer one or one in fragments is given piece by piece, as it arrives.
//!
//! ```text
//!   socket -> spare, filled -> [ 8 KiB  ] -> peek, advance -> dialect
//!   socket <- out, written  <- [ 16 KiB ] <- push          <- dialect
//! ```
//!
//! The last bytes of the out buffer are kept for a close, so that one can always be said.

use core::fmt;
use std::io::Cursor;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::leg::websocket::utf8::Utf8Check;

/// Bytes that are read ahead, and the longest frame (header and payload) that is given whole.
pub const IN_BYTES: usize = 8 * 1024;

/// Bytes that wait to be written.
pub const OUT_BYTES: usize = 16 * 1024;

/// The close code that stands for "none was given"; it is never on the wire (RFC 6455 7.1.5).
pub const NO_STATUS: u16 = 1005;

/// The longest payload of a ping, pong or close (RFC 6455 5.5).
pub const MAX_CONTROL: usize = 125;

/// Who we are. A client masks what it sends, a server does not (RFC 6455 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We opened the connection.
    Client,
    /// The peer did.
    Server,
}

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// What [`Wire::push`] sends. A close has a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A whole text message.
    Text,
    /// A whole binary message.
    Binary,
    /// At most [`MAX_CONTROL`] bytes.
    Ping,
    /// At most [`MAX_CONTROL`] bytes.
    Pong,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In<'b> {
    /// A whole text message, checked to be UTF-8.
    Text(&'b [u8]),
    /// A whole binary message.
    Binary(&'b [u8]),
    /// The next bytes of a message that is longer than the buffer, or was sent in fragments. Control frames may come
    /// between two pieces.
    Piece {
        /// What the message is made of. Text is checked to be UTF-8 up to here.
        kind: Kind,
        /// May be empty, but only in the last piece.
        bytes: &'b [u8],
        /// Nothing of this message was consumed before.
        first: bool,
        /// Nothing of this message follows after these bytes.
        last: bool,
    },
    /// To be answered: [`Wire::pong`].
    Ping(&'b [u8]),
    /// An answer to a ping of ours, or just so.
    Pong(&'b [u8]),
    /// The peer will send nothing more. To be answered in kind, unless we closed first.
    Close {
        /// Why, if it said so.
        code: Option<u16>,
        /// For people to read.
        reason: &'b str,
    },
}

/// How the peer broke the protocol. The connection is to be closed with [`code`](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A reserved bit is set, and no extension was agreed on.
    ReservedBits,
    /// An opcode that nobody defined.
    Opcode(u8),
    /// A server's frame is masked.
    Masked,
    /// A client's frame is not masked.
    Unmasked,
    /// A ping, pong or close in fragments.
    ControlFragmented,
    /// A ping, pong or close of more than 125 bytes.
    ControlTooLong,
    /// A continuation of no message.
    NothingToContinue,
    /// A new message within a fragmented one.
    Interleaved,
    /// A length written with more bytes than it needs.
    LengthEncoding,
    /// A close with half a code.
    CloseCutShort,
    /// A close with a code that may not be sent.
    CloseCode(u16),
    /// A text or the reason of a close is not UTF-8.
    Utf8,
    /// A message beyond the limit.
    TooBig,
}

impl Violation {
    /// The close code that tells the peer (RFC 6455 7.4.1).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::ReservedBits
            | Self::Opcode(_)
            | Self::Masked
            | Self::Unmasked
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::NothingToContinue
            | Self::Interleaved
            | Self::LengthEncoding
            | Self::CloseCutShort
            | Self::CloseCode(_) => 1002,
            Self::Utf8 => 1007,
            Self::TooBig => 1009,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "a frame has reserved bits set",
            Self::Opcode(opcode) => return write!(f, "a frame has the unknown opcode {opcode}"),
            Self::Masked => "a frame from a server is masked",
            Self::Unmasked => "a frame from a client is not masked",
            Self::ControlFragmented => "a control frame is fragmented",
            Self::ControlTooLong => "a control frame is longer than 125 bytes",
            Self::NothingToContinue => "a continuation frame without a message to continue",
            Self::Interleaved => "a new message within a fragmented one",
            Self::LengthEncoding => "a frame length is not written in its shortest form",
            Self::CloseCutShort => "a close frame with half a code",
            Self::CloseCode(code) => return write!(f, "a close frame with the code {code}, which may not be sent"),
            Self::Utf8 => "a text is not UTF-8",
            Self::TooBig => "a message is longer than the limit",
        })
    }
}

/// There is no room in the out buffer now, or a close was said and nothing may follow. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One WebSocket after its handshake.
pub struct Wire {
    side: Side,
    /// Payload bytes of one message.
    max_message: u64,
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    state: State,
    /// The frame whose payload stands at `start`; its header was consumed.
    frame: Option<Frame>,
    /// The message that is given in pieces.
    message: Option<Pieced>,
    /// Payload bytes that the last peek gave.
    offered: Option<usize>,
    close_received: bool,
    outbox: Outbox,
}

impl Wire {
    /// A connection on which nothing was said yet. `max_message` is in payload bytes, fragments taken together;
    /// `entropy` fills a slice with bytes that nobody can guess (RFC 6455 10.3), and is asked once in 64 frames.
    #[must_use]
    pub fn new(side: Side, max_message: u64, entropy: fn(&mut [u8])) -> Self {
        Self {
            side,
            max_message,
            buf: vec![0; IN_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            state: State::Open,
            frame: None,
            message: None,
            offered: None,
            close_received: false,
            outbox: Outbox::new(side, entropy),
        }
    }

    /// Makes room for messages of ours of so many bytes, where that is more than there is.
    pub fn make_room_for(&mut self, longest: usize) {
        if longest > OUT_BYTES / 2 {
            self.outbox.buf = vec![0; OUT_BYTES + longest].into_boxed_slice();
            (self.outbox.start, self.outbox.end) = (0, 0);
        }
    }

    /// Free space to read into, in one piece. Empty while what is there was not consumed.
    #[must_use]
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.buf.len() - self.end < self.buf.len() / 2 {
            // What is left is at most one incomplete frame, if the caller consumes before it reads: moved once.
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buf[self.end..]
    }

    /// The first `n` bytes of the spare space were read into. Ignored after a close or a violation.
    pub fn filled(&mut self, n: usize) {
        match self.state {
            State::Open => self.end = self.end.saturating_add(n).min(self.buf.len()),
            State::Closed | State::Broken(_) => {}
        }
    }

    /// Copies bytes in; gives how many were taken.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let n = bytes.len().min(spare.len());
        spare[..n].copy_from_slice(&bytes[..n]);
        self.filled(n);
        n
    }

    /// What came in next; `None`: more bytes are needed, or the peer has closed. The same again until
    /// [`advance`](Self::advance), but a piece may have grown.
    ///
    /// # Errors
    /// [`Violation`], and the same one from then on.
    pub fn peek(&mut self) -> Result<Option<In<'_>>, Violation> {
        self.offered = None;
        match self.state {
            State::Open => {}
            State::Closed => return Ok(None),
            State::Broken(violation) => return Err(violation),
        }
        match self.on_bytes() {
            Ok(offered) => self.offered = offered,
            Err(violation) => {
                self.state = State::Broken(violation);
                (self.start, self.end) = (0, 0);
                return Err(violation);
            }
        }
        Ok(self.view())
    }

    /// Consumes what the last [`peek`](Self::peek) gave: the first `n` bytes of a piece, anything else as a whole
    /// (then `n` does not matter). A last piece is over when all its bytes are consumed, be it none.
    pub fn advance(&mut self, n: usize) {
        let (Some(offered), Some(frame)) = (self.offered.take(), &mut self.frame) else { return };
        let n = match frame.shape {
            Shape::Part => n.min(offered),
            Shape::Whole(_) | Shape::Ping | Shape::Pong | Shape::Close => offered,
        };
        self.start += n;
        frame.opened -= n;
        frame.left -= n as u64;
        if n > 0
            && frame.shape == Shape::Part
            && let Some(message) = &mut self.message
        {
            message.first = false;
        }
        if frame.left > 0 {
            return;
        }
        match frame.shape {
            Shape::Part if frame.is_final => self.message = None,
            Shape::Close => {
                self.state = State::Closed;
                (self.start, self.end) = (0, 0);
            }
            Shape::Part | Shape::Whole(_) | Shape::Ping | Shape::Pong => {}
        }
        self.frame = None;
    }

    /// Appends one unfragmented message.
    ///
    /// # Errors
    /// [`Full`] when there is no room for it now, a ping or pong is longer than [`MAX_CONTROL`], or a close was said.
    pub fn push(&mut self, op: Op, payload: &[u8]) -> Result<(), Full> {
        self.outbox.push(op, payload)
    }

    /// Answers the ping that the last [`peek`](Self::peek) gave, if it gave one.
    ///
    /// # Errors
    /// [`Full`] as in [`push`](Self::push).
    pub fn pong(&mut self) -> Result<(), Full> {
        match (&self.frame, self.offered) {
            (Some(Frame { shape: Shape::Ping, .. }), Some(n)) => {
                self.outbox.push(Op::Pong, &self.buf[self.start..self.start + n])
            }
            _ => Ok(()),
        }
    }

    /// The largest payload that [`push`](Self::push) would take now. 0 may mean that not even an empty one fits.
    #[must_use]
    pub fn room(&self) -> usize {
        self.outbox.room()
    }

    /// What waits to be written.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        &self.outbox.buf[self.outbox.start..self.outbox.end]
    }

    /// The first `n` bytes of [`out`](Self::out) were written.
    pub fn written(&mut self, n: usize) {
        self.outbox.written(n);
    }

    /// Says that we send nothing more. The reason is cut to 123 bytes at a character. A code that may not be sent,
    /// such as [`NO_STATUS`], becomes a close without a code. A second close is not sent.
    pub fn push_close(&mut self, code: u16, reason: &str) {
        self.outbox.push_close(code, reason);
    }

    /// Whether [`push_close`](Self::push_close) was called; its bytes may still wait to be written.
    #[must_use]
    pub const fn close_sent(&self) -> bool {
        self.outbox.close_sent
    }

    /// Whether [`peek`](Self::peek) gave a close.
    #[must_use]
    pub const fn close_received(&self) -> bool {
        self.close_received
    }

    /// Makes the next offer ready at `start`: gives its length in bytes. One pass over the buffer at most, since
    /// every turn of the loop consumes a header.
    fn on_bytes(&mut self) -> Result<Option<usize>, Violation> {
        loop {
            if self.frame.is_none() && !self.on_header()? {
                return Ok(None);
            }
            let Some(frame) = &mut self.frame else { return Ok(None) };
            let held = &mut self.buf[self.start..self.end];
            let there = usize::try_from(frame.left).map_or(held.len(), |left| left.min(held.len()));
            let complete = there as u64 == frame.left;
            if !complete && (there == 0 || frame.shape != Shape::Part) {
                return Ok(None);
            }
            let fresh = &mut held[frame.opened..there];
            if let Some(key) = &mut frame.mask {
                mask(fresh, *key);
                key.rotate_left(fresh.len() % 4);
            }
            frame.opened = there;
            match frame.shape {
                Shape::Part => {
                    let Some(message) = &mut self.message else { return Ok(None) };
                    if message.kind == Kind::Text {
                        let good = message.utf8.push(fresh);
                        if !good || (complete && frame.is_final && !message.utf8.finish()) {
                            return Err(Violation::Utf8);
                        }
                    }
                    if there == 0 && !frame.is_final {
                        self.frame = None; // an empty fragment in the middle says nothing
                        continue;
                    }
                }
                // Fresh is the whole of it the first time, and nothing after.
                Shape::Whole(Kind::Text) => {
                    core::str::from_utf8(fresh).map_err(|_| Violation::Utf8)?;
                }
                Shape::Close => {
                    close_payload(&held[..there])?;
                    self.close_received = true;
                }
                Shape::Whole(Kind::Binary) | Shape::Ping | Shape::Pong => {}
            }
            return Ok(Some(there));
        }
    }

    /// Consumes the header at `start`; `false`: it is not all there.
    fn on_header(&mut self) -> Result<bool, Violation> {
        let held = &self.buf[self.start..self.end];
        let mut cursor = Cursor::new(held);
        let (header, length) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(false),
            Err(_) => return Err(Violation::Opcode(held.first().map_or(0, |first| first & 0x0f))),
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::ReservedBits);
        }
        match (self.side, header.mask) {
            (Side::Client, None) | (Side::Server, Some(_)) => {}
            (Side::Client, Some(_)) => return Err(Violation::Masked),
            (Side::Server, None) => return Err(Violation::Unmasked),
        }
        // RFC 6455 5.2: the minimal number of bytes MUST be used.
        let header_len = header.len(length);
        if cursor.position() != header_len as u64 {
            return Err(Violation::LengthEncoding);
        }
        let shape = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final {
                    return Err(Violation::ControlFragmented);
                }
                if length > MAX_CONTROL as u64 {
                    return Err(Violation::ControlTooLong);
                }
                match control {
                    Control::Ping => Shape::Ping,
                    Control::Pong => Shape::Pong,
                    Control::Close => Shape::Close,
                    Control::Reserved(opcode) => return Err(Violation::Opcode(opcode)),
                }
            }
            OpCode::Data(data) => {
                let begun = match data {
                    Data::Continue => None,
                    Data::Text => Some(Kind::Text),
                    Data::Binary => Some(Kind::Binary),
                    Data::Reserved(opcode) => return Err(Violation::Opcode(opcode)),
                };
                let before = match (begun, &self.message) {
                    (None, None) => return Err(Violation::NothingToContinue),
                    (Some(_), Some(_)) => return Err(Violation::Interleaved),
                    (None, Some(message)) => message.total,
                    (Some(_), None) => 0,
                };
                // Here too ends a length of 63 bits or more, before one byte of it was waited for.
                if length > self.max_message.saturating_sub(before) {
                    return Err(Violation::TooBig);
                }
                let total = before + length;
                match begun {
                    Some(kind) if header.is_final && header_len as u64 + length <= IN_BYTES as u64 => {
                        Shape::Whole(kind)
                    }
                    Some(kind) => {
                        self.message = Some(Pieced { kind, total, first: true, utf8: Utf8Check::new() });
                        Shape::Part
                    }
                    None => {
                        if let Some(message) = &mut self.message {
                            message.total = total;
                        }
                        Shape::Part
                    }
                }
            }
        };
        self.start += header_len;
        self.frame = Some(Frame { shape, is_final: header.is_final, left: length, opened: 0, mask: header.mask });
        Ok(true)
    }

    /// The offer that is ready.
    fn view(&self) -> Option<In<'_>> {
        let (frame, n) = (self.frame.as_ref()?, self.offered?);
        let bytes = &self.buf[self.start..self.start + n];
        Some(match frame.shape {
            Shape::Whole(Kind::Text) => In::Text(bytes),
            Shape::Whole(Kind::Binary) => In::Binary(bytes),
            Shape::Part => {
                let message = self.message.as_ref()?;
                let last = frame.is_final && n as u64 == frame.left;
                In::Piece { kind: message.kind, bytes, first: message.first, last }
            }
            Shape::Ping => In::Ping(bytes),
            Shape::Pong => In::Pong(bytes),
            Shape::Close => {
                let (code, reason) = close_payload(bytes).ok()?;
                In::Close { code, reason }
            }
        })
    }
}

enum State {
    Open,
    /// The peer's close was consumed; whatever follows is ignored (RFC 6455 1.4).
    Closed,
    Broken(Violation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A message in one frame that fits the buffer.
    Whole(Kind),
    /// A frame of the message in pieces.
    Part,
    Ping,
    Pong,
    Close,
}

struct Frame {
    shape: Shape,
    is_final: bool,
    /// Payload bytes not consumed yet, in the buffer or to come.
    left: u64,
    /// How many of them, from `start`, are unmasked and checked.
    opened: usize,
    /// The key, turned so that it begins at the first byte that is still masked.
    mask: Option<[u8; 4]>,
}

struct Pieced {
    kind: Kind,
    /// Payload bytes announced so far, all fragments.
    total: u64,
    first: bool,
    utf8: Utf8Check,
}

/// What waits to be written, and the masks for what will.
struct Outbox {
    side: Side,
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    close_sent: bool,
    masks: [u8; MASK_BLOCK],
    masks_used: usize,
    entropy: fn(&mut [u8]),
}

impl Outbox {
    fn new(side: Side, entropy: fn(&mut [u8])) -> Self {
        Self {
            side,
            buf: vec![0; OUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            close_sent: false,
            masks: [0; MASK_BLOCK],
            masks_used: MASK_BLOCK,
            entropy,
        }
    }

    fn push(&mut self, op: Op, payload: &[u8]) -> Result<(), Full> {
        let (opcode, longest) = match op {
            Op::Text => (OpCode::Data(Data::Text), self.buf.len()),
            Op::Binary => (OpCode::Data(Data::Binary), self.buf.len()),
            Op::Ping => (OpCode::Control(Control::Ping), MAX_CONTROL),
            Op::Pong => (OpCode::Control(Control::Pong), MAX_CONTROL),
        };
        // RFC 6455 5.5.1: nothing after a close.
        if payload.len() > longest || self.close_sent {
            return Err(Full);
        }
        self.append(opcode, payload, CLOSE_BYTES)
    }

    fn push_close(&mut self, code: u16, reason: &str) {
        if self.close_sent {
            return;
        }
        let mut payload = [0; MAX_CONTROL];
        let mut len = 0;
        if may_be_sent(code) {
            let mut cut = reason.len().min(MAX_CONTROL - 2);
            while !reason.is_char_boundary(cut) {
                cut -= 1;
            }
            len = 2 + cut;
            payload[..2].copy_from_slice(&code.to_be_bytes());
            payload[2..len].copy_from_slice(&reason.as_bytes()[..cut]);
        }
        // Never full: everything else leaves CLOSE_BYTES free.
        self.close_sent = self.append(OpCode::Control(Control::Close), &payload[..len], 0).is_ok();
    }

    /// Appends one frame, if `reserve` bytes stay free after it.
    fn append(&mut self, opcode: OpCode, payload: &[u8], reserve: usize) -> Result<(), Full> {
        let mut header = FrameHeader {
            opcode,
            mask: match self.side {
                Side::Client => Some([0; 4]), // its size counts
                Side::Server => None,
            },
            ..FrameHeader::default()
        };
        let length = payload.len() as u64;
        let header_len = header.len(length);
        let size = header_len + payload.len();
        if size > self.free().saturating_sub(reserve) {
            return Err(Full);
        }
        if size > self.buf.len() - self.end {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if header.mask.is_some() {
            header.mask = Some(self.next_mask());
        }
        let (mut head, body) = self.buf[self.end..self.end + size].split_at_mut(header_len);
        header.format(length, &mut head).map_err(|_| Full)?;
        body.copy_from_slice(payload);
        if let Some(key) = header.mask {
            mask(body, key);
        }
        self.end += size;
        Ok(())
    }

    fn room(&self) -> usize {
        if self.close_sent {
            return 0;
        }
        let header = match self.side {
            Side::Client => 2 + 4,
            Side::Server => 2,
        };
        let free = self.free().saturating_sub(CLOSE_BYTES + header);
        // From 126 bytes on the length takes two bytes more, from 65,536 on eight (RFC 6455 5.2).
        if free > 0xffff + 8 {
            free - 8
        } else if free > 125 + 2 {
            (free - 2).min(0xffff)
        } else {
            free.min(125)
        }
    }

    fn free(&self) -> usize {
        self.buf.len() - (self.end - self.start)
    }

    fn written(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn next_mask(&mut self) -> [u8; 4] {
        if self.masks_used >= MASK_BLOCK {
            (self.entropy)(&mut self.masks);
            self.masks_used = 0;
        }
        let mut key = [0; 4];
        key.copy_from_slice(&self.masks[self.masks_used..self.masks_used + 4]);
        self.masks_used += 4;
        key
    }
}

/// 64 masks: the kernel is asked once in 64 frames.
const MASK_BLOCK: usize = 64 * 4;

/// The largest close on the wire: header, mask, payload.
const CLOSE_BYTES: usize = 2 + 4 + MAX_CONTROL;

/// Masks or unmasks in place (RFC 6455 5.3), eight bytes at a time; the key begins at the first byte.
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// A close's code and reason (RFC 6455 5.5.1).
fn close_payload(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(Violation::CloseCutShort),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(Violation::CloseCode(code));
            }
            let reason = core::str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
            Ok((Some(code), reason))
        }
    }
}

/// Whether a close code may stand on the wire: RFC 6455 7.4.1 and 7.4.2; 1012 to 1014 by IANA's registry of WebSocket
/// close codes. 1004 has no meaning, 1005, 1006 and 1015 are for reports only.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The mask of the examples in RFC 6455 5.7.
    fn rfc_mask(block: &mut [u8]) {
        for chunk in block.chunks_mut(4) {
            chunk.copy_from_slice(&[0x37, 0xfa, 0x21, 0x3d][..chunk.len()]);
        }
    }

    const MIB: u64 = 1024 * 1024;

    fn client() -> Wire {
        Wire::new(Side::Client, MIB, rfc_mask)
    }

    fn server() -> Wire {
        Wire::new(Side::Server, MIB, rfc_mask)
    }

    /// What a reader makes of the offers: pieces put together.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Heard {
        Whole(Kind, Vec<u8>),
        Pieced(Kind, Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        Broken(Violation),
    }

    /// A reader that puts pieces together, and may leave some of each for later.
    struct Reader {
        heard: Vec<Heard>,
        open: Option<(Kind, Vec<u8>)>,
        dice: Dice,
        dawdles: bool,
    }

    impl Reader {
        fn new(dawdles: bool) -> Self {
            Self { heard: Vec::new(), open: None, dice: Dice(0x5eed), dawdles }
        }

        fn drain(&mut self, wire: &mut Wire) {
            if matches!(self.heard.last(), Some(Heard::Broken(_))) {
                return;
            }
            loop {
                let n = match wire.peek() {
                    Ok(None) => return,
                    Err(violation) => {
                        self.heard.push(Heard::Broken(violation));
                        return;
                    }
                    Ok(Some(In::Text(bytes))) => {
                        assert!(core::str::from_utf8(bytes).is_ok());
                        self.heard.push(Heard::Whole(Kind::Text, bytes.to_vec()));
                        0
                    }
                    Ok(Some(In::Binary(bytes))) => {
                        self.heard.push(Heard::Whole(Kind::Binary, bytes.to_vec()));
                        0
                    }
                    Ok(Some(In::Ping(bytes))) => {
                        self.heard.push(Heard::Ping(bytes.to_vec()));
                        0
                    }
                    Ok(Some(In::Pong(bytes))) => {
                        self.heard.push(Heard::Pong(bytes.to_vec()));
                        0
                    }
                    Ok(Some(In::Close { code, reason })) => {
                        self.heard.push(Heard::Close(code, reason.to_owned()));
                        0
                    }
                    Ok(Some(In::Piece { kind, bytes, first, last })) => {
                        assert!(last || !bytes.is_empty(), "an empty piece is the last");
                        assert_eq!(first, self.open.as_ref().is_none_or(|(_, got)| got.is_empty()), "first");
                        let (was, got) = self.open.get_or_insert((kind, Vec::new()));
                        assert_eq!(*was, kind);
                        let n = if self.dawdles { self.dice.below(bytes.len() + 1) } else { bytes.len() };
                        got.extend_from_slice(&bytes[..n]);
                        if last && n == bytes.len() {
                            let (kind, got) = self.open.take().unwrap();
                            if kind == Kind::Text {
                                assert!(core::str::from_utf8(&got).is_ok());
                            }
                            self.heard.push(Heard::Pieced(kind, got));
                        }
                        n
                    }
                };
                wire.advance(n);
            }
        }
    }

    /// What is heard of these bytes when at most `step` of them come at a time (0: now more, now fewer).
    fn hear_in_steps(mut wire: Wire, mut bytes: &[u8], step: usize, dawdles: bool) -> Vec<Heard> {
        let mut reader = Reader::new(dawdles);
        let mut dice = Dice(bytes.len() as u64 + 1);
        while !bytes.is_empty() {
            let step = if step == 0 { 1 + dice.below(60) } else { step };
            let taken = wire.feed(&bytes[..step.min(bytes.len())]);
            reader.drain(&mut wire);
            if taken == 0 {
                assert!(wire.state_is_over(), "the buffer is full and nothing can be consumed");
                break;
            }
            bytes = &bytes[taken..];
        }
        reader.heard
    }

    impl Wire {
        fn state_is_over(&self) -> bool {
            !matches!(self.state, State::Open)
        }
    }

    /// What is heard, which must not depend on how the bytes arrive.
    fn hear(side: Side, bytes: &[u8]) -> Vec<Heard> {
        let wire = || Wire::new(side, MIB, rfc_mask);
        let heard = hear_in_steps(wire(), bytes, usize::MAX, false);
        for (step, dawdles) in [(1, false), (1, true), (0, false), (0, true), (usize::MAX, true)] {
            let again = hear_in_steps(wire(), bytes, step, dawdles);
            assert_eq!(again, heard, "in steps of {step} (0 = random), dawdling: {dawdles}");
        }
        heard
    }

    /// One unmasked frame: first byte, payload.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..=125 => bytes.push(n as u8),
            n @ 126..=65_535 => {
                bytes.push(126);
                bytes.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                bytes.push(127);
                bytes.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The same, masked.
    fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        let mut bytes = frame(first, payload);
        let header = bytes.len() - payload.len();
        bytes[1] |= 0x80;
        for (i, byte) in bytes[header..].iter_mut().enumerate() {
            *byte ^= key[i % 4];
        }
        bytes.splice(header..header, key);
        bytes
    }

    /// A small generator (xorshift), so that a failure can be repeated.
    struct Dice(u64);

    impl Dice {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }
    }

    fn text(text: &str) -> Heard {
        Heard::Whole(Kind::Text, text.as_bytes().to_vec())
    }

    fn pieced(text: &str) -> Heard {
        Heard::Pieced(Kind::Text, text.as_bytes().to_vec())
    }

    fn broken(violation: Violation) -> Vec<Heard> {
        vec![Heard::Broken(violation)]
    }

    #[test]
    fn the_examples_of_the_rfc_are_heard() {
        // RFC 6455 5.7, in its order.
        assert_eq!(hear(Side::Client, b"\x81\x05\x48\x65\x6c\x6c\x6f"), [text("Hello")]);
        assert_eq!(hear(Side::Server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), [text("Hello")]);
        assert_eq!(hear(Side::Client, b"\x01\x03\x48\x65\x6c\x80\x02\x6c\x6f"), [pieced("Hello")]);
        assert_eq!(hear(Side::Client, b"\x89\x05\x48\x65\x6c\x6c\x6f"), [Heard::Ping(b"Hello".to_vec())]);
        assert_eq!(
            hear(Side::Server, b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
            [Heard::Pong(b"Hello".to_vec())]
        );
        let short = [&b"\x82\x7e\x01\x00"[..], &[7; 256]].concat();
        assert_eq!(hear(Side::Client, &short), [Heard::Whole(Kind::Binary, vec![7; 256])]);
        let long = [&b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"[..], &[9; 65_536]].concat();
        assert_eq!(hear(Side::Client, &long), [Heard::Pieced(Kind::Binary, vec![9; 65_536])]);
    }

    #[test]
    fn the_examples_of_the_rfc_are_said() {
        let mut wire = server();
        wire.push(Op::Text, b"Hello").unwrap();
        assert_eq!(wire.out(), b"\x81\x05\x48\x65\x6c\x6c\x6f");
        let mut wire = client();
        wire.push(Op::Text, b"Hello").unwrap();
        assert_eq!(wire.out(), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        wire.written(11);
        wire.push(Op::Pong, b"Hello").unwrap();
        assert_eq!(wire.out(), b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        let mut wire = server();
        wire.push(Op::Ping, b"Hello").unwrap();
        assert_eq!(wire.out(), b"\x89\x05\x48\x65\x6c\x6c\x6f");
        wire.written(7);
        wire.push(Op::Binary, &[7; 256]).unwrap();
        assert_eq!(wire.out()[..4], *b"\x82\x7e\x01\x00");
    }

    #[test]
    fn a_message_at_each_length_boundary_comes_through_both_ways() {
        for len in [0, 1, 124, 125, 126, 127, 128, 8183, 8184, 8185, 8187, 8188, 8189, 8192, 16_000] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            for (from, to) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
                let mut sender = Wire::new(from, MIB, rfc_mask);
                sender.push(Op::Binary, &payload).unwrap();
                let header = sender.out().len() - len;
                let heard = hear(to, sender.out());
                let wanted = if header + len <= IN_BYTES {
                    Heard::Whole(Kind::Binary, payload.clone())
                } else {
                    Heard::Pieced(Kind::Binary, payload.clone())
                };
                assert!(heard == [wanted], "{len} bytes from the {from:?}");
            }
        }
    }

    #[test]
    fn control_frames_come_between_fragments() {
        let bytes = [
            frame(0x01, b"Hel"),
            frame(0x89, b"are you there"),
            frame(0x00, b""),
            frame(0x00, b"lo"),
            frame(0x8a, b""),
            frame(0x80, b""),
            frame(0x82, b"next"),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let heard = hear(Side::Client, &bytes);
        assert_eq!(
            heard,
            [
                Heard::Ping(b"are you there".to_vec()),
                Heard::Pong(vec![]),
                pieced("Hello"),
                Heard::Whole(Kind::Binary, b"next".to_vec()),
                Heard::Close(Some(1000), "bye".to_owned()),
            ]
        );
    }

    #[test]
    fn pieces_are_given_as_soon_as_their_bytes_are_there() {
        let mut wire = client();
        wire.feed(&frame(0x01, b"Hel"));
        let piece = |bytes, first, last| Ok(Some(In::Piece { kind: Kind::Text, bytes, first, last }));
        assert_eq!(wire.peek(), piece(b"Hel", true, false));
        assert_eq!(wire.peek(), piece(b"Hel", true, false), "peeking changes nothing");
        wire.advance(0);
        assert_eq!(wire.peek(), piece(b"Hel", true, false), "nor does consuming nothing");
        wire.advance(2);
        assert_eq!(wire.peek(), piece(b"l", false, false));
        wire.advance(1);
        assert_eq!(wire.peek(), Ok(None));
        wire.feed(&frame(0x89, b"?"));
        assert_eq!(wire.peek(), Ok(Some(In::Ping(b"?"))), "the ping does not wait for the message");
        wire.advance(0);
        wire.feed(&frame(0x80, b"lo")[..3]);
        assert_eq!(wire.peek(), piece(b"l", false, false));
        wire.feed(b"o");
        assert_eq!(wire.peek(), piece(b"lo", false, true), "a piece may grow until it is consumed");
        wire.advance(1);
        assert_eq!(wire.peek(), piece(b"o", false, true));
        wire.advance(99);
        assert_eq!(wire.peek(), Ok(None));
        wire.advance(99);
        wire.feed(&frame(0x81, b"ok"));
        assert_eq!(wire.peek(), Ok(Some(In::Text(b"ok"))));
    }

    #[test]
    fn an_empty_message_in_fragments_is_one_empty_piece() {
        let bytes = [frame(0x02, b""), frame(0x00, b""), frame(0x80, b""), frame(0x81, b"")].concat();
        assert_eq!(hear(Side::Client, &bytes), [Heard::Pieced(Kind::Binary, vec![]), text("")]);
    }

    #[test]
    fn a_message_that_would_fit_is_not_given_in_part() {
        let bytes = masked(0x81, &[b'a'; 8000], [1, 2, 3, 4]);
        let mut wire = server();
        assert_eq!(wire.feed(&bytes[..8000]), 8000);
        assert_eq!(wire.peek(), Ok(None));
        wire.feed(&bytes[8000..]);
        assert_eq!(wire.peek(), Ok(Some(In::Text(&[b'a'; 8000]))));
    }

    #[test]
    fn a_message_fills_the_buffer_to_the_last_byte_behind_another() {
        let full = frame(0x82, &[5; IN_BYTES - 4]);
        let bytes = [frame(0x81, b"first"), full, frame(0x81, b"last")].concat();
        let heard = hear(Side::Client, &bytes);
        assert_eq!(heard.len(), 3);
        assert!(heard[1] == Heard::Whole(Kind::Binary, vec![5; IN_BYTES - 4]));
    }

    #[test]
    fn a_mebibyte_is_heard_in_pieces_and_in_fragments() {
        let payload: Vec<u8> = (0..MIB as usize).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let bytes = masked(0x82, &payload, [0xde, 0xad, 0xbe, 0xef]);
        for (step, dawdles) in [(usize::MAX, false), (4096, true), (1460, true)] {
            let heard = hear_in_steps(server(), &bytes, step, dawdles);
            assert!(heard == [Heard::Pieced(Kind::Binary, payload.clone())], "step {step}");
        }
        let mut bytes = masked(0x02, &[], [1; 4]);
        for (i, fragment) in payload.chunks(997).enumerate() {
            bytes.extend(masked(0x00, fragment, [i as u8, 1, 2, (i >> 8) as u8]));
            bytes.extend(masked(0x89, b"!", [0; 4]));
        }
        bytes.extend(masked(0x80, &[], [1; 4]));
        let heard = hear_in_steps(server(), &bytes, 1460, true);
        assert!(heard.last() == Some(&Heard::Pieced(Kind::Binary, payload)));
        assert_eq!(heard.len() - 1, (MIB as usize).div_ceil(997), "every ping in between was heard");
    }

    #[test]
    fn fragments_of_one_byte_make_a_message() {
        let mut bytes = masked(0x01, b"{", [9, 8, 7, 6]);
        for _ in 0..20_000 {
            bytes.extend(masked(0x00, b"x", [6, 7, 8, 9]));
        }
        bytes.extend(masked(0x80, b"}", [1, 1, 2, 3]));
        assert!(hear(Side::Server, &bytes) == [pieced(&format!("{{{}}}", "x".repeat(20_000)))]);
    }

    #[test]
    fn empty_fragments_without_end_cost_neither_memory_nor_time() {
        let mut wire = client();
        wire.feed(&frame(0x01, b""));
        assert_eq!(wire.peek(), Ok(None));
        let flood = frame(0x00, b"").repeat(IN_BYTES / 2);
        for _ in 0..1000 {
            assert_eq!(wire.spare().len(), IN_BYTES);
            assert_eq!(wire.feed(&flood), IN_BYTES);
            assert_eq!(wire.peek(), Ok(None));
        }
        wire.feed(&frame(0x80, b"end"));
        assert_eq!(wire.peek(), Ok(Some(In::Piece { kind: Kind::Text, bytes: b"end", first: true, last: true })));
    }

    #[test]
    fn the_mask_is_right_at_every_alignment_and_length() {
        let key = [0x12, 0x00, 0xff, 0xa5];
        let plain: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37)).collect();
        for from in 0..16 {
            for to in from..plain.len() {
                let mut fast = plain.clone();
                mask(&mut fast[from..to], key);
                for (i, byte) in fast.iter().enumerate() {
                    let inside = (from..to).contains(&i);
                    let wanted = if inside { plain[i] ^ key[(i - from) % 4] } else { plain[i] };
                    assert_eq!(*byte, wanted, "byte {i} of {from}..{to}");
                }
            }
        }
    }

    #[test]
    fn a_piece_is_unmasked_once_wherever_it_was_cut() {
        let bytes = masked(0x02, b"0123456789abcdef0123", [0x11, 0x22, 0x44, 0x88]);
        for first in 6..bytes.len() {
            for second in first..bytes.len() {
                let mut wire = server();
                let mut got = Vec::new();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    wire.feed(part);
                    let _ = wire.peek();
                    if let Ok(Some(In::Piece { bytes, .. })) = wire.peek() {
                        let n = bytes.len().div_ceil(2);
                        got.extend_from_slice(&bytes[..n]);
                        wire.advance(n);
                    }
                }
                while let Ok(Some(In::Piece { bytes, .. })) = wire.peek() {
                    got.extend_from_slice(bytes);
                    let n = bytes.len();
                    wire.advance(n);
                }
                assert_eq!(got, b"0123456789abcdef0123", "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        for bits in 1..8u8 {
            for opcode in [0x1, 0x2, 0x8, 0x9, 0xa] {
                let bytes = frame(0x80 | bits << 4 | opcode, b"");
                assert_eq!(hear(Side::Client, &bytes), broken(Violation::ReservedBits));
            }
        }
        let bytes = [frame(0x01, b"a"), frame(0xc0, b"b")].concat();
        assert_eq!(hear(Side::Client, &bytes), broken(Violation::ReservedBits), "in a continuation too");
    }

    #[test]
    fn opcodes_that_nobody_defined_are_refused() {
        for opcode in (3..=7).chain(11..=15) {
            for is_final in [0x00, 0x80] {
                let bytes = frame(is_final | opcode, b"");
                assert_eq!(hear(Side::Client, &bytes), broken(Violation::Opcode(opcode)));
                assert_eq!(Violation::Opcode(opcode).code(), 1002);
            }
        }
    }

    #[test]
    fn a_client_refuses_masked_frames_and_a_server_bare_ones() {
        for first in [0x81, 0x82, 0x01, 0x88, 0x89, 0x8a] {
            assert_eq!(hear(Side::Client, &masked(first, b"", [0; 4])), broken(Violation::Masked));
            assert_eq!(hear(Side::Server, &frame(first, b"")), broken(Violation::Unmasked));
        }
        assert_eq!(Violation::Masked.code(), 1002);
        assert_eq!(Violation::Unmasked.code(), 1002);
    }

    #[test]
    fn control_frames_are_short_and_in_one_piece() {
        for opcode in [0x8, 0x9, 0xa] {
            assert_eq!(hear(Side::Client, &frame(opcode, b"")), broken(Violation::ControlFragmented));
            assert_eq!(hear(Side::Client, &frame(0x80 | opcode, &[0; 126])), broken(Violation::ControlTooLong));
        }
        assert_eq!(hear(Side::Client, &frame(0x89, &[7; 125])), [Heard::Ping(vec![7; 125])]);
        assert_eq!(hear(Side::Client, &frame(0x8a, &[7; 125])), [Heard::Pong(vec![7; 125])]);
    }

    #[test]
    fn fragments_out_of_order_are_refused() {
        for first in [0x00, 0x80] {
            assert_eq!(hear(Side::Client, &frame(first, b"x")), broken(Violation::NothingToContinue));
        }
        for first in [0x01, 0x81, 0x02, 0x82] {
            let bytes = [frame(0x01, b"x"), frame(first, b"y")].concat();
            assert_eq!(hear(Side::Client, &bytes), broken(Violation::Interleaved));
        }
        let bytes = [frame(0x01, b"x"), frame(0x80, b""), frame(0x80, b"y")].concat();
        assert_eq!(hear(Side::Client, &bytes), [pieced("x"), Heard::Broken(Violation::NothingToContinue)]);
    }

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        let long_forms: [&[u8]; 5] = [
            b"\x82\x7e\x00\x7d",
            b"\x82\x7e\x00\x00",
            b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01",
            b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x7e",
            b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff",
        ];
        for header in long_forms {
            let bytes = [header, &[0; 300]].concat();
            assert_eq!(hear(Side::Client, &bytes), broken(Violation::LengthEncoding), "{header:02x?}");
        }
        assert_eq!(Violation::LengthEncoding.code(), 1002);
    }

    #[test]
    fn a_monstrous_length_is_refused_before_its_first_byte() {
        for length in [MIB + 1, u64::from(u32::MAX) + 1, i64::MAX as u64, 1 << 63, u64::MAX] {
            for first in [0x82, 0x01] {
                let mut bytes = vec![first, 0x7f];
                bytes.extend_from_slice(&length.to_be_bytes());
                assert_eq!(hear(Side::Client, &bytes), broken(Violation::TooBig), "{length}");
            }
        }
        assert_eq!(Violation::TooBig.code(), 1009);
        // Within a limit as large as numbers go, fragments still cannot overflow the sum.
        let mut wire = Wire::new(Side::Client, u64::MAX, rfc_mask);
        wire.feed(&frame(0x02, b"abc"));
        assert!(matches!(wire.peek(), Ok(Some(In::Piece { bytes: b"abc", .. }))));
        wire.advance(3);
        wire.feed(&[&[0x80, 0x7f][..], &[0xff; 8]].concat());
        assert_eq!(wire.peek(), Err(Violation::TooBig));
    }

    #[test]
    fn the_limit_counts_the_fragments_together_and_begins_anew() {
        let limit = |bytes: &[u8]| {
            let all = hear_in_steps(Wire::new(Side::Client, 10, rfc_mask), bytes, usize::MAX, false);
            let slow = hear_in_steps(Wire::new(Side::Client, 10, rfc_mask), bytes, 1, false);
            assert_eq!(all, slow);
            all
        };
        assert_eq!(limit(&frame(0x81, b"0123456789")), [text("0123456789")]);
        assert_eq!(limit(&frame(0x81, b"0123456789a")), broken(Violation::TooBig));
        let ten = [frame(0x01, b"01234"), frame(0x00, b"5678"), frame(0x80, b"9")].concat();
        assert_eq!(limit(&ten.repeat(2)), [pieced("0123456789"), pieced("0123456789")]);
        let eleven = [frame(0x01, b"01234"), frame(0x00, b"5678"), frame(0x80, b"9a")].concat();
        assert_eq!(limit(&eleven), broken(Violation::TooBig));
        let with_ping = [frame(0x01, b"01234"), frame(0x89, b"01234567"), frame(0x80, b"56789")].concat();
        assert_eq!(limit(&with_ping).last(), Some(&pieced("0123456789")), "a ping is no part of a message");
    }

    #[test]
    fn close_codes_are_judged_as_the_registry_has_them() {
        let may = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
        let may_not = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
        for code in may {
            let bytes = frame(0x88, &u16::to_be_bytes(code));
            assert_eq!(hear(Side::Client, &bytes), [Heard::Close(Some(code), String::new())]);
        }
        for code in may_not {
            let bytes = frame(0x88, &u16::to_be_bytes(code));
            assert_eq!(hear(Side::Client, &bytes), broken(Violation::CloseCode(code)));
            assert_eq!(Violation::CloseCode(code).code(), 1002);
        }
    }

    #[test]
    fn a_close_says_nothing_or_a_code_or_a_code_and_a_reason() {
        assert_eq!(hear(Side::Client, &frame(0x88, b"")), [Heard::Close(None, String::new())]);
        assert_eq!(hear(Side::Client, &frame(0x88, b"\x03")), broken(Violation::CloseCutShort));
        let reason = "é".repeat(61) + "x";
        let payload = [&[0x03, 0xe9][..], reason.as_bytes()].concat();
        assert_eq!(payload.len(), MAX_CONTROL);
        assert_eq!(hear(Side::Client, &frame(0x88, &payload)), [Heard::Close(Some(1001), reason)]);
        for reason in [&b"\xff"[..], b"ok\xc3", b"\xed\xa0\x80"] {
            let payload = [&[0x03, 0xe8][..], reason].concat();
            assert_eq!(hear(Side::Client, &frame(0x88, &payload)), broken(Violation::Utf8));
        }
    }

    #[test]
    fn what_follows_a_close_is_ignored() {
        let bytes = [frame(0x88, b"\x03\xe8"), frame(0x81, b"too late"), vec![0xff; 20_000]].concat();
        assert_eq!(hear(Side::Client, &bytes), [Heard::Close(Some(1000), String::new())]);
        let mut wire = client();
        assert!(!wire.close_received());
        wire.feed(&bytes[..20]);
        assert!(matches!(wire.peek(), Ok(Some(In::Close { code: Some(1000), reason: "" }))));
        assert!(matches!(wire.peek(), Ok(Some(In::Close { .. }))), "until it is consumed");
        assert!(wire.close_received());
        wire.advance(0);
        for _ in 0..10 {
            assert_eq!(wire.feed(&bytes), IN_BYTES, "one may read on and throw away");
            assert_eq!(wire.peek(), Ok(None));
        }
    }

    #[test]
    fn a_violation_stays_and_what_came_before_it_was_heard() {
        let bytes = [frame(0x81, b"fine"), frame(0x83, b""), frame(0x81, b"fine again")].concat();
        assert_eq!(hear(Side::Client, &bytes), [text("fine"), Heard::Broken(Violation::Opcode(3))]);
        let mut wire = client();
        wire.feed(&bytes[6..]);
        assert_eq!(wire.peek(), Err(Violation::Opcode(3)));
        wire.advance(5);
        wire.feed(&frame(0x81, b"fine again"));
        assert_eq!(wire.peek(), Err(Violation::Opcode(3)));
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused_at_every_cut() {
        let bad: [&[u8]; 9] = [
            b"\x80",
            b"abc\xc3",
            b"\xc0\xaf",
            b"\xe2\x82",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xff\xff",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
            b"ok \xf0\x9f\x98",
        ];
        for payload in bad {
            assert_eq!(hear(Side::Client, &frame(0x81, payload)), broken(Violation::Utf8));
            for cut in 0..=payload.len() {
                let bytes = [
                    frame(0x01, &payload[..cut]),
                    frame(0x89, b"\xff"), // a ping's payload is not text
                    frame(0x80, &payload[cut..]),
                ]
                .concat();
                let heard = hear(Side::Client, &bytes);
                assert_eq!(heard.last(), Some(&Heard::Broken(Violation::Utf8)), "{payload:02x?} cut at {cut}");
                let binary = [frame(0x02, &payload[..cut]), frame(0x80, &payload[cut..])].concat();
                assert_eq!(hear(Side::Client, &binary), [Heard::Pieced(Kind::Binary, payload.to_vec())]);
            }
        }
        assert_eq!(Violation::Utf8.code(), 1007);
    }

    #[test]
    fn text_may_be_cut_within_a_character() {
        let said = "κόσμε नमस्ते \u{10ffff}";
        for cut in 0..=said.len() {
            let bytes = [frame(0x01, &said.as_bytes()[..cut]), frame(0x80, &said.as_bytes()[cut..])].concat();
            assert_eq!(hear(Side::Client, &bytes), [pieced(said)], "cut at {cut}");
        }
        // In one frame longer than the buffer every cut is ours.
        let long = "€".repeat(10_000);
        assert!(hear(Side::Server, &masked(0x81, long.as_bytes(), [1, 2, 3, 4])) == [pieced(&long)]);
        let mut spoilt = long.into_bytes();
        spoilt.truncate(29_999);
        assert_eq!(hear(Side::Server, &masked(0x81, &spoilt, [1, 2, 3, 4])), broken(Violation::Utf8));
    }

    #[test]
    fn every_violation_is_told_in_plain_words() {
        let all = [
            Violation::ReservedBits,
            Violation::Opcode(11),
            Violation::Masked,
            Violation::Unmasked,
            Violation::ControlFragmented,
            Violation::ControlTooLong,
            Violation::NothingToContinue,
            Violation::Interleaved,
            Violation::LengthEncoding,
            Violation::CloseCutShort,
            Violation::CloseCode(1005),
            Violation::Utf8,
            Violation::TooBig,
        ];
        for violation in all {
            let words = violation.to_string();
            assert!(words.starts_with("a ") && !words.ends_with('.'), "{words}");
            assert!(words.len() <= MAX_CONTROL - 2, "it fits a close's reason: {words}");
        }
        assert_eq!(Violation::CloseCode(1005).to_string(), "a close frame with the code 1005, which may not be sent");
    }

    #[test]
    fn a_full_out_buffer_refuses_and_is_left_as_it_was() {
        for side in [Side::Client, Side::Server] {
            let mut wire = Wire::new(side, MIB, rfc_mask);
            let mut sent = 0;
            while wire.push(Op::Text, &[b'x'; 500]).is_ok() {
                sent += 1;
            }
            assert!(sent >= 30, "{sent} messages");
            let before = wire.out().to_vec();
            let room = wire.room();
            assert!(room < 500);
            assert_eq!(wire.push(Op::Text, &vec![b'y'; room + 1]), Err(Full));
            assert_eq!(wire.out(), before);
            assert_eq!(wire.push(Op::Text, &vec![b'y'; room]), Ok(()));
            // What is left cannot hold even an empty frame, except right below a longer header.
            assert_eq!(wire.room(), 0);
            let full = wire.out().to_vec();
            assert_eq!(wire.push(Op::Ping, b"12345678"), Err(Full));
            assert_eq!(wire.out(), full);
            wire.push_close(1001, &"z".repeat(123));
            assert!(wire.close_sent(), "a close always fits");
            assert!(wire.out().len() > full.len());
            assert!(wire.out().starts_with(&full));
        }
    }

    #[test]
    fn room_is_exactly_what_push_takes() {
        for side in [Side::Client, Side::Server] {
            for taken in (0..OUT_BYTES).rev().take(700).chain([0, 1, 100, 5000]) {
                let mut wire = Wire::new(side, MIB, rfc_mask);
                if wire.push(Op::Binary, &vec![1; taken]).is_err() {
                    continue;
                }
                let room = wire.room();
                assert_eq!(wire.push(Op::Binary, &vec![2; room + 1]), Err(Full), "after {taken}");
                if room > 0 {
                    assert_eq!(wire.push(Op::Binary, &vec![2; room]), Ok(()), "after {taken}");
                }
            }
        }
    }

    #[test]
    fn frames_keep_their_order_when_the_out_buffer_wraps_up() {
        let mut sender = client();
        let mut receiver = server();
        let mut reader = Reader::new(false);
        let mut dice = Dice(77);
        let mut said = Vec::new();
        while said.len() < 2000 {
            let payload = format!("{} {}", said.len(), "v".repeat(dice.below(3000)));
            if sender.push(Op::Text, payload.as_bytes()).is_ok() {
                said.push(text(&payload));
            } else {
                let n = receiver.feed(&sender.out()[..1 + dice.below(sender.out().len())]);
                sender.written(n);
                reader.drain(&mut receiver);
            }
        }
        while !sender.out().is_empty() {
            let n = receiver.feed(sender.out());
            sender.written(n);
            reader.drain(&mut receiver);
        }
        assert!(reader.heard == said);
    }

    #[test]
    fn a_control_payload_that_is_too_long_is_never_sent() {
        let mut wire = client();
        assert_eq!(wire.push(Op::Ping, &[0; 126]), Err(Full));
        assert_eq!(wire.push(Op::Pong, &[0; 126]), Err(Full));
        assert_eq!(wire.push(Op::Ping, &[0; 125]), Ok(()));
    }

    #[test]
    fn a_ping_is_answered_with_its_own_words() {
        let mut wire = client();
        wire.feed(&frame(0x89, b"Hello"));
        assert_eq!(wire.pong(), Ok(()), "nothing was peeked yet");
        assert_eq!(wire.out(), b"");
        assert_eq!(wire.peek(), Ok(Some(In::Ping(b"Hello"))));
        assert_eq!(wire.pong(), Ok(()));
        assert_eq!(wire.out(), b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        wire.advance(5);
        wire.written(11);
        assert_eq!(wire.pong(), Ok(()));
        assert_eq!(wire.out(), b"", "once");
    }

    #[test]
    fn a_close_is_said_once_and_nothing_after_it() {
        let mut wire = server();
        wire.push(Op::Text, b"last words").unwrap();
        wire.written(12);
        assert!(!wire.close_sent());
        wire.push_close(1000, "bye");
        wire.push_close(1011, "again");
        assert_eq!(wire.out(), b"\x88\x05\x03\xe8bye");
        assert_eq!(wire.push(Op::Text, b"x"), Err(Full));
        assert_eq!(wire.push(Op::Pong, b""), Err(Full));
        assert_eq!(wire.room(), 0);
        assert!(wire.close_sent());
        wire.feed(&masked(0x81, b"still", [3, 2, 1, 0]));
        assert_eq!(wire.peek(), Ok(Some(In::Text(b"still"))), "the peer may finish what it says");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        for (reason, kept) in [("é".repeat(100), 122), ("x".to_owned() + &"€".repeat(50), 121), ("a".repeat(123), 123)]
        {
            let mut wire = server();
            wire.push_close(1011, &reason);
            assert_eq!(hear(Side::Client, wire.out()), [Heard::Close(Some(1011), reason[..kept].to_owned())]);
        }
    }

    #[test]
    fn a_code_that_may_not_be_sent_is_left_out() {
        for code in [NO_STATUS, 1006, 1015, 0] {
            let mut wire = server();
            wire.push_close(code, "unseen");
            assert_eq!(wire.out(), b"\x88\x00");
        }
    }

    #[test]
    fn every_frame_of_a_client_has_a_mask_of_its_own() {
        fn counter(block: &mut [u8]) {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(1);
            for chunk in block.chunks_mut(4) {
                chunk.copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            }
        }
        let mut wire = Wire::new(Side::Client, MIB, counter);
        for i in 1..=1000u32 {
            wire.push(Op::Binary, &[0; 9]).unwrap();
            assert_eq!(wire.out()[2..6], i.to_be_bytes(), "in turn, none twice");
            let key = i.to_be_bytes();
            assert_eq!(wire.out()[6..], [key, key].concat().into_iter().chain([key[0]]).collect::<Vec<_>>());
            wire.written(15);
        }
    }

    #[test]
    fn frames_are_understood_by_tungstenite_and_its_by_us() {
        use std::io::{Read, Write};

        use tungstenite::protocol::{Message, Role, WebSocket};

        struct Pipe {
            read: Cursor<Vec<u8>>,
            wrote: Vec<u8>,
        }
        impl Read for Pipe {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.read.read(buf)
            }
        }
        impl Write for Pipe {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.wrote.extend_from_slice(buf);
                Ok(buf.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        for (ours, theirs) in [(Side::Client, Role::Server), (Side::Server, Role::Client)] {
            for len in [0, 1, 125, 126, 320, 8188, 8189, 15_000] {
                let payload = vec![0xa7; len];
                let mut wire = Wire::new(ours, MIB, rfc_mask);
                wire.push(Op::Binary, &payload).unwrap();
                wire.push(Op::Text, "हैलो".as_bytes()).unwrap();
                let pipe = Pipe { read: Cursor::new(wire.out().to_vec()), wrote: Vec::new() };
                let mut peer = WebSocket::from_raw_socket(pipe, theirs, None);
                assert_eq!(peer.read().unwrap(), Message::binary(payload.clone()));
                assert_eq!(peer.read().unwrap(), Message::text("हैलो"));
                peer.send(Message::binary(payload.clone())).unwrap();
                peer.send(Message::text("हैलो")).unwrap();
                peer.close(None).unwrap();
                let heard = hear(ours, &peer.get_ref().wrote);
                assert_eq!(heard.len(), 3, "{len}");
                assert!(matches!(&heard[0], Heard::Whole(_, got) | Heard::Pieced(_, got) if *got == payload));
                assert_eq!(heard[1..], [text("हैलो"), Heard::Close(None, String::new())]);
            }
        }
    }

    /// A session of every kind of frame.
    fn session(side: Side, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut say = |first: u8, payload: &[u8], dice: &mut Dice| match side {
            Side::Client => bytes.extend(frame(first, payload)),
            Side::Server => bytes.extend(masked(first, payload, dice.next().to_be_bytes()[..4].try_into().unwrap())),
        };
        say(0x81, br#"{"event":"start","samples":[1,-2,3]}"#, dice);
        say(0x01, "κόσ".as_bytes(), dice);
        say(0x89, b"12345678", dice);
        say(0x00, b"", dice);
        say(0x80, "με".as_bytes(), dice);
        let len = if dice.below(50) == 0 { 9000 } else { 150 };
        say(0x82, &vec![0x55; len], dice);
        say(0x8a, b"", dice);
        say(0x88, b"\x03\xe8bye", dice);
        bytes
    }

    #[test]
    fn twenty_thousand_spoilt_sessions_are_heard_alike_however_they_arrive() {
        let mut dice = Dice(0x0074_7275_6e6b);
        let mut violations = 0;
        for round in 0..20_000 {
            let side = if round % 2 == 0 { Side::Client } else { Side::Server };
            let mut bytes = session(side, &mut dice);
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(bytes.len());
                match dice.below(5) {
                    0 => bytes[at] ^= 1 << dice.below(8),
                    1 => bytes[at] = dice.next() as u8,
                    2 => drop(bytes.remove(at)),
                    3 => bytes.insert(at, dice.next() as u8),
                    _ => bytes.truncate(at.max(8)),
                }
            }
            let wire = || Wire::new(side, MIB, rfc_mask);
            let heard = hear_in_steps(wire(), &bytes, usize::MAX, false);
            assert_eq!(hear_in_steps(wire(), &bytes, 1, false), heard, "round {round}: {bytes:02x?}");
            assert_eq!(hear_in_steps(wire(), &bytes, 0, true), heard, "round {round}: {bytes:02x?}");
            violations += usize::from(matches!(heard.last(), Some(Heard::Broken(_))));
        }
        assert!((5_000..19_000).contains(&violations), "{violations} of 20,000 broke the protocol");
    }

    #[test]
    fn noise_is_heard_alike_however_it_arrives() {
        let mut dice = Dice(3);
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..300).map(|_| dice.next() as u8).collect();
            for side in [Side::Client, Side::Server] {
                let heard = hear_in_steps(Wire::new(side, MIB, rfc_mask), &noise, usize::MAX, true);
                assert_eq!(heard, hear_in_steps(Wire::new(side, MIB, rfc_mask), &noise, 1, false));
            }
        }
    }

    #[cfg(feature = "count-allocs")]
    #[test]
    fn nothing_is_allocated_once_it_is_open() {
        let mut sender = client();
        let mut receiver = server();
        let payload = [0x31; 3200];
        let long = masked(0x81, &vec![b'1'; 100_000], [4, 3, 2, 1]);
        let broken = masked(0x83, b"", [0; 4]);
        let counted = allocation_counter::measure(|| {
            for _ in 0..500 {
                sender.push(Op::Text, &payload).unwrap();
                sender.push(Op::Ping, b"12345678").unwrap();
                while !sender.out().is_empty() {
                    let n = receiver.feed(sender.out());
                    sender.written(n);
                    while let Ok(Some(offer)) = receiver.peek() {
                        let ping = matches!(offer, In::Ping(_));
                        if ping {
                            receiver.pong().unwrap();
                        }
                        receiver.advance(0);
                    }
                    let n = receiver.out().len();
                    receiver.written(n);
                }
            }
            let mut rest = &long[..];
            while !rest.is_empty() {
                rest = &rest[receiver.feed(rest)..];
                while let Ok(Some(In::Piece { bytes, .. })) = receiver.peek() {
                    let n = bytes.len();
                    receiver.advance(n);
                }
            }
            receiver.feed(&broken);
            assert!(receiver.peek().is_err());
            receiver.push_close(1002, "bad");
        });
        assert_eq!(counted.count_total, 0);
    }
}
