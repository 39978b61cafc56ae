//! Which dialect a vendor speaks, told from its first messages.
//!
//! Whatever it takes to know is kept as it came off the wire, so that the leg hears the call from its first byte.

use crate::{
    dialect::{
        self,
        detect::{Detected, detect},
    },
    leg::websocket::{
        leg::Over,
        wire::{In, Kind, NO_STATUS, Side, Wire},
    },
};

/// A connection whose dialect is not known yet.
///
/// Its pings are not answered here but by the leg, which reads them again.
pub struct Greeting {
    wire: Wire,
    /// Everything that was read.
    raw: Vec<u8>,
    /// A message that comes in pieces.
    gathered: Vec<u8>,
    tie_break: Option<&'static str>,
}

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that tells one from another.
    Wait,
    /// The dialect of this name.
    Dialect(&'static str),
    /// None of ours. The close frame that says so is in [`Greeting::out`].
    Unknown,
    /// The vendor closed or broke the protocol.
    Over(Over),
}

impl Greeting {
    /// On a connection that was just upgraded. `max_message` is the most that one message may have (bytes).
    #[must_use]
    pub fn new(max_message: u64) -> Self {
        // A server masks nothing, so nothing is drawn.
        Self {
            wire: Wire::new(Side::Server, max_message, |_| {}),
            raw: Vec::new(),
            gathered: Vec::new(),
            tie_break: None,
        }
    }

    /// Takes this dialect where messages that are of some dialect do not tell which.
    #[must_use]
    pub fn or_else(mut self, dialect: &'static str) -> Self {
        self.tie_break = dialect::NAMES.contains(&dialect).then_some(dialect);
        self
    }

    /// Where the vendor's bytes go.
    pub fn spare(&mut self) -> &mut [u8] {
        self.wire.spare()
    }

    /// So many were read into [`spare`](Self::spare).
    pub fn filled(&mut self, n: usize) {
        let spare = self.wire.spare();
        self.raw.extend_from_slice(&spare[..n.min(spare.len())]);
        self.wire.filled(n);
    }

    /// What was said so far.
    pub fn handle(&mut self) -> Verdict {
        let tie_break = self.tie_break;
        let judge = |kind, message: &[u8]| match judge(kind, message) {
            Verdict::Unknown if leaves_open(message) => tie_break.map_or(Verdict::Unknown, Verdict::Dialect),
            verdict => verdict,
        };
        loop {
            let (verdict, done) = match self.wire.peek() {
                Err(violation) => {
                    self.wire.push_close(violation.code(), "");
                    return Verdict::Over(Over::Violation(violation));
                }
                Ok(None) if self.raw.len() > MOST => return self.refuse(),
                Ok(None) => return Verdict::Wait,
                Ok(Some(In::Text(text))) => (judge(Kind::Text, text), text.len()),
                Ok(Some(In::Binary(bytes))) => (judge(Kind::Binary, bytes), bytes.len()),
                Ok(Some(In::Piece { kind, bytes, first, last })) => {
                    if first {
                        self.gathered.clear();
                    }
                    self.gathered.extend_from_slice(bytes);
                    let told = last || (kind == Kind::Binary && !may_be_json(&self.gathered));
                    (if told { judge(kind, &self.gathered) } else { Verdict::Wait }, bytes.len())
                }
                Ok(Some(In::Ping(payload) | In::Pong(payload))) => (Verdict::Wait, payload.len()),
                Ok(Some(In::Close { code, .. })) => {
                    self.wire.push_close(code.unwrap_or(NO_STATUS), "");
                    return Verdict::Over(Over::Closed(code));
                }
            };
            match verdict {
                Verdict::Wait => self.wire.advance(done),
                Verdict::Unknown => return self.refuse(),
                Verdict::Dialect(_) | Verdict::Over(_) => return verdict,
            }
        }
    }

    /// Bytes to be sent.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        self.wire.out()
    }

    /// So many of them were sent.
    pub fn written(&mut self, n: usize) {
        self.wire.written(n);
    }

    /// Says goodbye.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.wire.push_close(code, reason);
    }

    /// Everything that was read, to be read again.
    #[must_use]
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    fn refuse(&mut self) -> Verdict {
        self.wire.push_close(UNACCEPTABLE, "no dialect that is known here");
        Verdict::Unknown
    }
}

fn judge(kind: Kind, message: &[u8]) -> Verdict {
    match (detect(message), kind) {
        _ if message.is_empty() => Verdict::Wait,
        // Some vendors send their JSON as binary.
        (_, Kind::Binary) if !may_be_json(message) => Verdict::Dialect("binary"),
        (Detected::Dialect(name), _) if dialect::NAMES.contains(&name) => Verdict::Dialect(name),
        (Detected::Dialect(_), _) => Verdict::Unknown, // known by name only
        (Detected::Wait, _) => Verdict::Wait,
        // The first sample may look like a brace.
        (Detected::Unknown, Kind::Binary) if core::str::from_utf8(message).is_err() => Verdict::Dialect("binary"),
        (Detected::Unknown, _) => Verdict::Unknown,
    }
}

/// Whether a message may be of a dialect that we have: it names an event of a call, and no id of another grammar.
fn leaves_open(message: &[u8]) -> bool {
    let has = |word: &str| memchr::memmem::find(message, word.as_bytes()).is_some();
    may_be_json(message) && CALL_EVENTS.iter().any(|word| has(word)) && !FOREIGN.iter().any(|word| has(word))
}

fn may_be_json(message: &[u8]) -> bool {
    message.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|&byte| byte == b'{')
}

/// How much is read before we give up. Greetings are short; the longest first message seen is one of 100 kB.
const MOST: usize = 256 * 1024;

