//! The first messages of a vendor, up to the moment at which its call begins: which dialect, and which call.
//!
//! They are only looked at, by a dialect that is thrown away afterwards. Every byte is kept, so that the leg hears the
//! call from its first.
//!
//! ```text
//!   spare, filled --> Greeting --dialect--> its own ears --start--> Start { raw, facts, ... }
//! ```

use core::{fmt, mem};

use crate::{
    dialect::{self, Audio, Dialect, Direction, Event, Facts, Options, Role},
    leg::websocket::{
        greeting::{Greeting, Verdict},
        leg::{Over, entropy},
        wire::{In, Kind, NO_STATUS, Op, Side, Violation, Wire},
    },
    media::Rate,
};

/// What a connection may become.
#[derive(Clone, Debug)]
pub struct Expected<'e> {
    /// Which of the two ends of the WebSocket we are.
    pub side: Side,
    /// What is spoken; `None`: its first messages tell.
    pub dialect: Option<&'static str>,
    /// What is spoken where they leave it open.
    pub tie_break: &'static str,
    /// The rate that it has been told to have.
    pub rate: Option<Rate>,
    /// What the dialects are told.
    pub options: &'e Options,
    /// Only its start will do: a vendor that sends audio without one is not taken.
    pub needs_start: bool,
}

/// A connection whose call has not begun.
pub struct Welcome {
    side: Side,
    rate: Option<Rate>,
    options: Options,
    needs_start: bool,
    stage: Stage,
}

enum Stage {
    /// The dialect is not known.
    Greeting(Box<Greeting>),
    /// Its start has not come.
    Hearing(Box<Hearing>),
    /// All that is to be said is said.
    Over(Box<Wire>),
}

struct Hearing {
    wire: Wire,
    dialect: Box<dyn Dialect>,
    raw: Vec<u8>,
    /// Something else than pings came.
    has_data: bool,
    /// A message that comes in pieces.
    gathered: Vec<u8>,
}

/// How far it is.
#[derive(Debug)]
pub enum Step {
    /// More has to be read.
    Wait,
    /// The call can begin.
    Begun(Box<Start>),
    /// It will not. What says so is in [`Welcome::out`].
    Over(End),
}

/// Why no call began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It closed, with this code if it gave one.
    Closed(Option<u16>),
    /// It broke the protocol.
    Violation(Violation),
    /// It broke the grammar of its dialect.
    Grammar(&'static str),
    /// What it says is nothing that we speak, or not in this way.
    Refused(&'static str),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("it closed before its call began"),
            Self::Violation(violation) => write!(f, "{violation}"),
            Self::Grammar(words) | Self::Refused(words) => f.write_str(words),
        }
    }
}

/// A call that can begin.
#[derive(Debug)]
pub struct Start {
    /// All that was read.
    pub raw: Vec<u8>,
    /// Its dialect's name.
    pub dialect: &'static str,
    /// What its start told; nothing, where the dialect has none.
    pub facts: Facts,
    /// The rate of its audio.
    pub rate: Rate,
    /// Which way it flows.
    pub direction: Direction,
}

impl Welcome {
    /// On a connection that was just upgraded.
    #[must_use]
    pub fn new(expected: &Expected<'_>) -> Self {
        let Expected { side, dialect, tie_break, rate, options, needs_start } = *expected;
        let mut welcome =
            Self { side, rate, options: options.clone(), needs_start, stage: Stage::Over(Box::new(silent(side))) };
        welcome.stage = match dialect {
            None => Stage::Greeting(Box::new(Greeting::new(MOST as u64).or_else(tie_break))),
            // The config knows no other dialects than there are.
            Some(name) => welcome.hearing(name).map_or(welcome.stage, Stage::Hearing),
        };
        welcome
    }

