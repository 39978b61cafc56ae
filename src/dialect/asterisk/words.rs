//! The texts of both sides, in either spelling: a verb, and what belongs to it.

use core::str;

use crate::dialect::{
    Full, Malformed, Message,
    asterisk::{Control, MAX_COMMAND},
    json::{Members, Value},
    mark::Name,
};

/// An event or a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'m> {
    /// A string; no verb: not one.
    verb: Value<'m>,
    rest: Rest<'m>,
}

/// What belongs to the verb.
#[derive(Clone, Copy, Debug)]
enum Rest<'m> {
    /// What follows it, the blank included.
    Plain(&'m str),
    /// The whole object.
    Json(&'m [u8]),
}

impl<'m> Words<'m> {
    /// Reads one. `key` is the name of the verb in JSON.
    ///
    /// # Errors
    /// [`Malformed`] when it has to be JSON and is not.
    pub(super) fn read(text: &'m [u8], control: Control, key: &[u8]) -> Result<Self, Malformed> {
        if control == Control::Json {
            let mut verb = Value::Null;
            let mut members = Members::object(text)?;
            while let Some((name, value)) = members.next()? {
                if name.is(key) {
                    verb = value;
                }
            }
            return Ok(Self { verb, rest: Rest::Json(text) });
        }
        // The WebSocket has seen to it that it is UTF-8.
        let text = str::from_utf8(text).unwrap_or_default().trim_ascii();
        let (verb, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        Ok(Self { verb: Value::Str(verb.as_bytes()), rest: Rest::Plain(rest) })
    }

    pub(super) fn is(&self, verb: &[u8]) -> bool {
        self.verb.is(verb)
    }

    /// What stands at this name. The PBX quotes nothing in plain text: a channel's name and the words of an error may
    /// hold blanks and colons, so a value goes up to the next name that is known.
    pub(super) fn field(&self, name: &str) -> Option<Value<'m>> {
        let rest = match self.rest {
            Rest::Json(text) => return Value::Object(text).member(name.as_bytes()).ok().flatten(),
            Rest::Plain(rest) => rest,
        };
        let places = || names_in(rest).filter(|(_, found)| *found == name).map(|(at, _)| at);
        // What stands behind a channel's name is not to be forged by it, nor what stands before.
        let at = if OUTER.contains(&name) { places().next() } else { places().last() }?;
        let value = rest.get(at + name.len() + 1..)?;
        let end = if name == "error_text" { None } else { names_in(value).next() };
        Some(Value::Str(value.get(..end.map_or(value.len(), |(at, _)| at - 1))?.as_bytes()))
    }

    /// The one thing that belongs to a mark: its id, as it stands.
    pub(super) fn id(&self) -> Option<&'m str> {
        let id = match self.rest {
            Rest::Plain(rest) => rest.get(1..).unwrap_or_default(),
            Rest::Json(_) => match self.field("correlation_id")? {
                Value::Str(id) => str::from_utf8(id).ok()?,
                Value::Num(_) | Value::Object(_) | Value::Array(_) | Value::Bool(_) | Value::Null => return None,
            },
        };
        (!id.is_empty()).then_some(id)
    }
}

/// Where one of the known names begins, behind a blank and before a colon.
fn names_in(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.match_indices(' ').filter_map(|(blank, _)| {
        let rest = text.get(blank + 1..)?;
        let name = NAMES.iter().find(|name| rest.strip_prefix(**name).is_some_and(|rest| rest.starts_with(':')))?;
        Some((blank + 1, *name))
    })
}

/// Writes a command. `false`: the PBX would not read it.
pub(super) fn write_command(
    verb: &str,
    id: Option<&str>,
    control: Control,
    out: &mut Message<'_>,
) -> Result<bool, Full> {
    match (control, id) {
        (Control::Plain, None) => out.raw(verb.as_bytes())?,
        (Control::Plain, Some(id)) => {
            // Blanks at the end are cut off, and a line is one line.
            if id.trim() != id || id.contains(char::is_control) {
                return Ok(false);
            }
            out.raw(verb.as_bytes())?;
            out.raw(b" ")?;
            out.raw(id.as_bytes())?;
        }
        (Control::Json, id) => {
            out.raw(b"{\"command\":\"")?;
            out.raw(verb.as_bytes())?;
            out.raw(b"\"")?;
            if let Some(id) = id {
                out.raw(b",\"correlation_id\":")?;
                out.json(&Name(id))?;
            }
            out.raw(b"}")?;
        }
    }
    if out.len() > MAX_COMMAND {
        out.clear();
        return Ok(false);
    }
    Ok(true)
}

