//! JSON, pulled apart where it lies.
//!
//! Nothing is copied, nothing recurses and nothing is read twice without need. A value that nobody asks for is only
//! skipped, so what stands inside of it is checked for brackets and quotes, not for grammar.

use core::cmp::Ordering;

use memchr::{memchr, memchr2, memchr3};

use crate::dialect::{Carrier, Malformed};

/// How deep objects and arrays may stand in each other, the outermost one included.
pub const MAX_DEPTH: u32 = 64;

/// The longest name of a member that can hold the audio of a long message (bytes, escapes included).
pub const MAX_KEY: usize = 64;

/// The members of one object, one after the other. Duplicate names are all shown.
#[derive(Clone, Debug)]
pub struct Members<'m> {
    rest: &'m [u8],
    turn: Turn,
}

impl<'m> Members<'m> {
    /// Opens the object that is the whole of `text`, but for white space and a byte order mark.
    ///
    /// # Errors
    /// [`Malformed::Json`] when there is no object.
    pub fn object(text: &'m [u8]) -> Result<Self, Malformed> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        match skip_white(text) {
            [b'{', rest @ ..] => Ok(Self { rest, turn: Turn::First }),
            _ => Err(Malformed::Json),
        }
    }

    /// The next member; `None` once the object was closed and nothing but white space followed.
    ///
    /// # Errors
    /// [`Malformed`] when this is not JSON, and then again at every call.
    #[allow(clippy::should_implement_trait)] // an iterator of results would go on after an error
    pub fn next(&mut self) -> Result<Option<(Key<'m>, Value<'m>)>, Malformed> {
        let rest = match (self.turn, skip_white(self.rest)) {
            (Turn::Closed, _) => return Ok(None),
            (Turn::First | Turn::Later, [b'}', rest @ ..]) => {
                if !skip_white(rest).is_empty() {
                    return Err(Malformed::Json);
                }
                self.turn = Turn::Closed;
                return Ok(None);
            }
            (Turn::First, rest) => rest,
            (Turn::Later, [b',', rest @ ..]) => skip_white(rest),
            (Turn::Later, _) => return Err(Malformed::Json),
        };
        let [b'"', rest @ ..] = rest else { return Err(Malformed::Json) };
        let (key, rest) = string(rest)?;
        let [b':', rest @ ..] = skip_white(rest) else { return Err(Malformed::Json) };
        let (value, rest) = value(skip_white(rest))?;
        self.rest = rest;
        self.turn = Turn::Later;
        Ok(Some((Key(key), value)))
    }
}

/// The name of a member as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'m>(&'m [u8]);

impl<'m> Key<'m> {
    /// A name that stands somewhere else than in a message; as in one, a backslash begins an escape.
    #[must_use]
    pub const fn new(name: &'m [u8]) -> Self {
        Self(name)
    }

    /// Whether this is that name, however it is escaped.
    #[inline]
    #[must_use]
    pub fn is(&self, name: &[u8]) -> bool {
        spells(self.0, name)
    }

    /// Whether this is either name: snake case and camel case, mostly.
    #[inline]
    #[must_use]
    pub fn is_either(&self, one: &[u8], other: &[u8]) -> bool {
        self.is(one) || self.is(other)
    }

    /// Copies the name as [`Value::text`] does.
    pub fn text<const N: usize>(&self, out: &mut heapless::String<N>) {
        Value::Str(self.0).text(out);
    }
}