    /// Where the vendor's bytes go.
    pub fn spare(&mut self) -> &mut [u8] {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.spare(),
            Stage::Hearing(hearing) => hearing.wire.spare(),
            Stage::Over(wire) => wire.spare(),
        }
    }

    /// So many were read into [`spare`](Self::spare).
    pub fn filled(&mut self, n: usize) {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.filled(n),
            Stage::Hearing(hearing) => {
                let spare = hearing.wire.spare();
                hearing.raw.extend_from_slice(&spare[..n.min(spare.len())]);
                hearing.wire.filled(n);
            }
            Stage::Over(_) => {}
        }
    }

    /// What was said so far. To be asked before the first byte is read, too: not every dialect has a start.
    pub fn handle(&mut self) -> Step {
        if let Stage::Greeting(greeting) = &mut self.stage {
            let name = match greeting.handle() {
                Verdict::Wait => return Step::Wait,
                Verdict::Dialect(name) => name,
                Verdict::Unknown => return Step::Over(End::Refused("no dialect that is known here")),
                Verdict::Over(over) => return Step::Over(over.into()),
            };
            if self.rate.is_some_and(|rate| !dialect::rates(name).contains(&rate)) {
                greeting.close(UNACCEPTABLE, NO_SUCH_RATE);
                return Step::Over(End::Refused(NO_SUCH_RATE));
            }
            let Some(hearing) = self.hearing(name) else { return Step::Wait };
            if let Stage::Greeting(greeting) = mem::replace(&mut self.stage, Stage::Hearing(hearing)) {
                return self.hear_again(greeting.into_raw());
            }
        }
        self.hear()
    }

    /// Bytes to be sent.
    #[must_use]
    pub fn out(&self) -> &[u8] {
        match &self.stage {
            Stage::Greeting(greeting) => greeting.out(),
            Stage::Hearing(hearing) => hearing.wire.out(),
            Stage::Over(wire) => wire.out(),
        }
    }

    /// So many of them were sent.
    pub fn written(&mut self, n: usize) {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.written(n),
            Stage::Hearing(hearing) => hearing.wire.written(n),
            Stage::Over(wire) => wire.written(n),
        }
    }

    /// Asks whether the vendor lives.
    pub fn ping(&mut self, payload: &[u8]) {
        if let Stage::Hearing(hearing) = &mut self.stage
            && hearing.dialect.pings()
        {
            // No room: the vendor does not read, and its silence will tell.
            let _ = hearing.wire.push(Op::Ping, payload);
        }
    }

    /// Says goodbye.
    pub fn close(&mut self, code: u16, reason: &str) {
        match &mut self.stage {
            Stage::Greeting(greeting) => greeting.close(code, reason),
            Stage::Hearing(hearing) => hearing.wire.push_close(code, reason),
            Stage::Over(wire) => wire.push_close(code, reason),
        }
    }

    /// `None`: there is no dialect of that name.
    fn hearing(&self, name: &str) -> Option<Box<Hearing>> {
        let dialect = dialect::open(name, Role::Agent, self.rate, Rate::Hz8000, &self.options)?;
        let wire = Wire::new(self.side, MOST as u64, entropy);
        Some(Box::new(Hearing { wire, dialect, raw: Vec::new(), has_data: false, gathered: Vec::new() }))
    }

    /// What told the dialect is its own first message.
    fn hear_again(&mut self, raw: Vec<u8>) -> Step {
        let mut fed = 0;
        loop {
            let step = self.hear();
            let Stage::Hearing(hearing) = &mut self.stage else { return step };
            let n = hearing.wire.feed(&raw[fed..]);
            fed += n;
            match step {
                Step::Wait if n > 0 => hearing.raw.extend_from_slice(&raw[fed - n..fed]),
                Step::Wait | Step::Over(_) => return step,
                Step::Begun(mut start) => {
                    start.raw = raw;
                    return Step::Begun(start);
                }
            }
        }
    }

    fn hear(&mut self) -> Step {
        let Stage::Hearing(hearing) = &mut self.stage else { return Step::Over(End::Closed(None)) };
        let heard = if dialect::has_start(hearing.dialect.name()) {
            hearing.hear(self.side, self.needs_start)
        } else {
            Some(Ok(()))
        };
        match heard {
            None if hearing.raw.len() > MOST => {
                hearing.wire.push_close(UNACCEPTABLE, TOO_MUCH);
                Step::Over(End::Refused(TOO_MUCH))
            }
            None => Step::Wait,
            Some(Ok(())) => {
                let dialect = &hearing.dialect;
                Step::Begun(Box::new(Start {
                    raw: mem::take(&mut hearing.raw),
                    dialect: dialect.name(),
                    facts: dialect.facts().cloned().unwrap_or_default(),
                    rate: dialect.rate(),
                    direction: dialect.direction(),
                }))
            }
            Some(Err(end)) => {
                let (code, words) = match &end {
                    End::Closed(code) => (code.unwrap_or(NO_STATUS), ""),
                    End::Violation(violation) => (violation.code(), ""),
                    End::Grammar(words) => (BROKEN, *words),
                    End::Refused(words) => (UNACCEPTABLE, *words),
                };
                hearing.wire.push_close(code, words);
                Step::Over(end)
            }
        }
    }
}