const CALL_EVENTS: &[&str] = &["\"start\"", "\"media\""];
/// What only other grammars have. PCM that is played as mu-law, or the other way round, is loud noise.
const FOREIGN: &[&str] =
    &["streamSid", "streamId", "stream_id", "call_control_id", "interaction_id", "mediaFormat", "websocket:", "ucid"];

/// RFC 6455 7.4.1: data of a kind that cannot be accepted.
const UNACCEPTABLE: u16 = 1003;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leg::websocket::wire::Op;

    /// What is known after these messages, fed this many bytes at a time.
    fn verdict(messages: &[(Op, &[u8])], step: usize) -> (Verdict, Greeting, Vec<u8>) {
        let mut vendor = Wire::new(Side::Client, 1 << 20, |mask| mask.fill(0x5a));
        let mut bytes = Vec::new();
        for (op, payload) in messages {
            vendor.push(*op, payload).unwrap();
            bytes.extend_from_slice(vendor.out());
            vendor.written(vendor.out().len());
        }
        let mut greeting = Greeting::new(1 << 20);
        for piece in bytes.chunks(step) {
            greeting.spare()[..piece.len()].copy_from_slice(piece);
            greeting.filled(piece.len());
            let verdict = greeting.handle();
            if verdict != Verdict::Wait {
                return (verdict, greeting, bytes);
            }
        }
        (Verdict::Wait, greeting, bytes)
    }

    const OZONETEL: &[u8] =
        br#"{"event":"start","type":"text","ucid":"1767225600","did":"08040001234","call_id":"99"}"#;
    const EXOTEL: &[u8] = br#"{"event":"start","sequence_number":"1","stream_sid":"s1","start":{"stream_sid":"s1","call_sid":"c1","account_sid":"a1","media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}}"#;
    const CONNECTED: &[u8] = br#"{"event":"connected"}"#;
    const TWILIO: &[u8] = br#"{"event":"start","start":{"streamSid":"MZ1","accountSid":"AC1","callSid":"CA1","mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}}}"#;
    const NOBODYS: &[u8] = br#"{"event":"start","start":{"session":"1"}}"#;

    #[test]
    fn the_first_telling_message_decides_however_it_is_cut() {
        for step in [1, 7, 8192] {
            let told = |messages: &[(Op, &[u8])]| verdict(messages, step).0;
            assert_eq!(told(&[(Op::Text, OZONETEL)]), Verdict::Dialect("ozonetel"));
            assert_eq!(told(&[(Op::Text, CONNECTED), (Op::Text, EXOTEL)]), Verdict::Dialect("exotel"));
            assert_eq!(told(&[(Op::Ping, b"hi"), (Op::Binary, CONNECTED), (Op::Binary, EXOTEL)]), {
                Verdict::Dialect("exotel")
            });
            assert_eq!(told(&[(Op::Binary, &[0; 320])]), Verdict::Dialect("binary"));
            assert_eq!(told(&[(Op::Text, CONNECTED)]), Verdict::Wait);
            assert_eq!(told(&[(Op::Binary, b"")]), Verdict::Wait);
            assert_eq!(told(&[(Op::Text, CONNECTED), (Op::Text, TWILIO)]), Verdict::Dialect("twilio"));
            assert_eq!(told(&[(Op::Text, NOBODYS)]), Verdict::Unknown);
            assert_eq!(told(&[(Op::Text, b"hello")]), Verdict::Unknown);
        }
    }

    #[test]
    fn samples_that_look_like_a_brace_are_samples() {
        let mut pcm = vec![0xff; 320];
        pcm[0] = b'{';
        assert_eq!(verdict(&[(Op::Binary, &pcm)], 8192).0, Verdict::Dialect("binary"));
    }

    #[test]
    fn a_dialect_that_is_not_ours_is_told_so() {
        let (_, greeting, _) = verdict(&[(Op::Text, NOBODYS)], 8192);
        assert_eq!(&greeting.out()[..4], b"\x88\x1f\x03\xeb");
    }

    #[test]
    fn the_leg_gets_every_byte_as_it_came() {
        let (_, greeting, bytes) = verdict(&[(Op::Ping, b"hi"), (Op::Text, CONNECTED), (Op::Text, OZONETEL)], 11);
        assert_eq!(greeting.into_raw(), bytes);
    }

    #[test]
    fn a_first_message_in_a_hundred_fragments_is_understood() {
        let mut vendor = Vec::new();
        for (i, piece) in EXOTEL.chunks(3).enumerate() {
            let last = (i + 1) * 3 >= EXOTEL.len();
            vendor.extend([u8::from(i == 0) | if last { 0x80 } else { 0 }, 0x80 | piece.len() as u8, 0, 0, 0, 0]);
            vendor.extend_from_slice(piece);
        }
        let mut greeting = Greeting::new(1 << 20);
        greeting.spare()[..vendor.len()].copy_from_slice(&vendor);
        greeting.filled(vendor.len());
        assert_eq!(greeting.handle(), Verdict::Dialect("exotel"));
    }

    #[test]
    fn a_vendor_that_never_says_what_it_speaks_is_given_up() {
        let mut vendor = Wire::new(Side::Client, 1 << 20, |mask| mask.fill(1));
        let mut greeting = Greeting::new(1 << 20);
        let mut sent = 0;
        let verdict = loop {
            vendor.push(Op::Text, CONNECTED).unwrap();
            let n = vendor.out().len();
            greeting.spare()[..n].copy_from_slice(vendor.out());
            greeting.filled(n);
            vendor.written(n);
            sent += n;
            match greeting.handle() {
                Verdict::Wait => {}
                verdict => break verdict,
            }
        };
        assert_eq!(verdict, Verdict::Unknown);
        assert!(sent <= MOST + 100, "{sent} bytes");
    }
}