/// The value of a member as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'m> {
    /// A string: what stands between the quotes, escapes included.
    Str(&'m [u8]),
    /// A number, or what begins like one.
    Num(&'m [u8]),
    /// An object, braces included.
    Object(&'m [u8]),
    /// An array: what stands between the brackets.
    Array(&'m [u8]),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

impl<'m> Value<'m> {
    /// Whether this string, or the text of this number, is that.
    #[inline]
    #[must_use]
    pub fn is(&self, text: &[u8]) -> bool {
        match *self {
            Self::Str(raw) => spells(raw, text),
            Self::Num(raw) => raw == text,
            Self::Object(_) | Self::Array(_) | Self::Bool(_) | Self::Null => false,
        }
    }

    /// Copies a string or a number's text, without escapes and control characters. What does not fit is cut off after
    /// a whole character, what is no character becomes U+FFFD; any other value is an empty text.
    pub fn text<const N: usize>(&self, out: &mut heapless::String<N>) {
        out.clear();
        let (Self::Str(raw) | Self::Num(raw)) = *self else { return };
        for c in Unescaped(raw).filter(|c| !c.is_control()) {
            if out.push(c).is_err() {
                return;
            }
        }
    }

    /// Whether [`text`](Self::text) leaves something out of this string, because it is a control character.
    #[must_use]
    pub fn has_controls(&self) -> bool {
        matches!(*self, Self::Str(raw) if Unescaped(raw).any(char::is_control))
    }

    /// The string as it stands, if it has no escapes and is UTF-8.
    #[must_use]
    pub fn plain(&self) -> Option<&'m str> {
        match *self {
            Self::Str(raw) if memchr(b'\\', raw).is_none() => core::str::from_utf8(raw).ok(),
            _ => None,
        }
    }

    /// The whole number at the head of a number or a string; a fraction and a unit are cut off. Vendors write rates
    /// as `8000`, `8000.0`, `"8000"`, `"8000Hz"`.
    #[must_use]
    pub fn uint(&self) -> Option<u64> {
        let (Self::Str(raw) | Self::Num(raw)) = *self else { return None };
        let mut number = Number::default();
        let _ = skip_white(raw).iter().take_while(|&&byte| number.push(byte)).count();
        let magnitude = number.has_digits().then(|| number.magnitude())?;
        (magnitude < u64::MAX && (!number.is_negative() || magnitude == 0)).then_some(magnitude)
    }

    /// The last member of this name, if this is an object that has one.
    ///
    /// # Errors
    /// [`Malformed`] when the object is not JSON.
    pub fn member(&self, name: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut found = None;
        if let Some(mut members) = self.object() {
            while let Some((key, value)) = members.next()? {
                if key.is(name) {
                    found = Some(value);
                }
            }
        }
        Ok(found)
    }

    /// The members, if this is an object.
    #[must_use]
    pub fn object(&self) -> Option<Members<'m>> {
        match *self {
            Self::Object(text) => Members::object(text).ok(),
            _ => None,
        }
    }

    /// What stands between the brackets, if this is an array.
    #[must_use]
    pub fn array(&self) -> Option<&'m [u8]> {
        match *self {
            Self::Array(text) => Some(text),
            _ => None,
        }
    }
}

/// Parts the audio of a long message from its text, while the message arrives in pieces of any size.
///
/// The text without the audio is whole JSON again, with `[]` or `""` where the audio was; reading that is the proof
/// that the message was well formed. Here only strings and brackets are followed.
///
/// ```text
///  {"event":"media","media":{"payload":"  AAEC...AwQF  ","chunk":"7"}}
///  |------------- Text ----------------|--- Audio ---|----- Text ----|     and between them, once, AudioEnd
/// ```
#[derive(Clone, Debug)]
pub struct Splitter {
    nest: Nest,
    place: Place,
    key: [u8; MAX_KEY],
    /// Bytes of the key so far, also those that `key` has no room for.
    key_len: usize,
    had_audio: bool,
}

/// What a [`Splitter`] found at the head of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// This many bytes of the piece are done with.
    pub consumed: usize,
    /// What they are.
    pub run: Run,
}

/// Bytes of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Part of the text.
    Text,
    /// Part of the audio: of what stands between its brackets or quotes.
    Audio(Carrier),
    /// The audio is complete (it may have been empty). No bytes; the closing bracket or quote is next, as text.
    AudioEnd,
}