impl Hearing {
    /// Whether the call has begun, or why it will not.
    fn hear(&mut self, side: Side, needs_start: bool) -> Option<Result<(), End>> {
        let Self { wire, dialect, raw, has_data, gathered } = self;
        loop {
            let (told, done) = match wire.peek() {
                Err(violation) => return Some(Err(End::Violation(violation))),
                Ok(None) => return None,
                Ok(Some(In::Text(text))) => (judge(&mut **dialect, Kind::Text, text, needs_start), text.len()),
                Ok(Some(In::Binary(bytes))) => (judge(&mut **dialect, Kind::Binary, bytes, needs_start), bytes.len()),
                Ok(Some(In::Piece { kind, bytes, first, last })) => {
                    if first {
                        gathered.clear();
                    }
                    gathered.extend_from_slice(bytes);
                    *has_data = true;
                    (if last { judge(&mut **dialect, kind, gathered, needs_start) } else { None }, bytes.len())
                }
                Ok(Some(In::Ping(payload) | In::Pong(payload))) => {
                    let len = payload.len();
                    // Two bytes of head, four of mask (RFC 6455 5.2).
                    let mask = if side == Side::Server { 4 } else { 0 };
                    // A wait may be long. What came before the first message of all is done with.
                    if !*has_data {
                        raw.drain(..raw.len().min(2 + mask + len));
                    }
                    // The leg answers once more what it reads again; nobody minds (RFC 6455 5.5.3). No room: the vendor
                    // does not read.
                    let _ = wire.pong();
                    wire.advance(len);
                    continue;
                }
                Ok(Some(In::Close { code, .. })) => return Some(Err(End::Closed(code))),
            };
            *has_data = true;
            wire.advance(done);
            if told.is_some() {
                return told;
            }
        }
    }
}

/// What a message tells of the call, as the leg will understand it.
fn judge(dialect: &mut dyn Dialect, kind: Kind, message: &[u8], needs_start: bool) -> Option<Result<(), End>> {
    let binary_is_audio = dialect.binary_is_audio();
    let understood = match kind {
        Kind::Binary if binary_is_audio => dialect.handle_binary(message),
        Kind::Binary | Kind::Text => dialect.handle_text(message),
    };
    // What is malformed is counted when the leg reads it; the start may still come.
    let incoming = understood.ok()?;
    let has_audio = matches!(incoming.audio, Audio::Take { .. });
    match incoming.event {
        Event::Broken(words) => return Some(Err(End::Grammar(words))),
        Event::Stop => return Some(Err(End::Refused("a stop before a start"))),
        _ => {}
    }
    // A vendor whose start was lost has a call all the same. (Where audio is binary it may overtake the start.)
    let begun = dialect.facts().is_some() || has_audio && !binary_is_audio && !needs_start;
    begun.then_some(Ok(()))
}

impl From<Over> for End {
    fn from(over: Over) -> Self {
        match over {
            Over::Closed(code) => Self::Closed(code),
            Over::Violation(violation) => Self::Violation(violation),
            Over::Grammar(words) => Self::Grammar(words),
        }
    }
}

/// What says goodbye on a connection that nothing was said on: a whole close frame.
#[must_use]
pub fn close_frame(side: Side, code: u16, reason: &str) -> Vec<u8> {
    let mut wire = silent(side);
    wire.push_close(code, reason);
    wire.out().to_vec()
}

fn silent(side: Side) -> Wire {
    Wire::new(side, 0, entropy)
}

/// How much is read before we give up; a first message may have as much.
const MOST: usize = 256 * 1024;

/// RFC 6455 7.4.1: data of a kind that cannot be accepted.
const UNACCEPTABLE: u16 = 1003;
/// The same: something that the one who sends this did not expect. What RTAA says to a wrong start.
const BROKEN: u16 = 1011;

