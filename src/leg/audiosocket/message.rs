//! The messages of AudioSocket, read and written.
//!
//! A [`Reader`] never grows: audio longer than its buffer comes out in pieces, and nothing else may be long. Items
//! borrow the buffer, so one is looked at with [`Reader::peek`] and let go with [`Reader::advance`].

use core::fmt;

use crate::leg::audiosocket::{is_digit, kind, rate_of};

/// Bytes before the payload.
pub const HEADER: usize = 3;

/// The largest message that a leg writes: 20 ms of PCM16 at 48 kHz.
pub const MAX_FRAME: usize = HEADER + 2 * crate::media::frame::MAX_SAMPLES;

/// What a reader holds at most (bytes). Twice the largest frame that any of our kinds has; more only adds delay.
pub const BUFFER: usize = 4096;

/// One message, or a piece of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'m> {
    /// The call is over.
    Hangup,
    /// The name of the call.
    Uuid([u8; 16]),
    /// Silence, from an old client library.
    Silence,
    /// A digit, one of `0-9*#A-D`.
    Dtmf(u8),
    /// Audio at one of our rates.
    Audio {
        /// The kind it came under.
        kind: u8,
        /// Never empty. A piece that is not the last one has an even length, so no sample is cut.
        bytes: &'m [u8],
        /// The message ends with these bytes.
        last: bool,
        /// Length of the whole message's payload (bytes).
        message_len: usize,
    },
    /// Audio at a rate that is not ours. Its payload is skipped.
    WrongRate(WrongRate),
    /// The other side failed, with its code if it gave one.
    Error(Option<u8>),
    /// A kind that we do not know, or a digit that no telephone has. Skipped and counted.
    Unknown(u8),
}

/// A kind of audio that we do not take. As text it says what to write in the dialplan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongRate(pub u8);

impl fmt::Display for WrongRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let khz = match self.0 {
            kind::AUDIO_12000 => "12 kHz",
            kind::AUDIO_32000 => "32 kHz",
            kind::AUDIO_44100 => "44.1 kHz",
            kind::AUDIO_96000 => "96 kHz",
            kind::AUDIO_192000 => "192 kHz",
            _ => "an unknown rate",
        };
        write!(
            f,
            "the PBX sends audio at {khz} (kind {:#04x}); write c(slin16) in its dial string: \
             Dial(AudioSocket/HOST:PORT/UUID/c(slin16))",
            self.0
        )
    }
}

/// What cannot be AudioSocket. The call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A message of a fixed length had another one.
    Length {
        /// The kind of message.
        kind: u8,
        /// The length in its header (bytes).
        len: u16,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Length { kind, len } = *self;
        let (name, right) = match kind {
            kind::HANGUP => ("hangup", "none"),
            kind::UUID => ("uuid", "16"),
            _ => ("digit", "1"),
        };
        write!(f, "a {name} message (kind {kind:#04x}) of {len} bytes, {right} would be right: this is not AudioSocket")
    }
}

impl core::error::Error for Violation {}

/// Turns bytes as they come into items.
pub struct Reader {
    buffer: Box<[u8; BUFFER]>,
    /// The first byte that is not yet used up.
    start: usize,
    /// The end of what was read.
    end: usize,
    state: State,
    /// What `advance` has to do for the item that was shown last.
    shown: Option<Shown>,
    unknown: u64,
    empty: u64,
}

#[derive(Clone, Copy)]
enum State {
    Header,
    /// In the payload of an audio message.
    Audio {
        kind: u8,
        left: usize,
        message_len: usize,
    },
    /// In a payload that nobody wants.
    Skip {
        left: usize,
    },
}