impl Splitter {
    /// At the head of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self { nest: Nest::new(), place: Place::Before, key: [0; MAX_KEY], key_len: 0, had_audio: false }
    }

    /// Looks at the head of `piece`, which is not empty; to be called again with what is left of it. `carrier` says
    /// whether the value of a key at a depth (1 = a member of the outermost object) is audio.
    ///
    /// # Errors
    /// [`Malformed::TooDeep`]; [`Malformed::Json`] for brackets that do not match, text after the end, and a second
    /// audio value. The message is lost then: no further piece of it makes sense.
    pub fn split(
        &mut self,
        piece: &[u8],
        mut carrier: impl FnMut(&[u8], usize) -> Option<Carrier>,
    ) -> Result<Step, Malformed> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            match self.place {
                Place::Audio { carrier, escaped } => return Ok(self.on_audio(piece, carrier, escaped)),
                Place::Text { escaped } => at += self.on_text(&piece[at..], escaped),
                Place::Key { escaped } => {
                    at += 1;
                    self.on_key(byte, escaped);
                }
                Place::Before | Place::Name | Place::Colon | Place::Value | Place::Element | Place::After => {
                    at += 1;
                    if self.on_structure(byte, &mut carrier)? {
                        break;
                    }
                }
            }
        }
        Ok(Step { consumed: at, run: Run::Text })
    }

    /// Whether the message was complete.
    ///
    /// # Errors
    /// [`Malformed::Json`] when the outermost object was not closed.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.place == Place::After && self.nest.depth == 0 { Ok(()) } else { Err(Malformed::Json) }
    }

    fn on_audio(&mut self, piece: &[u8], carrier: Carrier, escaped: bool) -> Step {
        let (consumed, escaped) = match carrier {
            Carrier::Base64 => string_run(piece, escaped),
            Carrier::Array | Carrier::Raw => (memchr(b']', piece).unwrap_or(piece.len()), false),
        };
        if consumed == 0 {
            // The bracket or quote ends this value as it ends any other.
            self.place = if carrier == Carrier::Base64 { Place::Text { escaped: false } } else { Place::Element };
            return Step { consumed, run: Run::AudioEnd };
        }
        self.place = Place::Audio { carrier, escaped };
        Step { consumed, run: Run::Audio(carrier) }
    }

    /// Inside a string that is neither key nor audio: how many bytes of it there are, the closing quote included.
    fn on_text(&mut self, rest: &[u8], escaped: bool) -> usize {
        let (run, escaped) = string_run(rest, escaped);
        if run < rest.len() {
            self.place = Place::After;
            return run + 1;
        }
        self.place = Place::Text { escaped };
        run
    }

    fn on_key(&mut self, byte: u8, escaped: bool) {
        if byte == b'"' && !escaped {
            self.place = Place::Colon;
            return;
        }
        if let Some(slot) = self.key.get_mut(self.key_len) {
            *slot = byte;
        }
        self.key_len = self.key_len.saturating_add(1);
        self.place = Place::Key { escaped: byte == b'\\' && !escaped };
    }

    /// Outside of strings. `true`: the next byte belongs to the audio.
    fn on_structure(
        &mut self,
        byte: u8,
        carrier: &mut impl FnMut(&[u8], usize) -> Option<Carrier>,
    ) -> Result<bool, Malformed> {
        match (byte, self.place) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (0xef | 0xbb | 0xbf, Place::Before) => {} // a byte order mark; who reads the text judges it
            (b'{', Place::Before | Place::Value | Place::Element) => {
                self.nest.open(true)?;
                self.place = Place::Name;
            }
            _ if self.nest.depth == 0 => return Err(Malformed::Json),
            (b'[' | b'"', Place::Value | Place::Element) => {
                let found = if byte == b'[' { Carrier::Array } else { Carrier::Base64 };
                let audio = self.place == Place::Value && self.ask(carrier) == Some(found);
                if byte == b'[' {
                    self.nest.open(false)?;
                }
                if audio {
                    if self.had_audio {
                        return Err(Malformed::Json);
                    }
                    self.had_audio = true;
                    self.place = Place::Audio { carrier: found, escaped: false };
                    return Ok(true);
                }
                self.place = if byte == b'[' { Place::Element } else { Place::Text { escaped: false } };
            }
            (b'"', Place::Name) => {
                self.key_len = 0;
                self.place = Place::Key { escaped: false };
            }
            (b'{' | b'[' | b'"', _) => return Err(Malformed::Json),
            (b'}' | b']', _) => {
                self.nest.close(byte == b'}')?;
                self.place = Place::After;
            }
            (b':', Place::Colon) => self.place = Place::Value,
            (b':', _) => return Err(Malformed::Json),
            (b',', _) => self.place = if self.nest.in_object() { Place::Name } else { Place::Element },
            _ => {} // part of a number or a word
        }
        Ok(false)
    }

    /// What the value of the last key is said to be.
    fn ask(&self, carrier: &mut impl FnMut(&[u8], usize) -> Option<Carrier>) -> Option<Carrier> {
        let raw = self.key.get(..self.key_len)?;
        let depth = self.nest.depth as usize;
        if memchr(b'\\', raw).is_none() {
            return carrier(raw, depth);
        }
        let mut key = [0; MAX_KEY];
        let mut len = 0;
        for c in Unescaped(raw) {
            let room = key.get_mut(len..len + c.len_utf8())?;
            len += c.encode_utf8(room).len();
        }
        carrier(&key[..len], depth)
    }
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}

/// A decimal number that may arrive byte by byte. Nineteen digits are kept, more than any rate, time or sample has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Number {
    part: Part,
    negative: bool,
    mantissa: u64,
    /// Ten to this power times the mantissa, before the exponent is counted in.
    scale: i32,
    exponent: i32,
    exponent_negative: bool,
}

