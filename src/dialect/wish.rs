//! What an agent may ask of the line beside audio, and what it is told beside audio: a transfer, keys to press, hold.
//!
//! No platform has words for these on its socket, but for Plivo's `sendDTMF`. So they are ours, alike in every dialect
//! that is JSON, and spelled where that dialect spells its own: under `event`, as an agent of Ozonetel under `command`,
//! as one of Vonage under `action`, as one of `mod_audio_fork`
//! under `type`. Whichever of these an agent takes is understood.
//!
//! ```text
//!  vendor                                                              agent
//!    | <-----  {"event":"transfer","target":"sip:300@pbx.example.com"}  |
//!    | <-----------------------  {"event":"send_digits","digits":"12#"} |
//!    | {"event":"transfer","state":"trying"}                     -----> |
//!    | {"event":"transfer","state":"failed","status":486}        -----> |
//!    | {"event":"hold","state":"on"}, {"event":"hold","state":"off"} -> |
//! ```
//!
//! Agents look at `event` first and pass over one that they do not know, so what a vendor says here hurts none of them.
//! Source of the one word that is not ours: Plivo, "Audio Streaming Protocol Reference".

use crate::dialect::{
    Event, Full, Malformed, Message, Role, Say,
    json::{Members, Value},
};

/// The longest target of a transfer (bytes).
pub const MAX_TARGET: usize = 128;
/// The most keys of one wish.
pub const MAX_DIGITS: usize = 32;

/// Where a call is passed on to.
pub type Target = heapless::String<MAX_TARGET>;

/// Keys to press: `0-9*#A-D`, and `w` where half a second passes.
pub type Digits = heapless::String<MAX_DIGITS>;

/// What an agent asks of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The caller is to be passed on to this target: a URI or a number.
    Transfer(Target),
    /// These keys are to be pressed.
    Digits(Digits),
}

impl Wish {
    /// A transfer. `None`: this is no target. What may not stand in a URI (RFC 3986 2) is in none, but for the blanks that
    /// people write into numbers; whether it may be called is for the line to know.
    #[must_use]
    pub fn transfer(target: &str) -> Option<Self> {
        let fits = |byte: u8| matches!(byte, b' '..=b'~') && !b"<>\"\\^`{|}".contains(&byte);
        let target = target.trim_matches(' ');
        let is_target = !target.is_empty() && target.bytes().all(fits);
        is_target.then(|| Target::try_from(target).ok()).flatten().map(Self::Transfer)
    }

    /// Keys. `None`: these are none, or one of them is no key.
    #[must_use]
    pub fn digits(keys: &str) -> Option<Self> {
        let mut digits = Digits::new();
        for key in keys.trim().chars() {
            let key = match key {
                'w' | 'W' => 'w',
                '0'..='9' | '*' | '#' | 'A'..='D' => key,
                'a'..='d' => key.to_ascii_uppercase(),
                _ => return None,
            };
            digits.push(key).ok()?;
        }
        (!digits.is_empty()).then_some(Self::Digits(digits))
    }
}

/// How a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The target is being called.
    Trying,
    /// It did not take the caller, who is back.
    Failed {
        /// Why, as a SIP status (RFC 3261 21).
        status: u16,
    },
    /// It took the caller.
    Done,
}

impl Transfer {
    /// As it is spelled everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Failed { .. } => "failed",
            Self::Done => "done",
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Failed { status } => Some(status),
            Self::Trying | Self::Done => None,
        }
    }
}

/// A wish as it stands in a message. [`wish`](Self::wish) is what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'m> {
    kind: Kind,
    value: Value<'m>,
    /// The value is the text of an object that has it.
    packed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Transfer,
    Digits,
}

impl<'m> Asked<'m> {
    /// A function that a model calls, with its arguments: JSON in a string. `None`: it is none of ours.
    pub(super) fn function(name: &Value<'m>, arguments: Value<'m>) -> Option<Self> {
        let kind = if name.is(b"transfer_call") {
            Kind::Transfer
        } else if name.is(b"send_digits") {
            Kind::Digits
        } else {
            return None;
        };
        Some(Self { kind, value: arguments, packed: true })
    }