/// The names that plain text has.
const NAMES: &[&str] = &[
    "connection_id",
    "channel",
    "channel_id",
    "format",
    "optimal_frame_size",
    "ptime",
    "digit",
    "error_text",
    "queue_length",
    "xon_level",
    "xoff_level",
    "queue_full",
    "bulk_media",
    "media_paused",
];
/// Those that stand before any value which may hold anything, and that value of an error.
const OUTER: &[&str] = &["connection_id", "channel", "digit", "error_text"];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Words<'_> {
        Words::read(text.as_bytes(), Control::Plain, b"event").unwrap()
    }

    #[track_caller]
    fn assert_field(text: &str, name: &str, value: &str) {
        assert_eq!(plain(text).field(name), Some(Value::Str(value.as_bytes())), "{name} of {text}");
    }

    #[test]
    fn values_may_hold_blanks_and_colons() {
        let start = "MEDIA_START connection_id:c1 channel:WebSocket/front desk: hall/0x7f format channel_id:17.5 \
                     format:slin16 optimal_frame_size:640 ptime:20";
        for (name, value) in [
            ("connection_id", "c1"),
            ("channel", "WebSocket/front desk: hall/0x7f format"),
            ("channel_id", "17.5"),
            ("format", "slin16"),
            ("optimal_frame_size", "640"),
            ("ptime", "20"),
        ] {
            assert_field(start, name, value);
        }
        let error = "ERROR channel_id:17.5 error_text:no such thing: format:x channel_id:9 at all";
        assert_field(error, "error_text", "no such thing: format:x channel_id:9 at all");
        assert_eq!(plain(start).field("digit"), None);
        assert_eq!(plain("MEDIA_XOFF").field("channel_id"), None);
    }

    #[test]
    fn a_channels_name_forges_nothing_that_stands_beside_it() {
        let start = "MEDIA_START connection_id:c1 channel:WebSocket/x connection_id:c2 format:ulaw channel_id:9/0x1 \
                     channel_id:17.5 format:slin optimal_frame_size:320 ptime:20";
        assert_field(start, "connection_id", "c1");
        assert_field(start, "channel_id", "17.5");
        assert_field(start, "format", "slin");
    }

    #[test]
    fn an_id_is_all_that_follows() {
        assert_eq!(plain("MEDIA_MARK_PROCESSED a b:c").id(), Some("a b:c"));
        assert_eq!(plain("MEDIA_MARK_PROCESSED").id(), None);
        assert_eq!(plain("MEDIA_MARK_PROCESSED \n").id(), None);
        let json = br#"{"event":"MEDIA_MARK_PROCESSED","channel_id":"1","correlation_id":"a\"b"}"#;
        let words = Words::read(json, Control::Json, b"event").unwrap();
        assert!(words.is(b"MEDIA_MARK_PROCESSED"));
        assert_eq!(words.id(), Some(r#"a\"b"#));
        let empty = br#"{"event":"MEDIA_MARK_PROCESSED","correlation_id":""}"#;
        assert_eq!(Words::read(empty, Control::Json, b"event").unwrap().id(), None);
    }

    #[test]
    fn a_command_that_would_be_ignored_is_not_written() {
        let mut space = [0; 512];
        for control in [Control::Plain, Control::Json] {
            let around = if control == Control::Plain { "MARK_MEDIA " } else { JSON_MARK };
            let longest = "m".repeat(MAX_COMMAND - around.len());
            let mut out = Message::new(&mut space);
            assert_eq!(write_command("MARK_MEDIA", Some(&longest), control, &mut out), Ok(true));
            assert_eq!(out.len(), MAX_COMMAND);
            out.clear();
            assert_eq!(write_command("MARK_MEDIA", Some(&format!("{longest}m")), control, &mut out), Ok(false));
            assert!(out.is_empty());
        }
        for odd in [" m", "m ", "m\nHANGUP", "\u{7f}"] {
            let mut out = Message::new(&mut space);
            assert_eq!(write_command("MARK_MEDIA", Some(odd), Control::Plain, &mut out), Ok(false), "{odd:?}");
        }
    }

    const JSON_MARK: &str = r#"{"command":"MARK_MEDIA","correlation_id":""}"#;
}
