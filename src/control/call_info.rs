//! What is told of a call before its audio comes: who calls, whom, and what the operator's own systems know.
//!
//! AudioSocket says nothing but a UUID. The dialplan can say the rest by `POST /calls/UUID` just before, and when the
//! line then names that UUID, the call has it. What no line asks for is forgotten.

use core::fmt;
use std::collections::VecDeque;

use serde::{Deserialize, Deserializer, de};

use crate::{
    control::desk::TellError,
    dialect::{Parameters, Text},
    leg::audiosocket::Uuid,
    media::Now,
};

/// What was told of a call. Printed, it keeps the numbers to itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CallInfo {
    /// The caller's number; empty: not told.
    pub from: Text,
    /// The number called.
    pub to: Text,
    /// The number dialled in.
    pub did: Text,
    /// What else the agent should know.
    pub custom: Parameters,
}

impl CallInfo {
    /// Reads it from JSON: an object with some of `from`, `to`, `did` (texts) and `custom` (names with texts).
    ///
    /// # Errors
    /// Names what is wrong, and what would do.
    pub fn parse(json: &[u8]) -> Result<Self, CallInfoError> {
        // serde would take an array for a struct as well.
        if json.trim_ascii_start().starts_with(b"[") {
            return Err(CallInfoError::Json("an array is no object".to_owned()));
        }
        let body: Body = serde_json::from_slice(json).map_err(|error| CallInfoError::Json(error.to_string()))?;
        let mut custom = Parameters::default();
        let Pairs(pairs) = body.custom.unwrap_or_default();
        if pairs.len() > Parameters::MAX {
            return Err(CallInfoError::Names(pairs.len()));
        }
        let bytes = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > Parameters::MAX_BYTES {
            return Err(CallInfoError::Bytes(bytes));
        }
        for (name, value) in pairs {
            if !custom.add(&name, &value) {
                return Err(CallInfoError::Twice(name));
            }
        }
        Ok(Self { from: number("from", body.from)?, to: number("to", body.to)?, did: number("did", body.did)?, custom })
    }
}

impl fmt::Debug for CallInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallInfo").field("custom", &self.custom).finish_non_exhaustive()
    }
}

/// Why a text is no [`CallInfo`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallInfoError {
    /// It is not JSON, or not of this shape.
    Json(String),
    /// This member is too long.
    Long(&'static str),
    /// This member has a control character.
    Control(&'static str),
    /// So many custom names are too many.
    Names(usize),
    /// So many bytes of custom names and values are too many.
    Bytes(usize),
    /// This custom name stands there twice.
    Twice(String),
}

impl fmt::Display for CallInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(words) => {
                write!(
                    f,
                    "{words}; wanted {{\"from\":\"...\",\"to\":\"...\",\"did\":\"...\",\"custom\":{{\"NAME\":\"VALUE\"}}}}"
                )
            }
            Self::Long(member) => write!(f, "`{member}` is too long; at most {} bytes", Text::new().capacity()),
            Self::Control(member) => write!(f, "`{member}` has a control character in it"),
            Self::Names(names) => write!(f, "`custom` has {names} names; at most {}", Parameters::MAX),
            Self::Bytes(bytes) => {
                let most = Parameters::MAX_BYTES;
                write!(f, "`custom` has {bytes} bytes of names and values together; at most {most}")
            }
            Self::Twice(name) => write!(f, "`custom` has the name `{name}` twice"),
        }
    }
}

impl core::error::Error for CallInfoError {}

/// What was told of calls that have not come yet. Pure: takes `now`.
#[derive(Debug, Default)]
pub struct Announcements {
    /// The oldest first. A thousand are soon looked through, and boxed they are soon moved.
    waiting: VecDeque<(Now, Uuid, Box<CallInfo>)>,
}

impl Announcements {
    /// How many may wait.
    pub const MAX: usize = 1024;
    /// How long they wait.
    pub const LIFETIME: Now = Now::from_secs(30);

    /// Keeps what was told of a call. A second telling replaces the first.
    ///
    /// # Errors
    /// [`TellError::Full`] when too many wait.
    pub fn put(&mut self, uuid: Uuid, info: CallInfo, now: Now) -> Result<(), TellError> {
        self.forget(now);
        self.waiting.retain(|(_, told, _)| *told != uuid);
        if self.waiting.len() >= Self::MAX {
            return Err(TellError::Full);
        }
        self.waiting.push_back((now, uuid, Box::new(info)));
        Ok(())
    }

    /// What was told of the call that came just now. It is given once.
    pub fn take(&mut self, uuid: Uuid, now: Now) -> Option<CallInfo> {
        self.forget(now);
        let index = self.waiting.iter().position(|(_, told, _)| *told == uuid)?;
        self.waiting.remove(index).map(|(_, _, info)| *info)
    }