    /// Whether it is a transfer, of which the agent is told how it goes on.
    pub(super) const fn is_transfer(&self) -> bool {
        matches!(self.kind, Kind::Transfer)
    }

    /// What is asked for. `None`: it makes no sense, or is too long.
    #[must_use]
    pub fn wish(&self) -> Option<Wish> {
        if !self.packed {
            return self.read(&self.value);
        }
        let mut text = heapless::String::<MAX_ARGUMENTS>::new();
        self.value.text(&mut text);
        let key: &[u8] = match self.kind {
            Kind::Transfer => b"target",
            Kind::Digits => b"digits",
        };
        let (mut members, mut found) = (Members::object(text.as_bytes()).ok()?, None);
        while let Some((name, value)) = members.next().ok()? {
            if name.is(key) {
                found = Some(value);
            }
        }
        self.read(&found?)
    }

    fn read(&self, value: &Value<'_>) -> Option<Wish> {
        // Longer than any target, so that one that is too long is not cut to another.
        let mut text = heapless::String::<{ MAX_TARGET + 4 }>::new();
        value.text(&mut text);
        // What lacks a character is another target.
        if value.has_controls() {
            return None;
        }
        match self.kind {
            Kind::Transfer => Wish::transfer(&text),
            Kind::Digits => Wish::digits(&text),
        }
    }
}

/// How a dialect spells its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    /// The member that says which word it is.
    pub(super) key: &'a str,
    /// What the dialect's own words begin with.
    pub(super) prefix: &'a str,
    /// The word for keys to press, and the member that has them.
    pub(super) digits: (&'a str, &'a str),
    /// The member that names the stream, and its name; left out where that is empty.
    pub(super) id: (&'a str, &'a str),
}

impl<'a> Words<'a> {
    /// As most dialects have them, whose messages name the stream like this.
    pub(super) const fn of(key: &'a str, id: &'a str) -> Self {
        Self { key: "event", prefix: "", digits: ("send_digits", "digits"), id: (key, id) }
    }

    fn begin(&self, word: &str, out: &mut Message<'_>) -> Result<(), Full> {
        for piece in ["{\"", self.key, "\":\"", self.prefix, word, "\""] {
            out.raw(piece.as_bytes())?;
        }
        let (key, id) = self.id;
        if !id.is_empty() {
            for piece in [",\"", key, "\":"] {
                out.raw(piece.as_bytes())?;
            }
            out.json_str(id)?;
        }
        Ok(())
    }

    /// Writes what [`read`] reads. `false`: it is not for this side to say.
    ///
    /// # Errors
    /// [`Full`] when the message does not fit.
    pub(super) fn write(&self, role: Role, say: Say<'_>, out: &mut Message<'_>) -> Result<bool, Full> {
        match (role, say) {
            (Role::Agent, Say::Wish(Wish::Transfer(target))) => {
                self.begin("transfer", out)?;
                out.raw(b",\"target\":")?;
                out.json_str(target)?;
            }
            (Role::Agent, Say::Wish(Wish::Digits(digits))) => {
                let (word, key) = self.digits;
                self.begin(word, out)?;
                for piece in [",\"", key, "\":"] {
                    out.raw(piece.as_bytes())?;
                }
                out.json_str(digits)?;
            }
            (Role::Vendor, Say::Held(held)) => {
                self.begin("hold", out)?;
                out.raw(if held { b",\"state\":\"on\"" } else { b",\"state\":\"off\"" })?;
            }
            (Role::Vendor, Say::Transfer(transfer)) => {
                self.begin("transfer", out)?;
                out.raw(b",\"state\":")?;
                out.json_str(transfer.as_str())?;
                if let Some(status) = transfer.status() {
                    out.raw(b",\"status\":")?;
                    out.uint(status.into())?;
                }
            }
            (Role::Agent, Say::Held(_) | Say::Transfer(_))
            | (Role::Vendor, Say::Wish(_))
            | (
                _,
                Say::Clear
                | Say::Mark(_)
                | Say::Heard(_)
                | Say::Dtmf(_)
                | Say::HangUp
                | Say::Stop(_)
                | Say::Cleared { .. }
                | Say::BargeIn,
            ) => return Ok(false),
        }
        out.raw(b"}")?;
        Ok(true)
    }
}