impl Number {
    /// Takes the next byte; `false`: it cannot stand here.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        self.part = match (self.part, byte) {
            (Part::Nothing, b'-') => {
                self.negative = true;
                Part::Minus
            }
            (Part::Nothing | Part::Minus | Part::Whole, b'0'..=b'9') => {
                if !self.digit(byte) {
                    self.scale = self.scale.saturating_add(1);
                }
                Part::Whole
            }
            (Part::Whole, b'.') => Part::Point,
            (Part::Point | Part::Fraction, b'0'..=b'9') => {
                if self.digit(byte) {
                    self.scale = self.scale.saturating_sub(1);
                }
                Part::Fraction
            }
            (Part::Whole | Part::Fraction, b'e' | b'E') => Part::E,
            (Part::E, b'+' | b'-') => {
                self.exponent_negative = byte == b'-';
                Part::Sign
            }
            (Part::E | Part::Sign | Part::Exponent, b'0'..=b'9') => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
                Part::Exponent
            }
            _ => return false,
        };
        true
    }

    /// Whether it may end here.
    pub(super) const fn is_complete(&self) -> bool {
        matches!(self.part, Part::Whole | Part::Fraction | Part::Exponent)
    }

    pub(super) const fn is_negative(&self) -> bool {
        self.negative
    }

    /// The whole part without its sign; `u64::MAX` stands for anything larger, too.
    pub(super) fn magnitude(&self) -> u64 {
        let exponent = if self.exponent_negative { self.exponent.saturating_neg() } else { self.exponent };
        let scale = self.scale.saturating_add(exponent);
        let factor = 10u64.checked_pow(scale.unsigned_abs());
        match (self.mantissa, scale < 0) {
            (0, _) => 0,
            (mantissa, true) => factor.map_or(0, |factor| mantissa / factor),
            (mantissa, false) => factor.map_or(u64::MAX, |factor| mantissa.saturating_mul(factor)),
        }
    }

    const fn has_digits(&self) -> bool {
        !matches!(self.part, Part::Nothing | Part::Minus)
    }

    /// Appends a digit; `false`: there is no room for it any more.
    fn digit(&mut self, byte: u8) -> bool {
        let longer = self.mantissa.checked_mul(10).and_then(|m| m.checked_add(u64::from(byte - b'0')));
        // One that did not fit ends the digits, or a smaller one after it would fit again.
        match longer {
            Some(mantissa) if self.scale <= 0 => {
                self.mantissa = mantissa;
                true
            }
            _ => false,
        }
    }
}

/// How far a number got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Nothing,
    Minus,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

/// Where in an object [`Members`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    Later,
    Closed,
}

/// Where in a message a [`Splitter`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the outermost brace.
    Before,
    /// In an object, before a key.
    Name,
    Key {
        escaped: bool,
    },
    /// After a key.
    Colon,
    /// After the colon, up to the end of a number or a word.
    Value,
    /// In an array.
    Element,
    Text {
        escaped: bool,
    },
    Audio {
        carrier: Carrier,
        escaped: bool,
    },
    /// After a string or a bracket.
    After,
}

/// The brackets that are open.
#[derive(Clone, Debug)]
struct Nest {
    depth: u32,
    /// One bit each, the innermost one lowest: whether it is a brace.
    braces: u64,
}

impl Nest {
    const fn new() -> Self {
        Self { depth: 0, braces: 0 }
    }

    const fn in_object(&self) -> bool {
        self.braces & 1 == 1
    }

    fn open(&mut self, brace: bool) -> Result<(), Malformed> {
        if self.depth >= MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        self.depth += 1;
        self.braces = self.braces << 1 | u64::from(brace);
        Ok(())
    }

    fn close(&mut self, brace: bool) -> Result<(), Malformed> {
        if self.depth == 0 || self.in_object() != brace {
            return Err(Malformed::Json);
        }
        self.depth -= 1;
        self.braces >>= 1;
        Ok(())
    }
}

/// The characters of a raw string. RFC 8259 section 7; what is none of them is U+FFFD.
struct Unescaped<'m>(&'m [u8]);

impl Iterator for Unescaped<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let (&first, rest) = self.0.split_first()?;
        if first == b'\\' {
            let (c, rest) = escape(rest);
            self.0 = rest;
            return Some(c);
        }
        // The lead bytes of RFC 3629 section 4.
        let width = match first {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        let whole = self.0.split_at_checked(width);
        let read = whole.and_then(|(c, rest)| Some((core::str::from_utf8(c).ok()?.chars().next()?, rest)));
        let (c, rest) = read.unwrap_or((char::REPLACEMENT_CHARACTER, rest));
        self.0 = rest;
        Some(c)
    }
}

/// The character of the escape whose backslash was just read, and what follows.
fn escape(rest: &[u8]) -> (char, &[u8]) {
    let Some((&letter, after)) = rest.split_first() else { return (char::REPLACEMENT_CHARACTER, rest) };
    let c = match letter {
        b'"' | b'\\' | b'/' => char::from(letter),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(after).unwrap_or((char::REPLACEMENT_CHARACTER, after)),
        _ => return (char::REPLACEMENT_CHARACTER, rest),
    };
    (c, after)
}

/// Four hexadecimal digits, or a pair of them that together make one character.
fn unicode(rest: &[u8]) -> Option<(char, &[u8])> {
    let (high, after) = hex4(rest)?;
    if let 0xd800..=0xdbff = high
        && let Some((low @ 0xdc00..=0xdfff, after)) = after.strip_prefix(b"\\u").and_then(hex4)
    {
        let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return Some((char::from_u32(code)?, after));
    }
    Some((char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), after))
}

fn hex4(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = rest.split_first_chunk::<4>()?;
    let code = digits.iter().try_fold(0, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))?;
    Some((code, after))
}