#[derive(Clone, Copy)]
struct Shown {
    used: usize,
    next: State,
    unknown: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// A reader at the start of a connection. Its only allocation.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: Box::new([0; BUFFER]),
            start: 0,
            end: 0,
            state: State::Header,
            shown: None,
            unknown: 0,
            empty: 0,
        }
    }

    /// Where the next bytes from the socket go. Never empty once `peek` has said that there is no item.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// That many bytes were put into `spare`.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n.min(BUFFER)).min(BUFFER);
    }

    /// Takes what fits of these bytes and says how many that were.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let n = bytes.len().min(spare.len());
        spare[..n].copy_from_slice(&bytes[..n]);
        self.filled(n);
        n
    }

    /// The next item, again and again until [`advance`](Self::advance); nothing when more bytes are needed.
    ///
    /// # Errors
    ///
    /// The bytes are not AudioSocket. They stay, so the same answer comes again.
    pub fn peek(&mut self) -> Result<Option<Item<'_>>, Violation> {
        loop {
            match self.state {
                State::Header => {
                    let &[kind, high, low, ref rest @ ..] = &self.buffer[self.start..self.end] else { return Ok(None) };
                    let len = u16::from_be_bytes([high, low]);
                    let payload = usize::from(len);
                    let skip = State::Skip { left: payload };
                    // used bytes, what comes after them, and the item
                    let (used, next, item) = match kind {
                        kind::HANGUP if len == 0 => (HEADER, State::Header, Item::Hangup),
                        kind::UUID if len == 16 => {
                            let Some(&uuid) = rest.first_chunk() else { return Ok(None) };
                            (HEADER + 16, State::Header, Item::Uuid(uuid))
                        }
                        kind::DTMF if len == 1 => {
                            let Some(&digit) = rest.first() else { return Ok(None) };
                            let item = if is_digit(digit) { Item::Dtmf(digit) } else { Item::Unknown(kind) };
                            (HEADER + 1, State::Header, item)
                        }
                        kind::HANGUP | kind::UUID | kind::DTMF => return Err(Violation::Length { kind, len }),
                        kind::SILENCE => (HEADER, skip, Item::Silence),
                        kind::ERROR if len == 0 => (HEADER, State::Header, Item::Error(None)),
                        kind::ERROR => {
                            let Some(&code) = rest.first() else { return Ok(None) };
                            (HEADER + 1, State::Skip { left: payload - 1 }, Item::Error(Some(code)))
                        }
                        kind if rate_of(kind).is_some() => {
                            self.start += HEADER;
                            if payload == 0 {
                                self.empty += 1;
                            } else {
                                self.state = State::Audio { kind, left: payload, message_len: payload };
                            }
                            continue;
                        }
                        kind::AUDIO_8000..=kind::AUDIO_192000 => (HEADER, skip, Item::WrongRate(WrongRate(kind))),
                        _ => (HEADER, skip, Item::Unknown(kind)),
                    };
                    let unknown = matches!(item, Item::Unknown(_));
                    self.shown = Some(Shown { used, next, unknown });
                    return Ok(Some(item));
                }
                State::Audio { kind, left, message_len } => {
                    let here = self.end - self.start;
                    let used = if here >= left {
                        left
                    } else if message_len > BUFFER {
                        here & !1
                    } else {
                        0 // it will fit: wait for the whole of it
                    };
                    if used == 0 {
                        return Ok(None);
                    }
                    let last = used == left;
                    let next = if last { State::Header } else { State::Audio { kind, left: left - used, message_len } };
                    self.shown = Some(Shown { used, next, unknown: false });
                    let bytes = &self.buffer[self.start..self.start + used];
                    return Ok(Some(Item::Audio { kind, bytes, last, message_len }));
                }
                State::Skip { left } => {
                    let used = left.min(self.end - self.start);
                    self.start += used;
                    if used < left {
                        self.state = State::Skip { left: left - used };
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
            }
        }
    }

    /// Lets go of the item that `peek` showed.
    pub fn advance(&mut self) {
        if let Some(Shown { used, next, unknown }) = self.shown.take() {
            self.start += used;
            self.state = next;
            self.unknown += u64::from(unknown);
        }
    }

    /// If the connection ends here, it ends inside a message. To be asked once `peek` has said that there is no item.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.start < self.end
            || match self.state {
                State::Header => false,
                State::Audio { .. } => true,
                State::Skip { left } => left > 0,
            }
    }

    /// How many messages of an unknown kind, or with an impossible digit, were skipped.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// How many audio messages had no audio.
    #[must_use]
    pub fn empty(&self) -> u64 {
        self.empty
    }
}

/// Writes a message. Gives back what to send in one write: nothing if it does not fit `out`.
pub fn write<'b>(kind: u8, payload: &[u8], out: &'b mut [u8]) -> &'b [u8] {
    let (Ok(len), Some(message)) = (u16::try_from(payload.len()), out.get_mut(..HEADER + payload.len())) else {
        return &[];
    };
    let (header, body) = message.split_at_mut(HEADER);
    let [high, low] = len.to_be_bytes();
    header.copy_from_slice(&[kind, high, low]);
    body.copy_from_slice(payload);
    message
}