const NO_SUCH_RATE: &str = "the sample-rate in the query is none of this dialect's";
const TOO_MUCH: &str = "too much was said without a start";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CONNECTED: &[u8] = br#"{"event":"connected"}"#;
    // Exotel, "Working with the Stream applet".
    const EXOTEL: &[u8] = br#"{"event":"start","sequence_number":"1","stream_sid":"s1","start":{"stream_sid":"s1","call_sid":"c1","account_sid":"a1","from":"+91\u001b[1m","to":"../../etc","custom_parameters":{"lane":"sales"},"media_format":{"encoding":"base64","sample_rate":"16000","bit_rate":"128kbps"}}}"#;
    const OZONETEL: &[u8] =
        br#"{"event":"start","type":"text","ucid":"1767225600","did":"08040001234","call_id":"99"}"#;
    const OZONETEL_MEDIA: &[u8] =
        br#"{"event":"media","type":"media","ucid":"1","data":{"samples":[1,2],"sampleRate":8000}}"#;

    fn expected<'e>(options: &'e Options, dialect: Option<&'static str>) -> Expected<'e> {
        Expected { side: Side::Server, dialect, tie_break: "exotel", rate: None, options, needs_start: false }
    }

    fn frames(side: Side, messages: &[(Op, &[u8])]) -> Vec<u8> {
        let mut vendor = Wire::new(side, 1 << 20, |mask| mask.fill(0x5a));
        let mut bytes = Vec::new();
        for (op, payload) in messages {
            vendor.push(*op, payload).unwrap();
            bytes.extend_from_slice(vendor.out());
            vendor.written(vendor.out().len());
        }
        bytes
    }

    /// How far it is after these bytes, fed so many at a time.
    fn fed(welcome: &mut Welcome, bytes: &[u8], step: usize) -> Step {
        let mut at = 0;
        loop {
            match welcome.handle() {
                Step::Wait if at < bytes.len() => {}
                step => return step,
            }
            let spare = welcome.spare();
            let n = step.min(spare.len()).min(bytes.len() - at);
            spare[..n].copy_from_slice(&bytes[at..at + n]);
            welcome.filled(n);
            at += n;
        }
    }

    fn begun(expected: &Expected<'_>, messages: &[(Op, &[u8])], step: usize) -> (Start, Vec<u8>) {
        let bytes = frames(Side::Client, messages);
        match fed(&mut Welcome::new(expected), &bytes, step) {
            Step::Begun(start) => (*start, bytes),
            step => panic!("{step:?}"),
        }
    }

    /// Why it is over, and the code that the vendor is told.
    fn over(expected: &Expected<'_>, messages: &[(Op, &[u8])]) -> (End, u16) {
        let mut welcome = Welcome::new(expected);
        match fed(&mut welcome, &frames(Side::Client, messages), 8192) {
            Step::Over(end) => {
                let out = welcome.out();
                let close = &out[out.len() - usize::from(out[1]) - 2..];
                assert_eq!(close[0], 0x88);
                (end, u16::from_be_bytes([close[2], close[3]]))
            }
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn the_start_tells_the_call_and_every_byte_is_kept_for_the_leg() {
        let options = Options::default();
        for (dialect, step) in [(None, 1), (None, 8192), (Some("exotel"), 1), (Some("exotel"), 4096)] {
            let messages = [(Op::Text, CONNECTED), (Op::Binary, EXOTEL)];
            let (start, bytes) = begun(&expected(&options, dialect), &messages, step);
            assert_eq!((start.dialect, start.rate, start.direction), ("exotel", Rate::Hz16000, Direction::Both));
            assert_eq!((start.facts.call_sid.as_str(), start.facts.account.as_str()), ("c1", "a1"));
            assert_eq!((start.facts.from.as_str(), start.facts.to.as_str()), ("+91[1m", "../../etc"));
            assert!(start.facts.call_id.is_empty(), "our id is ours alone");
            assert_eq!(start.raw, bytes);
        }
    }

    #[test]
    fn audio_behind_the_start_is_kept_too() {
        let options = Options::default();
        let messages = [(Op::Text, OZONETEL), (Op::Text, OZONETEL_MEDIA), (Op::Text, OZONETEL_MEDIA)];
        let (start, bytes) = begun(&expected(&options, None), &messages, 8192);
        assert_eq!((start.dialect, start.facts.ucid.as_str()), ("ozonetel", "1767225600"));
        assert_eq!(start.raw, bytes);
    }

    #[test]
    fn a_vendor_whose_start_was_lost_has_a_call_unless_its_token_has_to_be_compared() {
        let options = Options::default();
        let mut wanted = expected(&options, Some("ozonetel"));
        let (start, _) = begun(&wanted, &[(Op::Text, OZONETEL_MEDIA)], 8192);
        assert_eq!(start.facts, Facts::default());
        wanted.needs_start = true;
        let bytes = frames(Side::Client, &[(Op::Text, OZONETEL_MEDIA)]);
        assert!(matches!(fed(&mut Welcome::new(&wanted), &bytes, 8192), Step::Wait));
    }

    #[test]
    fn where_there_is_no_start_the_call_begins_at_once() {
        let options = Options::default();
        let mut wanted = expected(&options, Some("binary"));
        wanted.rate = Some(Rate::Hz24000);
        let (start, _) = begun(&wanted, &[], 8192);
        assert_eq!((start.dialect, start.rate, start.raw.len()), ("binary", Rate::Hz24000, 0));
        let (start, bytes) = begun(&expected(&options, None), &[(Op::Binary, &[0; 320])], 100);
        assert_eq!((start.dialect, start.raw), ("binary", bytes));
    }

    #[test]
    fn messages_that_leave_the_dialect_open_are_of_the_one_that_the_credential_tells() {
        let options = Options::default();
        let vague: &[u8] = br#"{"event":"start","start":{"call_sid":"c1"}}"#;
        assert_eq!(begun(&expected(&options, None), &[(Op::Text, vague)], 8192).0.dialect, "exotel");
        let twilio: &[u8] = br#"{"event":"start","start":{"streamSid":"MZ1","mediaFormat":{}}}"#;
        let refused = End::Refused("no dialect that is known here");
        assert_eq!(over(&expected(&options, None), &[(Op::Text, twilio)]), (refused, 1003));
    }

    #[test]
    fn a_start_that_is_too_long_or_of_a_wrong_rate_ends_the_connection_in_words() {
        let options = Options::default();
        let long = [b" ".repeat(MOST).as_slice(), OZONETEL].concat();
        let bytes = {
            // RFC 6455 5.2: 127 and eight bytes of length; a mask of zeros.
            let mut frame = vec![0x81, 0x80 | 127];
            frame.extend((long.len() as u64).to_be_bytes());
            frame.extend([0; 4]);
            frame.extend(&long);
            frame
        };
        for dialect in [None, Some("ozonetel")] {
            let mut welcome = Welcome::new(&expected(&options, dialect));
            let Step::Over(end) = fed(&mut welcome, &bytes, 8192) else { panic!("it began") };
            assert_eq!(end, End::Violation(Violation::TooBig));
            assert_eq!(welcome.out()[2..4], 1009_u16.to_be_bytes());
        }
        let mut wanted = expected(&options, None);
        wanted.rate = Some(Rate::Hz48000);
        assert_eq!(over(&wanted, &[(Op::Text, OZONETEL)]), (End::Refused(NO_SUCH_RATE), 1003));
    }

    #[test]
    fn a_flood_without_a_start_is_given_up() {
        let options = Options::default();
        let unknown: &[u8] = br#"{"event":"connected"}"#;
        let flood: Vec<_> = (0..12_000).map(|_| (Op::Text, unknown)).collect();
        assert_eq!(over(&expected(&options, Some("exotel")), &flood), (End::Refused(TOO_MUCH), 1003));
    }

    #[test]
    fn a_close_before_the_start_is_answered_in_kind() {
        let options = Options::default();
        let mut close = frames(Side::Client, &[(Op::Text, CONNECTED)]);
        close.extend(close_frame(Side::Client, 1000, "bye"));
        let mut welcome = Welcome::new(&expected(&options, Some("exotel")));
        assert!(matches!(fed(&mut welcome, &close, 8192), Step::Over(End::Closed(Some(1000)))));
        assert_eq!(welcome.out(), b"\x88\x02\x03\xe8");
    }

    #[test]
    fn pings_are_answered_in_a_long_wait_and_take_no_memory() {
        let options = Options::default();
        let mut wanted = expected(&options, Some("ozonetel"));
        wanted.side = Side::Client;
        let mut welcome = Welcome::new(&wanted);
        let ping = frames(Side::Server, &[(Op::Ping, b"still here")]);
        for _ in 0..2 * MOST / ping.len() {
            assert!(matches!(fed(&mut welcome, &ping, 5), Step::Wait));
            assert_eq!(welcome.out()[0], 0x8a);
            let n = welcome.out().len();
            welcome.written(n);
        }
        let start = frames(Side::Server, &[(Op::Text, OZONETEL)]);
        let Step::Begun(begun) = fed(&mut welcome, &start, 8192) else { panic!("it did not begin") };
        assert_eq!(begun.raw, start);
    }
}
