//! The names of marks, as the dialects spell them that have marks.
//!
//! A name is the peer's own text and goes back to it as it came, so it is never unescaped on the way.

use core::str;

use serde::{Serialize, Serializer};
use serde_json_core::str::EscapedStr;

use crate::dialect::{Full, MAX_MARK, Message, json::Value};

/// The name of a mark as a message spells it, at most [`MAX_MARK`] bytes. `None`: there is none.
///
/// A name is kept as it stands between the quotes, escapes included, because it has to outlive the message and to be
/// told back alike. [`write_name`] puts it back as it was.
pub(super) fn name<'m>(value: &Value<'m>) -> Option<&'m str> {
    let bytes = match *value {
        Value::Str(bytes) | Value::Num(bytes) => bytes,
        Value::Object(_) | Value::Array(_) | Value::Bool(_) | Value::Null => return None,
    };
    str::from_utf8(bytes).ok().filter(|name| !name.is_empty()).map(cut_name)
}

/// The name's first [`MAX_MARK`] bytes, less what would be half a character or half an escape. Something always stays.
pub(super) fn cut_name(name: &str) -> &str {
    if name.len() <= MAX_MARK {
        return name;
    }
    let ends = (1..=MAX_MARK).rev().filter_map(|end| name.get(..end));
    ends.clone().find(|cut| is_spelled(cut)).or_else(|| ends.clone().next()).unwrap_or_default()
}

/// Writes a mark's name with its quotes.
pub(super) fn write_name(name: &str, out: &mut Message<'_>) -> Result<(), Full> {
    out.json(&Name(name))
}

/// A mark's name on its way out: as it is where it is spelled for JSON already, else escaped.
pub(super) struct Name<'a>(pub(super) &'a str);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if is_spelled(self.0) { EscapedStr(self.0).serialize(serializer) } else { serializer.serialize_str(self.0) }
    }
}

/// Whether this could stand between the quotes of a JSON string as it is. RFC 8259 section 7.
fn is_spelled(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'\\' => match bytes.next() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => true,
                Some(b'u') => (0..4).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
                Some(_) | None => false,
            },
            b'"' | 0..0x20 => false,
            _ => true,
        };
        if !fits {
            return false;
        }
    }
    true
}