/// Writes a frame. Gives back what to send in one write: nothing if it does not fit `out`, and nothing if there are no
/// samples, because Asterisk ends a call at an empty frame.
pub fn write_audio<'b>(kind: u8, samples: &[i16], out: &'b mut [u8]) -> &'b [u8] {
    let (Ok(len), Some(message)) = (u16::try_from(2 * samples.len()), out.get_mut(..HEADER + 2 * samples.len())) else {
        return &[];
    };
    if len == 0 {
        return &[];
    }
    let (header, body) = message.split_at_mut(HEADER);
    let [high, low] = len.to_be_bytes();
    header.copy_from_slice(&[kind, high, low]);
    for (bytes, sample) in body.chunks_exact_mut(2).zip(samples) {
        bytes.copy_from_slice(&sample.to_le_bytes());
    }
    message
}

/// Writes the end of the call.
pub fn write_hangup(out: &mut [u8]) -> &[u8] {
    write(kind::HANGUP, &[], out)
}

/// Writes the name of the call. What a PBX says first; never sent to one.
pub fn write_uuid<'b>(uuid: &[u8; 16], out: &'b mut [u8]) -> &'b [u8] {
    write(kind::UUID, uuid, out)
}

/// Writes a digit. For a PBX; never sent to one.
pub fn write_dtmf(digit: u8, out: &mut [u8]) -> &[u8] {
    write(kind::DTMF, &[digit], out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = *b"\x40\x32\x5e\xc2\x5e\xfd\x4b\xd3\x80\x5f\x53\x57\x6e\x58\x1d\x13";

    /// What a PBX says in a short call: its uuid, two frames of 4 samples, a digit, the end.
    const CALL: &[u8] = b"\x01\x00\x10\x40\x32\x5e\xc2\x5e\xfd\x4b\xd3\x80\x5f\x53\x57\x6e\x58\x1d\x13\
        \x10\x00\x08\x01\x00\xff\xff\x00\x80\xff\x7f\
        \x12\x00\x08\x02\x00\xfe\xff\x01\x80\xfe\x7f\
        \x03\x00\x01#\
        \x00\x00\x00";

    /// Reads it all, fed in pieces of this size; items as text, because they borrow.
    fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Reader) {
        let mut reader = Reader::new();
        let mut items = Vec::new();
        for mut rest in bytes.chunks(piece) {
            while !rest.is_empty() {
                let n = reader.feed(rest);
                assert!(n > 0, "the reader is stuck");
                rest = &rest[n..];
                loop {
                    match reader.peek() {
                        Ok(Some(item)) => items.push(format!("{item:?}")),
                        Ok(None) => break,
                        Err(violation) => {
                            items.push(violation.to_string());
                            return (items, reader);
                        }
                    }
                    reader.advance();
                }
            }
        }
        (items, reader)
    }

    fn one(bytes: &[u8]) -> String {
        let (mut items, _) = read(bytes, usize::MAX);
        assert_eq!(items.len(), 1, "{items:?}");
        items.remove(0)
    }

    fn whole(kind: u8, bytes: &[u8]) -> String {
        format!("{:?}", Item::Audio { kind, bytes, last: true, message_len: bytes.len() })
    }

    #[test]
    fn a_call_reads_the_same_however_its_bytes_are_cut() {
        let expected = [
            format!("{:?}", Item::Uuid(UUID)),
            whole(0x10, b"\x01\x00\xff\xff\x00\x80\xff\x7f"),
            whole(0x12, b"\x02\x00\xfe\xff\x01\x80\xfe\x7f"),
            format!("{:?}", Item::Dtmf(b'#')),
            format!("{:?}", Item::Hangup),
        ];
        for piece in 1..=CALL.len() {
            let (items, reader) = read(CALL, piece);
            assert_eq!(items, expected, "in pieces of {piece}");
            assert!(!reader.is_mid_message());
        }
    }

    #[test]
    fn an_item_stays_until_it_is_let_go() {
        let mut reader = Reader::new();
        reader.feed(b"\x77\x00\x01x\x03\x00\x015");
        for _ in 0..3 {
            assert_eq!(reader.peek(), Ok(Some(Item::Unknown(0x77))));
        }
        assert_eq!(reader.unknown(), 0);
        reader.advance();
        reader.advance(); // nothing is shown: nothing is let go
        assert_eq!(reader.peek(), Ok(Some(Item::Dtmf(b'5'))));
        reader.advance();
        assert_eq!(reader.peek(), Ok(None));
        assert_eq!(reader.unknown(), 1);
    }

    #[test]
    fn every_kind_of_the_table_is_read_as_what_it_is() {
        for (kind, len) in [(0x10, 320), (0x12, 640), (0x13, 960), (0x16, 1920)] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut out = [0; MAX_FRAME];
            assert_eq!(one(write(kind, &payload, &mut out)), whole(kind, &payload));
        }
        for (kind, len) in [(0x11, 480), (0x14, 1280), (0x15, 1764), (0x17, 3840), (0x18, 7680)] {
            let payload = vec![1; len];
            let mut out = vec![0; HEADER + len];
            assert_eq!(one(write(kind, &payload, &mut out)), format!("{:?}", Item::WrongRate(WrongRate(kind))));
        }
        assert_eq!(one(b"\x02\x00\x00"), "Silence");
        assert_eq!(one(b"\x02\x00\x02\x00\xa0"), "Silence");
        assert_eq!(one(b"\xff\x00\x00"), "Error(None)");
        assert_eq!(one(b"\xff\x00\x01\x04"), "Error(Some(4))");
        assert_eq!(one(b"\xff\x00\x05\x02oops"), "Error(Some(2))");
    }

    #[test]
    fn a_wrong_rate_says_what_to_write_in_the_dialplan() {
        let text = WrongRate(0x15).to_string();
        assert!(text.contains("44.1 kHz") && text.contains("c(slin16)"), "{text}");
    }

    #[test]
    fn the_digits_of_a_telephone_are_digits_and_nothing_else_is() {
        for digit in *b"0123456789*#ABCD" {
            assert_eq!(one(&[3, 0, 1, digit]), format!("{:?}", Item::Dtmf(digit)));
        }
        for other in [0, b'a', b'E', b' ', 0xff] {
            let (items, reader) = read(&[3, 0, 1, other], 1);
            assert_eq!((items, reader.unknown()), (vec!["Unknown(3)".to_owned()], 1));
        }
    }

    #[test]
    fn an_unknown_message_is_skipped_whole_and_the_next_one_is_read() {
        let mut bytes = vec![0x42, 0xff, 0xff];
        bytes.resize(3 + 65_535, 0x10);
        bytes.extend_from_slice(b"\x00\x00\x00");
        for piece in [1, 1000, 4096, 65_536] {
            let (items, reader) = read(&bytes, piece);
            assert_eq!((items, reader.unknown()), (vec!["Unknown(66)".to_owned(), "Hangup".to_owned()], 1));
        }
    }

    #[test]
    fn empty_audio_is_tolerated_and_counted() {
        let (items, reader) = read(b"\x10\x00\x00\x12\x00\x00\x10\x00\x02\x05\x00", 1);
        assert_eq!((items, reader.empty()), (vec![whole(0x10, b"\x05\x00")], 2));
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_call() {
        for bytes in [&b"\x00\x00\x01"[..], b"\x01\x00\x0f", b"\x01\x00\x24", b"\x03\x00\x00", b"\x03\x40\x00"] {
            let mut reader = Reader::new();
            reader.feed(bytes);
            let violation = reader.peek().unwrap_err();
            assert_eq!(violation, Violation::Length { kind: bytes[0], len: u16::from_be_bytes([bytes[1], bytes[2]]) });
            assert!(violation.to_string().contains("not AudioSocket"));
            reader.advance();
            assert_eq!(reader.peek(), Err(violation));
        }
    }

    #[test]
    fn the_longest_audio_comes_out_in_pieces_that_cut_no_sample() {
        let sent: Vec<u8> = (0..65_535u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let mut message = vec![0; HEADER + sent.len()];
        assert_eq!(write(0x10, &sent, &mut message).len(), 65_538);
        for piece in [1, 2, 3, 1448, 4095, 4096, 100_000] {
            let mut reader = Reader::new();
            let mut heard = Vec::new();
            let mut lasts = 0;
            let mut feed = message.chunks(piece);
            let mut rest: &[u8] = &[];
            loop {
                if rest.is_empty() {
                    let Some(chunk) = feed.next() else { break };
                    rest = chunk;
                }
                rest = &rest[reader.feed(rest)..];
                while let Some(item) = reader.peek().unwrap() {
                    let Item::Audio { kind: 0x10, bytes, last, message_len: 65_535 } = item else { panic!("{item:?}") };
                    assert!(last || bytes.len() % 2 == 0);
                    assert!(!bytes.is_empty() && lasts == 0);
                    heard.extend_from_slice(bytes);
                    lasts += usize::from(last);
                    reader.advance();
                }
                assert_eq!(reader.is_mid_message(), lasts == 0);
            }
            assert!(heard == sent && lasts == 1, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_message_that_fits_is_never_cut() {
        for len in [2, 320, 4093, 4094, 4096] {
            let mut bytes = vec![0x16, (len >> 8) as u8, len as u8];
            bytes.resize(3 + len, 9);
            let (items, _) = read(&bytes, 7);
            assert_eq!(items, [whole(0x16, &bytes[3..])]);
        }
    }

    #[test]
    fn a_connection_that_ends_inside_a_message_is_told_from_one_that_ends_after_it() {
        for cut in 0..CALL.len() {
            let (_, reader) = read(&CALL[..cut], usize::MAX);
            assert_eq!(reader.is_mid_message(), ![0, 19, 30, 41, 45].contains(&cut), "cut at {cut}");
        }
        let (_, reader) = read(b"\x42\x00\x05xx", 1);
        assert!(reader.is_mid_message());
    }

    #[test]
    fn junk_of_every_kind_is_survived() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..200 {
            let junk: Vec<u8> = (0..2000)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    // mostly small lengths, or the rest of the junk is one payload
                    if seed & 0x300 == 0 { (seed >> 32) as u8 } else { (seed >> 32) as u8 & 0x13 }
                })
                .collect();
            let [(mut ones, cut), (mut twos, whole)] = [1 + (seed >> 40) as usize % 50, 2000].map(|n| read(&junk, n));
            // a long message that the junk cuts short is shown in other pieces
            ones.retain(|item| !item.contains("last: false"));
            twos.retain(|item| !item.contains("last: false"));
            assert_eq!((ones, cut.unknown(), cut.empty()), (twos, whole.unknown(), whole.empty()));
        }
    }

    #[test]
    fn more_is_never_said_to_be_filled_than_there_is_room() {
        let mut reader = Reader::new();
        reader.filled(usize::MAX);
        assert!(reader.spare().is_empty());
        assert_eq!(reader.feed(b"x"), 0);
        assert_eq!(reader.peek(), Ok(Some(Item::Hangup))); // a buffer of zeros
    }

    #[test]
    fn a_frame_is_one_buffer_with_its_header() {
        let mut out = [0xaa; MAX_FRAME];
        assert_eq!(write_audio(0x10, &[1, -1, i16::MIN], &mut out), b"\x10\x00\x06\x01\x00\xff\xff\x00\x80");
        assert_eq!(write_audio(0x16, &[7; 960], &mut out).len(), MAX_FRAME);
        assert_eq!(write_hangup(&mut out), b"\x00\x00\x00");
        assert_eq!(write_dtmf(b'*', &mut out), b"\x03\x00\x01*");
        assert_eq!(write_uuid(&UUID, &mut out), &CALL[..19]);
        assert_eq!(write(0x10, &[0xff; 160], &mut out)[..4], *b"\x10\x00\xa0\xff");
    }

    #[test]
    fn an_empty_frame_or_one_that_does_not_fit_is_not_written() {
        let mut out = [0xaa; 16];
        assert_eq!(write_audio(0x10, &[], &mut out), b"");
        assert_eq!(write_audio(0x10, &[0; 7], &mut out), b"");
        assert_eq!(write_audio(0x10, &[0; 40_000], &mut [0; 100_000]), b"");
        assert_eq!(write(0x10, &[0; 65_536], &mut [0; 100_000]), b"");
        assert_eq!(out, [0xaa; 16]);
    }
}