/// What a message says that the dialect itself has no such word for: a wish (vendor role), or how the line fares (agent
/// role). [`Event::Unknown`]: neither.
pub(super) fn read(role: Role, text: &[u8]) -> Event<'_> {
    let found = match role {
        Role::Vendor => asked(text).map(|asked| asked.filter(|asked| asked.wish().is_some()).map(Event::Wish)),
        Role::Agent => told(text),
    };
    found.ok().flatten().unwrap_or(Event::Unknown)
}

fn asked(text: &[u8]) -> Result<Option<Asked<'_>>, Malformed> {
    let (mut word, mut kind, mut target, mut digits) = (None, None, None, None);
    let mut members = Members::object(text)?;
    while let Some((key, value)) = members.next()? {
        if key.is_either(b"event", b"Event") || key.is_either(b"command", b"action") {
            word = Some(value);
        } else if key.is(b"type") {
            kind = Some(value);
        } else if key.is(b"target") {
            target = Some(value);
        } else if key.is_either(b"digits", b"dtmf") {
            digits = Some(value);
        } else if key.is_either(b"transfer", b"data") {
            // As dialects have it that name an object after the event, or say `data` whatever it is.
            target = value.member(b"target")?.or(target);
        } else if SEND_DIGITS.iter().any(|word| key.is(word)) {
            digits = value.member(b"digits")?;
        }
    }
    let says = |known: &[u8]| word.or(kind).is_some_and(|word: Value<'_>| word.is(known));
    let (kind, value) = if says(b"transfer") {
        (Kind::Transfer, target)
    } else if says(b"sendDTMF") || SEND_DIGITS.iter().any(|word| says(word)) {
        (Kind::Digits, digits)
    } else {
        return Ok(None);
    };
    Ok(value.map(|value| Asked { kind, value, packed: false }))
}

fn told(text: &[u8]) -> Result<Option<Event<'_>>, Malformed> {
    let (mut word, mut state, mut status) = (None, None, None);
    let mut members = Members::object(text)?;
    while let Some((key, value)) = members.next()? {
        if key.is(b"event") {
            word = Some(value);
        } else if key.is(b"state") {
            state = Some(value);
        } else if key.is(b"status") {
            status = value.uint();
        }
    }
    let (Some(word), Some(state)) = (word, state) else { return Ok(None) };
    Ok(if word.is(b"hold") || word.is(b"websocket:hold") {
        let held = if state.is(b"on") { Some(true) } else { state.is(b"off").then_some(false) };
        held.map(Event::Held)
    } else if word.is(b"transfer") || word.is(b"websocket:transfer") {
        transfer(&state, status).map(Event::Transfer)
    } else {
        None
    })
}

fn transfer(state: &Value<'_>, status: Option<u64>) -> Option<Transfer> {
    let status = status.and_then(|status| u16::try_from(status).ok()).unwrap_or_default();
    let transfers = [Transfer::Trying, Transfer::Failed { status }, Transfer::Done];
    transfers.into_iter().find(|transfer| state.is(transfer.as_str().as_bytes()))
}

/// What the output of a function says of a transfer: JSON in a string.
pub(super) fn output(value: &Value<'_>) -> Option<Transfer> {
    let mut text = heapless::String::<MAX_ARGUMENTS>::new();
    value.text(&mut text);
    let (mut state, mut status) = (None, None);
    let mut members = Members::object(text.as_bytes()).ok()?;
    while let Some((key, value)) = members.next().ok()? {
        if key.is(b"state") {
            state = Some(value);
        } else if key.is(b"status") {
            status = value.uint();
        }
    }
    transfer(&state?, status)
}