    fn forget(&mut self, now: Now) {
        while self.waiting.front().is_some_and(|(told, _, _)| now.saturating_sub(*told) >= Self::LIFETIME) {
            self.waiting.pop_front();
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Body {
    from: Option<String>,
    to: Option<String>,
    did: Option<String>,
    custom: Option<Pairs>,
}

/// Names and values in their order, those that stand there twice too.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names with texts")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

fn number(member: &'static str, told: Option<String>) -> Result<Text, CallInfoError> {
    let told = told.unwrap_or_default();
    if told.contains(char::is_control) {
        return Err(CallInfoError::Control(member));
    }
    Text::try_from(told.as_str()).map_err(|_| CallInfoError::Long(member))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uuid(n: u16) -> Uuid {
        let mut uuid = [0; 16];
        uuid[..2].copy_from_slice(&n.to_be_bytes());
        Uuid(uuid)
    }

    fn from(number: &str) -> CallInfo {
        CallInfo { from: number.try_into().unwrap(), ..CallInfo::default() }
    }

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    #[test]
    fn everything_that_can_be_told_is_read() {
        let info = CallInfo::parse(
            br#"{"from":"+49301234","to":"700","did":"+4930999","custom":{"lane":"sales","desk":"\u00fc"}}"#,
        )
        .unwrap();
        assert_eq!((info.from.as_str(), info.to.as_str(), info.did.as_str()), ("+49301234", "700", "+4930999"));
        assert!(info.custom.iter().eq([("lane", "sales"), ("desk", "\u{fc}")]));
        assert_eq!(CallInfo::parse(b"{}").unwrap(), CallInfo::default());
        assert_eq!(CallInfo::parse(br#"{"from":null}"#).unwrap(), CallInfo::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_do() {
        let long = "9".repeat(129);
        for (json, words) in [
            (r#"{"caller":"1"}"#.to_owned(), "unknown field `caller`, expected one of `from`, `to`, `did`, `custom`"),
            (r#"{"from":"1","from":"2"}"#.to_owned(), "duplicate field `from`"),
            (r#"{"from":1}"#.to_owned(), "invalid type: integer `1`, expected a string"),
            (r#" ["1"]"#.to_owned(), "an array is no object; wanted {\"from\":"),
            ("7".to_owned(), "invalid type: integer `7`, expected an object"),
            (r#"{"custom":[]}"#.to_owned(), "invalid type: sequence, expected an object of names with texts"),
            (r#"{"custom":{"a":1}}"#.to_owned(), "invalid type: integer `1`, expected a string"),
            (r#"{"from":"1"} x"#.to_owned(), "trailing characters"),
            (String::new(), "EOF while parsing"),
            (format!(r#"{{"did":"{long}"}}"#), "`did` is too long; at most 128 bytes"),
            (r#"{"to":"7\n"}"#.to_owned(), "`to` has a control character"),
            (r#"{"custom":{"a":"","b":"","c":"","d":""}}"#.to_owned(), "`custom` has 4 names; at most 3"),
            (
                format!(r#"{{"custom":{{"a":"{long}{long}"}}}}"#),
                "`custom` has 259 bytes of names and values together; at most 256",
            ),
            (r#"{"custom":{"a":"1","a":"2"}}"#.to_owned(), "`custom` has the name `a` twice"),
        ] {
            let said = CallInfo::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(said.starts_with(words), "{json}: {said}");
        }
    }

    #[test]
    fn numbers_are_not_printed() {
        let info = CallInfo::parse(br#"{"from":"+49301234","custom":{"token":"hush"}}"#).unwrap();
        assert_eq!(format!("{info:?}"), "CallInfo { custom: 1 of them, .. }");
    }

    #[test]
    fn a_call_takes_what_was_told_of_it_once() {
        let mut told = Announcements::default();
        told.put(uuid(1), from("1"), at(0)).unwrap();
        told.put(uuid(2), from("2"), at(0)).unwrap();
        assert_eq!(told.take(uuid(2), at(10)), Some(from("2")));
        assert_eq!(told.take(uuid(2), at(10)), None);
        assert_eq!(told.take(uuid(1), at(10)), Some(from("1")));
    }

    #[test]
    fn the_last_telling_counts_and_lives_anew() {
        let mut told = Announcements::default();
        told.put(uuid(1), from("old"), at(0)).unwrap();
        told.put(uuid(1), from("new"), at(20_000)).unwrap();
        assert_eq!(told.take(uuid(1), at(49_999)), Some(from("new")));
    }

    #[test]
    fn what_no_call_asked_for_is_forgotten_after_half_a_minute() {
        let mut told = Announcements::default();
        told.put(uuid(1), from("1"), at(0)).unwrap();
        told.put(uuid(2), from("2"), at(1)).unwrap();
        assert_eq!(told.take(uuid(1), at(30_000)), None);
        assert_eq!(told.take(uuid(2), at(30_000)), Some(from("2")));
    }

    #[test]
    fn when_it_is_full_the_new_is_refused_until_the_oldest_has_expired() {
        let mut told = Announcements::default();
        for n in 0..Announcements::MAX as u16 {
            told.put(uuid(n), CallInfo::default(), at(n.into())).unwrap();
        }
        assert_eq!(told.put(uuid(9999), from("1"), at(29_999)), Err(TellError::Full));
        assert_eq!(told.put(uuid(7), from("7"), at(29_999)), Ok(()), "a replacement takes no more room");
        assert_eq!(told.put(uuid(9999), from("1"), at(30_000)), Ok(()));
        assert_eq!(told.take(uuid(9999), at(30_000)), Some(from("1")));
        assert_eq!(told.take(uuid(1), at(30_000)), Some(CallInfo::default()), "nobody else lost anything");
    }
}