/// Whether a raw string says `text`. Inlined, so that comparing with a known name is a comparison of words.
#[inline]
fn spells(raw: &[u8], text: &[u8]) -> bool {
    // What an escape says is never longer than the escape.
    match raw.len().cmp(&text.len()) {
        Ordering::Less => false,
        Ordering::Equal => raw == text && !text.contains(&b'\\'),
        Ordering::Greater => spells_escaped(raw, text),
    }
}

fn spells_escaped(raw: &[u8], text: &[u8]) -> bool {
    let same = raw.iter().zip(text).take_while(|(a, b)| a == b && **a != b'\\').count();
    let mut left = &text[same..];
    let escaped @ [b'\\', ..] = &raw[same..] else { return false };
    for c in Unescaped(escaped) {
        match left.strip_prefix(c.encode_utf8(&mut [0; 4]).as_bytes()) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    left.is_empty()
}

fn skip_white(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [b' ' | b'\t' | b'\n' | b'\r', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// A value from its first byte on, and what follows.
fn value(text: &[u8]) -> Result<(Value<'_>, &[u8]), Malformed> {
    match text {
        [b'"', rest @ ..] => string(rest).map(|(raw, rest)| (Value::Str(raw), rest)),
        [b'{', ..] => {
            let (object, rest) = bracketed(text)?;
            Ok((Value::Object(object), rest))
        }
        [b'[', ..] => {
            let (array, rest) = bracketed(text)?;
            Ok((Value::Array(&array[1..array.len() - 1]), rest))
        }
        [b'-' | b'0'..=b'9', ..] => {
            let end = text.iter().position(|b| !matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            let (number, rest) = text.split_at(end.unwrap_or(text.len()));
            Ok((Value::Num(number), rest))
        }
        [b't', b'r', b'u', b'e', rest @ ..] => Ok((Value::Bool(true), rest)),
        [b'f', b'a', b'l', b's', b'e', rest @ ..] => Ok((Value::Bool(false), rest)),
        [b'n', b'u', b'l', b'l', rest @ ..] => Ok((Value::Null, rest)),
        _ => Err(Malformed::Json),
    }
}

/// A string from behind its opening quote on, and what follows the closing one.
fn string(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (run, _) = string_run(text, false);
    match text.split_at(run) {
        (raw, [_, rest @ ..]) => Ok((raw, rest)),
        (_, []) => Err(Malformed::Json),
    }
}

/// How many bytes there are up to the closing quote, or in all; and whether the byte after them is escaped.
fn string_run(text: &[u8], escaped: bool) -> (usize, bool) {
    let mut at = usize::from(escaped);
    loop {
        let Some(rest) = text.get(at..) else { return (text.len(), true) };
        match stop(rest) {
            Some(n) if rest[n] == b'"' => return (at + n, false),
            Some(n) => at += n + 2,
            None => return (text.len(), false),
        }
    }
}

/// Where the first quote or backslash is. Nearly all strings are shorter than what it costs to call `memchr2`, so it
/// only gets those that go on after four words.
fn stop(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let mut at = 0;
    for word in text.as_chunks::<8>().0.iter().take(4) {
        let word = u64::from_le_bytes(*word);
        // The lowest mark is right; those above a right one may be wrong.
        let marks = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', &text[at..]).map(|n| at + n)
}

/// An object or array with its brackets, and what follows.
fn bracketed(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut nest = Nest::new();
    nest.open(true)?; // the object that all of this is in
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'"' => rest = string(rest)?.1,
            b'{' => nest.open(true)?,
            b'[' => {
                nest.open(false)?;
                rest = &rest[flat(rest)..];
            }
            b'}' | b']' => {
                nest.close(*byte == b'}')?;
                if nest.depth == 1 {
                    return Ok(text.split_at(text.len() - rest.len()));
                }
            }
            _ => {}
        }
    }
    Err(Malformed::Json)
}

/// How many bytes of an array can be passed over at once: all, if it holds neither strings nor arrays. (An object
/// without strings is empty or wrong; who asks for the array will see.)
fn flat(array: &[u8]) -> usize {
    memchr3(b'"', b'[', b']', array).filter(|&n| array[n] == b']').unwrap_or_default()
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OZONETEL: &str = r#"{"event":"media","type":"media","ucid":"17465432109876543","data":{"samples":[-8,8,-32768,32767,0,12],"bitsPerSample":16,"sampleRate":8000,"channelCount":1,"numberOfFrames":6,"type":"data"},"seqid":"b3c1"}"#;
    const EXOTEL: &str = r#"{"event":"media","sequence_number":"2","stream_sid":"rd7f3a","media":{"chunk":"1","timestamp":"0","payload":"CAD4\/wCA\/38AAAwA"}}"#;
    const START: &str = "\u{feff} {\r\n  \"event\" : \"start\",\r\n  \"ucid\" : 17465432109876543,\r\n  \"x_headers\" : \
         \"{\\\"samples\\\":[1],\\\"payload\\\":\\\"QUJD\\\"}\",\r\n  \"media\" : {\"encoding\":\"PCMU\",\
         \"sampleRate\":8e3,\"tags\":[[],[{\"a\":[1,\"]\"]}]]},\r\n  \"none\" : null, \"yes\" : true \r\n}\r\n";
    const ESCAPED: &str =
        r#"{"ev\u0065nt":"m\u0065dia","\u0064ata":{"s\u0061mples":[ 1 , -2.0 , 3e0 ],"x":"\\\"","y":[]}}"#;
    const MESSAGES: [&str; 4] = [OZONETEL, EXOTEL, START, ESCAPED];

    fn carrier(key: &[u8], depth: usize) -> Option<Carrier> {
        match (key, depth) {
            (b"samples", 2) => Some(Carrier::Array),
            (b"payload", 2) => Some(Carrier::Base64),
            _ => None,
        }
    }

    fn member<'m>(text: &'m [u8], name: &[u8]) -> Option<Value<'m>> {
        let mut members = Members::object(text).unwrap();
        let mut found = None;
        while let Some((key, value)) = members.next().unwrap() {
            if key.is(name) {
                found = Some(value);
            }
        }
        found
    }

    fn read_all(text: &[u8]) -> Result<usize, Malformed> {
        let mut members = Members::object(text)?;
        let mut count = 0;
        while let Some((_, value)) = members.next()? {
            count += 1 + value.object().map_or(Ok(0), |_| match value {
                Value::Object(inner) => read_all(inner),
                _ => Ok(0),
            })?;
        }
        Ok(count)
    }

    type Parts = (Vec<u8>, Vec<u8>, usize);

    /// The text, the audio and the number of times the audio ended.
    fn part(pieces: &[&[u8]]) -> Result<Parts, Malformed> {
        let mut splitter = Splitter::new();
        let (mut text, mut audio, mut ends) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let step = splitter.split(rest, carrier)?;
                assert!(step.consumed > 0 || step.run == Run::AudioEnd, "no progress");
                let (run, left) = rest.split_at(step.consumed);
                match step.run {
                    Run::Text => text.extend_from_slice(run),
                    Run::Audio(_) => audio.extend_from_slice(run),
                    Run::AudioEnd => ends += 1,
                }
                rest = left;
            }
        }
        splitter.finish()?;
        Ok((text, audio, ends))
    }

    #[test]
    fn the_members_of_a_media_message_are_found_in_place() {
        let data = member(OZONETEL.as_bytes(), b"data").unwrap();
        let Value::Object(data) = data else { panic!("{data:?}") };
        assert_eq!(member(data, b"samples"), Some(Value::Array(b"-8,8,-32768,32767,0,12")));
        assert_eq!(member(data, b"sampleRate").unwrap().uint(), Some(8000));
        let media = member(EXOTEL.as_bytes(), b"media").unwrap();
        let mut members = media.object().unwrap();
        members.next().unwrap();
        members.next().unwrap();
        let (key, value) = members.next().unwrap().unwrap();
        assert!(key.is(b"payload") && !key.is(b"payloa") && !key.is(b"payload1"));
        assert_eq!(value, Value::Str(br"CAD4\/wCA\/38AAAwA"));
        assert_eq!(value.plain(), None);
        assert_eq!(members.next(), Ok(None));
        assert_eq!(members.next(), Ok(None));
    }

    #[test]
    fn white_space_a_byte_order_mark_and_every_kind_of_value_are_read() {
        let start = START.as_bytes();
        assert_eq!(read_all(start), Ok(9));
        assert_eq!(member(start, b"none"), Some(Value::Null));
        assert_eq!(member(start, b"yes"), Some(Value::Bool(true)));
        assert_eq!(member(start, b"media").unwrap().object().unwrap().next().unwrap().unwrap().1.plain(), Some("PCMU"));
        assert_eq!(member(b"{\"a\":[ ]}", b"a").unwrap().array(), Some(&b" "[..]));
        assert_eq!(read_all(b"{}"), Ok(0));
        assert_eq!(read_all(b" { } "), Ok(0));
    }

    #[test]
    fn names_and_values_are_the_same_escaped_or_not() {
        assert!(member(ESCAPED.as_bytes(), b"event").unwrap().is(b"media"));
        assert!(!member(ESCAPED.as_bytes(), b"event").unwrap().is(b"medi"));
        assert!(!member(ESCAPED.as_bytes(), b"event").unwrap().is(b"mediax"));
        // A name with a backslash in it is not the name that it escapes to, and the other way round.
        assert!(!Key(br"\u0065").is(br"\u0065"));
        assert!(Key(br"\u0065").is(b"e"));
    }

    #[test]
    fn a_repeated_name_is_shown_twice() {
        let mut members = Members::object(br#"{"a":1,"a":"2"}"#).unwrap();
        assert_eq!(members.next().unwrap().unwrap().1, Value::Num(b"1"));
        assert_eq!(members.next().unwrap().unwrap().1, Value::Str(b"2"));
    }

    #[test]
    fn text_is_unescaped_cut_between_characters_and_freed_of_control_characters() {
        let show = |raw: &[u8]| {
            let mut out = heapless::String::<16>::new();
            Value::Str(raw).text(&mut out);
            out.as_str().to_owned()
        };
        assert_eq!(show(br#"+91 \"98\" \/\\"#), "+91 \"98\" /\\");
        assert_eq!(show(br"\ud83d\ude00\u00e9"), "\u{1f600}\u{e9}");
        assert_eq!(show(br"\ud83d\u0041|\ude00|\u12|\x"), "\u{fffd}A|\u{fffd}|\u{fffd}12|");
        assert_eq!(show(br"\x\"), "\u{fffd}x\u{fffd}");
        assert_eq!(show(b"\xc3\xa9\xc3\xff\xf0\x9f\x98"), "\u{e9}\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(show(b"a\\u0000b\\nc\x1b\\u009bd"), "abcd");
        assert_eq!(show("123456789012345\u{e9}z".as_bytes()), "123456789012345");
        let mut out = heapless::String::<16>::new();
        Value::Num(b"-1.5e3").text(&mut out);
        assert_eq!(out, "-1.5e3");
        Value::Null.text(&mut out);
        assert_eq!(out, "");
    }

    #[test]
    fn whole_numbers_are_read_as_vendors_write_them() {
        let number = |text: &'static str| Value::Num(text.as_bytes()).uint();
        let string = |text: &'static str| Value::Str(text.as_bytes()).uint();
        for text in ["8000", "8000.0", "8000.999", "8e3", "80.0e+2", "80000e-1", "0008000"] {
            assert_eq!((number(text), string(text)), (Some(8000), Some(8000)), "{text}");
        }
        assert_eq!(string("8000Hz"), Some(8000));
        assert_eq!(string(" 128kbps"), Some(128));
        assert_eq!(string("8each"), Some(8));
        assert_eq!(string("18446744073709551614"), Some(u64::MAX - 1));
        assert_eq!(number("-0"), Some(0));
        assert_eq!(number("0e99999999999"), Some(0));
        assert_eq!(number("1e-99999999999"), Some(0));
        for text in ["", "-", "-1", "Hz", "1e20", "1e99999999999", "99999999999999999999999", ".5", "+5"] {
            assert_eq!(string(text), None, "{text}");
        }
        assert_eq!(Value::Bool(true).uint(), None);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "[]",
            "{",
            "{]",
            "}",
            "null",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1}x",
            "{\"a\":1}{}",
            "{\"a\":tru}",
            "{\"a\":truer}",
            "{\"a\":[1}",
            "{\"a\":{]}",
            "{\"a\":\"b}",
            "{\"a\":\"b\\\"}",
            "{\"a",
            "{a:1}",
            "{\"a\":'b'}",
            "{\"a\":+1}",
            "{\"a\"::1}",
            "{\"a\":1;}",
            "{\"a\":[\"]}",
        ] {
            assert_eq!(read_all(text.as_bytes()), Err(Malformed::Json), "{text}");
        }
    }

    #[test]
    fn a_hundred_thousand_brackets_are_refused_at_the_sixty_fifth() {
        for bracket in ["[", "{\"a\":", "[{\"a\":"] {
            let bomb = format!("{{\"a\":{}", bracket.repeat(100_000));
            assert_eq!(read_all(bomb.as_bytes()), Err(Malformed::TooDeep));
            assert_eq!(part(&[bomb.as_bytes()]), Err(Malformed::TooDeep));
        }
        for (inner, expected) in [(63, Ok(1)), (64, Err(Malformed::TooDeep))] {
            let text = format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner));
            assert_eq!(read_all(text.as_bytes()), expected);
            assert_eq!(part(&[text.as_bytes()]).map(|_| 1), expected);
            let audio = format!("{{\"a\":{}1,2{}}}", "[".repeat(inner), "]".repeat(inner));
            assert_eq!(read_all(audio.as_bytes()), expected);
        }
    }

    #[test]
    fn a_long_message_is_parted_into_its_audio_and_whole_json_without_it() {
        let (text, audio, ends) = part(&[OZONETEL.as_bytes()]).unwrap();
        assert_eq!(audio, b"-8,8,-32768,32767,0,12");
        assert_eq!(text, OZONETEL.replace("-8,8,-32768,32767,0,12", "").as_bytes());
        assert_eq!(ends, 1);
        let (text, audio, ends) = part(&[EXOTEL.as_bytes()]).unwrap();
        assert_eq!(audio, br"CAD4\/wCA\/38AAAwA");
        assert_eq!(text, EXOTEL.replace(r"CAD4\/wCA\/38AAAwA", "").as_bytes());
        assert_eq!(ends, 1);
        let (text, audio, ends) = part(&[START.as_bytes()]).unwrap();
        assert_eq!((text, audio, ends), (START.as_bytes().to_vec(), vec![], 0));
        let (text, audio, ends) = part(&[ESCAPED.as_bytes()]).unwrap();
        assert_eq!((audio, ends), (b" 1 , -2.0 , 3e0 ".to_vec(), 1));
        assert_eq!(read_all(&text), read_all(ESCAPED.as_bytes()));
        let empty = br#"{"data":{"samples":[],"payload":7}}"#;
        assert_eq!(part(&[empty]).unwrap(), (empty.to_vec(), vec![], 1));
        let hidden = br#"{"data":{"payload":"QU\"JD\\","samples":"1"}}"#;
        assert_eq!(part(&[hidden]).unwrap().1, br#"QU\"JD\\"#);
    }

    #[test]
    fn it_is_parted_alike_wherever_it_is_cut() {
        for message in MESSAGES {
            let message = message.as_bytes();
            let whole = part(&[message]).unwrap();
            let bytes: Vec<&[u8]> = message.chunks(1).collect();
            assert_eq!(part(&bytes).unwrap(), whole);
            for first in 0..=message.len() {
                for second in first..=message.len() {
                    let pieces = [&message[..first], &message[first..second], &message[second..]];
                    assert_eq!(part(&pieces).unwrap(), whole, "cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn only_a_name_of_the_right_length_depth_and_kind_is_audio() {
        for text in [
            r#"{"samples":[1]}"#,
            r#"{"a":{"b":{"samples":[1]}}}"#,
            r#"{"a":{"samples":"AAAA"}}"#,
            r#"{"a":{"payload":["AAAA"]}}"#,
            r#"{"a":{"payload":{"x":"AAAA"}}}"#,
            r#"{"a":["samples","payload"]}"#,
            r#"{"a":{"b":"payload"}}"#,
        ] {
            assert_eq!(part(&[text.as_bytes()]).unwrap(), (text.as_bytes().to_vec(), vec![], 0), "{text}");
        }
        // 66 bytes of key, of which the first 64 would be a name.
        let long = format!("{{\"{}xx\":[1]}}", "k".repeat(64));
        let mut splitter = Splitter::new();
        let step = splitter.split(long.as_bytes(), |_, _| Some(Carrier::Array)).unwrap();
        assert_eq!(step, Step { consumed: long.len(), run: Run::Text });
        let fits = format!("{{\"{}\":[1]}}", "k".repeat(64));
        let step = Splitter::new().split(fits.as_bytes(), |_, _| Some(Carrier::Array)).unwrap();
        assert_eq!(step, Step { consumed: fits.len() - 3, run: Run::Text });
    }

    #[test]
    fn a_message_with_two_audio_values_or_an_open_end_is_refused() {
        for text in [
            r#"{"a":{"samples":[1],"samples":[2]}}"#,
            r#"{"a":{"samples":[1],"payload":"AAAA"}}"#,
            r#"{"a":{"samples":[1]"#,
            r#"{"a":{"samples":[1}}"#,
            r#"{"a":{"payload":"AAAA\"#,
            r#"{"a":1}}"#,
            r#"{"a":1} {"b":2}"#,
            r#"{"a":1]"#,
            r#"[{"a":1}]"#,
            "",
            "x",
        ] {
            assert_eq!(part(&[text.as_bytes()]), Err(Malformed::Json), "{text}");
        }
    }

    #[test]
    fn damaged_messages_never_panic_and_are_judged_alike_whole_and_in_bytes() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        const BYTES: &[u8] = b"{}[]\":,\\u00e9\"\"[[{{]]}}-1.e \n\xff\xc3\0";
        let mut refused = 0;
        for round in 0..20_000 {
            let mut message = MESSAGES[round % MESSAGES.len()].as_bytes().to_vec();
            for _ in 0..=random(4) {
                let at = random(message.len());
                match random(4) {
                    0 => message[at] = BYTES[random(BYTES.len())],
                    1 => message.insert(at, BYTES[random(BYTES.len())]),
                    2 => drop(message.remove(at)),
                    _ => message.truncate(at.max(8)),
                }
            }
            let whole = part(&[&message]);
            assert_eq!(part(&message.chunks(1).collect::<Vec<_>>()), whole);
            // Where the audio went another way, its text has to be as good or as bad as the message itself.
            match (read_all(&message), whole) {
                (Ok(count), Ok((text, ..))) => assert_eq!(read_all(&text), Ok(count)),
                (Ok(_), Err(_)) => refused += 1, // a second audio value
                (Err(_), _) => refused += 1,
            }
            let mut out = heapless::String::<32>::new();
            if let Ok(mut members) = Members::object(&message) {
                while let Ok(Some((key, value))) = members.next() {
                    value.text(&mut out);
                    let _ = (key.is(b"event"), value.is(b"media"), value.uint(), value.plain());
                }
            }
        }
        assert!((5_000..20_000).contains(&refused), "{refused}");
    }
}