/// However an agent's language spells a name of two words.
const SEND_DIGITS: [&[u8]; 3] = [b"send_digits", b"sendDigits", b"send-digits"];
/// As much of a function's arguments is read (bytes).
const MAX_ARGUMENTS: usize = 512;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::{
        dialect::{Options, open, ozonetel::tests::said},
        media::Rate,
    };

    fn wish(text: &str) -> Option<Wish> {
        match read(Role::Vendor, text.as_bytes()) {
            Event::Wish(asked) => asked.wish(),
            other => {
                assert_eq!(other, Event::Unknown, "{text}");
                None
            }
        }
    }

    #[test]
    fn a_transfer_is_read_however_its_agent_spells_it() {
        for text in [
            r#"{"event":"transfer","target":"sip:+4930123@pbx.example.com"}"#,
            r#"{"target":"sip:+4930123@pbx.example.com","streamSid":"MZ1","event":"transfer"}"#,
            r#"{"event":"transfer","streamSid":"MZ1","transfer":{"target":"sip:+4930123@pbx.example.com"}}"#,
            r#"{"command":"transfer","target":"sip:+4930123@pbx.example.com"}"#,
            r#"{"action":"transfer","target":" sip:+4930123@pbx.example.com "}"#,
            // System.Text.Json of .NET escapes a plus.
            r#"{"event":"transfer","target":"sip:\u002B4930123@pbx.example.com"}"#,
        ] {
            assert_eq!(wish(text), Wish::transfer("sip:+4930123@pbx.example.com"), "{text}");
        }
        assert_eq!(wish(r#"{"event":"transfer","target":300}"#), Wish::transfer("300"));
        let number = wish(r#"{"event":"transfer","target":"+49 (30) 123-456"}"#);
        assert_eq!(number, Some(Wish::Transfer("+49 (30) 123-456".try_into().unwrap())));
    }

    #[test]
    fn keys_to_press_are_read_however_their_agent_spells_them() {
        for text in [
            r#"{"event":"send_digits","digits":"1w2#"}"#,
            r#"{"event":"sendDigits","digits":"1W2#","streamSid":"MZ1"}"#,
            r#"{"event":"send-digits","digits":"1w2#"}"#,
            r#"{"event":"sendDigits","sendDigits":{"digits":"1w2#"}}"#,
            r#"{"event":"sendDTMF","dtmf":"1w2#"}"#,
        ] {
            assert_eq!(wish(text), Wish::digits("1w2#"), "{text}");
        }
        assert_eq!(wish(r#"{"event":"send_digits","digits":12}"#), Wish::digits("12"));
        assert_eq!(wish(r#"{"event":"send_digits","digits":"ad"}"#), Some(Wish::Digits("AD".try_into().unwrap())));
    }

    /// What a side of this dialect says, with the call's facts.
    fn spelled(name: &str, role: Role, say: Say<'_>) -> String {
        let mut dialect = open(name, role, None, Rate::Hz8000, &Options::default()).unwrap();
        said(&mut *dialect, say).unwrap()
    }

    #[test]
    fn each_dialect_spells_them_as_it_spells_its_own_words() {
        let (transfer, digits) = (Wish::transfer("300").unwrap(), Wish::digits("12#").unwrap());
        let asks = |name| [&transfer, &digits].map(|wish| spelled(name, Role::Agent, Say::Wish(wish)));
        let [transfers, keys] = asks("twilio");
        assert!(transfers.starts_with(r#"{"event":"transfer","streamSid":""#), "{transfers}");
        assert!(transfers.ends_with(r#"","target":"300"}"#), "{transfers}");
        assert!(keys.starts_with(r#"{"event":"send_digits","streamSid":""#), "{keys}");
        assert!(keys.ends_with(r#"","digits":"12#"}"#), "{keys}");
        assert_eq!(
            asks("vonage"),
            [r#"{"action":"transfer","target":"300"}"#, r#"{"action":"send_digits","digits":"12#"}"#]
        );
        let [transfers, _] = asks("ozonetel");
        assert!(transfers.starts_with(r#"{"command":"transfer","ucid":""#), "{transfers}");
        let [_, keys] = asks("plivo");
        assert!(keys.starts_with(r#"{"event":"sendDTMF","streamId":""#) && keys.ends_with(r#"","dtmf":"12#"}"#));

        let held = |name| spelled(name, Role::Vendor, Say::Held(true));
        for (name, head) in [
            ("twilio", r#"{"event":"hold","streamSid":""#),
            ("exotel", r#"{"event":"hold","stream_sid":""#),
            ("telnyx", r#"{"event":"hold","stream_id":""#),
            ("plivo", r#"{"event":"hold","streamId":""#),
            ("ozonetel", r#"{"event":"hold","ucid":""#),
        ] {
            let text = held(name);
            assert!(text.starts_with(head) && text.ends_with(r#"","state":"on"}"#), "{name}: {text}");
        }
        assert_eq!(held("vonage"), r#"{"event":"websocket:hold","state":"on"}"#);
        assert_eq!(held("rtaa"), r#"{"event":"hold","state":"on"}"#);
        let failed = Say::Transfer(Transfer::Failed { status: 486 });
        assert_eq!(
            spelled("vonage", Role::Vendor, failed),
            r#"{"event":"websocket:transfer","state":"failed","status":486}"#
        );
    }

    #[test]
    fn what_is_too_long_or_no_target_is_no_wish() {
        let transfer = |target: &str| wish(&format!(r#"{{"event":"transfer","target":"{target}"}}"#));
        assert!(transfer(&"1".repeat(128)).is_some());
        assert_eq!(transfer(&"1".repeat(129)), None);
        assert_eq!(transfer(&"1".repeat(5_000)), None);
        for target in ["", " ", "sip:x@y>", "\\u0000", "30\\u00000", "300\\r\\nVia: x", "sip:\u{e9}@y", "\\\"x"] {
            assert_eq!(transfer(target), None, "{target}");
        }
        let digits = |digits: &str| wish(&format!(r#"{{"event":"send_digits","digits":"{digits}"}}"#));
        assert!(digits(&"5".repeat(32)).is_some());
        for keys in ["", "E", "1,2", "+1", &"5".repeat(33), &"5".repeat(500)] {
            assert_eq!(digits(keys), None, "{keys}");
        }
        for text in [
            r#"{"event":"transfer"}"#,
            r#"{"event":"transfer","target":{}}"#,
            r#"{"target":"300"}"#,
            r#"{"event":"transfer","target":"300""#,
            r#"["transfer"]"#,
            "transfer 300",
        ] {
            assert_eq!(wish(text), None, "{text}");
        }
    }

    #[test]
    fn an_agent_is_told_of_hold_and_of_its_transfer() {
        let event = |text: &'static str| read(Role::Agent, text.as_bytes());
        assert_eq!(event(r#"{"event":"hold","streamSid":"MZ1","state":"on"}"#), Event::Held(true));
        assert_eq!(event(r#"{"event":"websocket:hold","state":"off"}"#), Event::Held(false));
        assert_eq!(event(r#"{"event":"transfer","state":"trying"}"#), Event::Transfer(Transfer::Trying));
        let failed = Event::Transfer(Transfer::Failed { status: 486 });
        assert_eq!(event(r#"{"event":"transfer","state":"failed","status":486}"#), failed);
        assert_eq!(event(r#"{"event":"transfer","state":"done"}"#), Event::Transfer(Transfer::Done));
        for text in [r#"{"event":"hold"}"#, r#"{"event":"hold","state":"maybe"}"#, r#"{"state":"on"}"#, "hold"] {
            assert_eq!(event(text), Event::Unknown, "{text}");
        }
        // A wish is no news, and news no wish.
        assert_eq!(event(r#"{"event":"transfer","target":"300"}"#), Event::Unknown);
        assert_eq!(wish(r#"{"event":"transfer","state":"trying"}"#), None);
    }
}
