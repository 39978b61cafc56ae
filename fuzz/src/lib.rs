//! What the fuzz targets share: how an input is cut up, and what listens to a leg.
//!
//! The first two bytes of an input steer, the rest is what a peer sends. So a seed is a message that somebody really
//! sent behind two characters, and the same message is tried in many ways of arriving.

use trunkline::{
    dialect::{Event, Facts},
    leg::websocket::leg::Sink,
    media::{Now, Rate},
};

pub mod grammar;

/// Chooses, always alike for the same two bytes.
#[derive(Clone, Debug)]
pub struct Steer {
    state: u64,
    /// The longest piece.
    longest: usize,
}

impl Steer {
    /// Takes the two bytes off an input; the lowest bits of the first say how finely the rest is cut.
    #[must_use]
    pub fn split(data: &[u8]) -> Option<(Self, &[u8])> {
        let (&[fine, salt], rest) = data.split_first_chunk()?;
        let longest = [1, 7, 300, 9_000][usize::from(fine & 3)];
        Some((Self { state: 0x9e37_79b9_7f4a_7c15 ^ u64::from(fine) << 8 ^ u64::from(salt), longest }, rest))
    }

    /// A number from 0 to `most`.
    pub fn up_to(&mut self, most: usize) -> usize {
        // xorshift64; the low bits are its weakest.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 20) as usize % (most + 1)
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.up_to(choices.len() - 1)]
    }

    /// Takes the next piece off `rest`; empty only when that is.
    pub fn piece<'d>(&mut self, rest: &mut &'d [u8]) -> &'d [u8] {
        let n = rest.len().min(1 + self.up_to(self.longest - 1));
        let (piece, after) = rest.split_at(n);
        *rest = after;
        piece
    }
}

/// What was said beside audio, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// An event that says no more than its name.
    Plain(&'static str),
    /// A mark is asked for, or was heard.
    Mark(String),
    /// A digit.
    Dtmf(u8),
}

impl Said {
    /// Keeps an event; checks what every dialect promises of one.
    #[must_use]
    pub fn of(event: Event<'_>) -> Self {
        match event {
            Event::None => Self::Plain("none"),
            Event::Unknown => Self::Plain("unknown"),
            Event::Start => Self::Plain("start"),
            Event::Clear => Self::Plain("clear"),
            Event::HangUp => Self::Plain("hang up"),
            Event::Stop => Self::Plain("stop"),
            Event::Transcript { .. } => Self::Plain("transcript"),
            Event::Fault(_) => Self::Plain("fault"),
            Event::Broken(_) => Self::Plain("broken"),
            Event::Expiring => Self::Plain("expiring"),
            Event::Held(_) => Self::Plain("held"),
            Event::Transfer(_) => Self::Plain("transfer"),
            Event::Wish(asked) => {
                assert!(asked.wish().is_some(), "{asked:?}");
                Self::Plain("wish")
            }
            Event::Mark(name) | Event::Heard(name) => {
                assert!(!name.is_empty() && name.len() <= trunkline::dialect::MAX_MARK, "{name:?}");
                Self::Mark(name.to_owned())
            }
            Event::Dtmf(digit) => {
                assert!(matches!(digit, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D'), "{digit}");
                Self::Dtmf(digit)
            }
        }
    }
}

/// Listens to a leg, with as much room as it is given, and holds the leg to its promises.
#[derive(Debug)]
pub struct Ears {
    rate: Rate,
    /// Samples that may still be staged.
    pub room: usize,
    /// Staged since the room was asked for.
    promised: core::cell::Cell<usize>,
    staged: Vec<i16>,
    /// Published.
    pub heard: Vec<i16>,
    /// Beside audio.
    pub said: Vec<Said>,
}

impl Ears {
    /// Ears at this rate that have heard nothing.
    #[must_use]
    pub fn new(rate: Rate, room: usize) -> Self {
        Self { rate, room, promised: 0.into(), staged: vec![], heard: vec![], said: vec![] }
    }

    /// Samples that wait to be published.
    #[must_use]
    pub fn staged(&self) -> usize {
        self.staged.len()
    }
}

impl Sink for Ears {
    fn rate(&self) -> Rate {
        self.rate
    }

    fn room(&self) -> usize {
        self.promised.set(self.room);
        self.room
    }

    fn stage(&mut self, samples: &[i16]) {
        assert!(samples.len() <= self.promised.get(), "{} samples more than there is room for", samples.len());
        self.promised.set(self.promised.get() - samples.len());
        self.room -= samples.len();
        self.staged.extend(samples);
    }

    fn publish(&mut self, _: Now) {
        self.heard.append(&mut self.staged);
    }

    fn rollback(&mut self) {
        self.room += self.staged.len();
        self.staged.clear();
    }

    fn event(&mut self, _: Now, event: Event<'_>) {
        assert!(event != Event::None, "nothing was said");
        assert!(self.staged.is_empty(), "an event comes after the audio of its message");
        self.said.push(Said::of(event));
    }
}

/// The facts of a call that was placed by us.
#[must_use]
pub fn facts() -> Facts {
    let text = |text: &str| text.try_into().unwrap_or_default();
    Facts {
        call_id: text("abcdefgh2345"),
        ucid: text("17672256001231234"),
        stream_sid: text("abcdefgh2345"),
        call_sid: text("0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80"),
        account: text("harbour \"9\"\\\u{7}"),
        from: text("+15550100011"),
        to: text("+15550100022"),
        did: text(""),
        custom: Default::default(),
    }
}

/// Appends one frame (RFC 6455 5.2).
pub fn frame(opcode: u8, last: bool, masked: bool, payload: &[u8], out: &mut Vec<u8>) {
    out.push(u8::from(last) << 7 | opcode);
    let mask = u8::from(masked) << 7;
    match payload.len() {
        len @ ..=125 => out.push(mask | len as u8),
        len @ ..=65_535 => {
            out.push(mask | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(mask | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    let key: &[u8] = if masked { &[0x37, 0xfa, 0x21, 0x3d] } else { &[0] };
    out.extend(key.iter().filter(|_| masked));
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}
