//! What may be said on a Unix socket before the audio: who calls, and what became of that.
//!
//! ```text
//!   client: TRUNKLINE/1 {"from":"+49301234","to":"700","custom":{"desk":"7"}}\n   then audio
//!   daemon: TRUNKLINE/1 {"call_id":"k3vqhm2xw7ab","sample_rate":8000,"direction":"both"}\n   then audio
//!       or: TRUNKLINE/1 {"refused":"all seats are taken; see max-calls"}\n   and the end
//! ```
//!
//! Whoever has nothing to say begins with audio, and is told nothing but audio. As samples the twelve letters would be
//! six in a row that no microphone gives: it takes 2^96 tries to meet them.

use core::{fmt, str};

use serde::{Deserialize, Serialize};

use crate::dialect::Direction;

/// The first bytes of a connection, as far as they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'b> {
    /// It is not certain yet what they are.
    Unknown,
    /// Audio.
    Audio,
    /// A line with this JSON; it has so many bytes.
    Said(&'b [u8], usize),
    /// A line that does not end.
    Endless,
}

impl<'b> Opening<'b> {
    /// What these bytes are.
    #[must_use]
    pub fn of(bytes: &'b [u8]) -> Self {
        let known = bytes.len().min(WORD.len());
        if bytes[..known] != WORD[..known] {
            return Self::Audio;
        }
        match bytes.iter().take(MAX_LINE).position(|&byte| byte == b'\n') {
            Some(end) => Self::Said(&bytes[WORD.len()..end], end + 1),
            None if bytes.len() >= MAX_LINE => Self::Endless,
            None => Self::Unknown,
        }
    }
}

/// What the daemon answers to a line, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The call has begun.
    Taken {
        /// As the daemon names it everywhere.
        call_id: String,
        /// Of the audio, both ways (Hz).
        sample_rate: u32,
        /// `"uplink"`: no audio comes back.
        direction: Direction,
    },
    /// There is no call.
    Refused {
        /// Why.
        refused: String,
    },
}

impl Answer {
    /// The answer that this line is; without its line break.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let json =
            line.strip_prefix(str::from_utf8(WORD).unwrap_or_default()).ok_or("it does not begin as one does")?;
        serde_json::from_str(json).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(self))
    }
}

/// A line with this in it.
#[must_use]
pub fn line(said: &impl Serialize) -> String {
    let json = serde_json::to_string(said).unwrap_or_default();
    format!("{}{json}\n", str::from_utf8(WORD).unwrap_or_default())
}

/// What such a line begins with.
const WORD: &[u8] = b"TRUNKLINE/1 ";

/// The longest line (bytes): three numbers and what is custom, each character of it escaped.
pub const MAX_LINE: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_begins_with_a_line_or_with_audio() {
        assert_eq!(Opening::of(b""), Opening::Unknown);
        assert_eq!(Opening::of(b"T"), Opening::Unknown);
        assert_eq!(Opening::of(b"TRUNKLINE/1"), Opening::Unknown);
        assert_eq!(Opening::of(b"TRUNKLINE/1 {"), Opening::Unknown);
        assert_eq!(Opening::of(b"TRUNKLINE/1 {}\n\x01\x02"), Opening::Said(b"{}", 15));
        assert_eq!(Opening::of(b"TRUNKLINE/2 {}\n"), Opening::Audio);
        assert_eq!(Opening::of(&[0; 320]), Opening::Audio);
        // Half a word and then audio, which does not go on with it.
        assert_eq!(Opening::of(b"TRUN\x00\x00"), Opening::Audio);
    }

    #[test]
    fn a_line_without_an_end_is_not_waited_for() {
        let mut bytes = b"TRUNKLINE/1 ".to_vec();
        bytes.resize(MAX_LINE - 1, b'x');
        assert_eq!(Opening::of(&bytes), Opening::Unknown);
        bytes.push(b'x');
        assert_eq!(Opening::of(&bytes), Opening::Endless);
        bytes.push(b'\n');
        assert_eq!(Opening::of(&bytes), Opening::Endless);
    }

    #[test]
    fn an_answer_comes_back_as_it_was_given() {
        let taken =
            Answer::Taken { call_id: "k3vqhm2xw7ab".to_owned(), sample_rate: 8000, direction: Direction::Uplink };
        let said = taken.to_string();
        assert_eq!(said, "TRUNKLINE/1 {\"call_id\":\"k3vqhm2xw7ab\",\"sample_rate\":8000,\"direction\":\"uplink\"}\n");
        assert_eq!(Answer::parse(said.trim_end()), Ok(taken));
        let refused = Answer::Refused { refused: "all seats are taken".to_owned() };
        assert_eq!(Answer::parse(refused.to_string().trim_end()), Ok(refused));
        assert!(Answer::parse("HTTP/1.1 200 OK").is_err());
        assert!(Answer::parse("TRUNKLINE/1 {}").is_err());
    }
}
