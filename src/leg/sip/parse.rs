//! Reading a message, and what becomes of one that cannot be read.
//!
//! ```text
//!   head:  start line, header lines, empty line      every flaw is found, the first one is told
//!   body:  as long as Content-Length says
//! ```
//!
//! As tolerant as RFC 4475 calls valid, as strict as it calls invalid. A broken request is answered, since a peer that
//! hears nothing sends it ten times more; a broken response is dropped, and so is a broken ACK, since neither is ever
//! answered.

use core::fmt;

use crate::leg::sip::{
    Flaw, Headers, MAX_DATAGRAM, MAX_HEADERS, MAX_MESSAGE, MAX_NAME, MAX_URI, MAX_VALUE, Message, Method, Name,
    NameAddr, Request, Response, Scheme, Uri, Via, header, is_token, message::tie, phrase,
};

/// Reads a datagram.
///
/// # Errors
/// [`Malformed`], with the answer that it gets.
pub fn parse(datagram: &[u8]) -> Result<Message, Malformed> {
    let (head, rest) = Head::read(&datagram[..datagram.len().min(MAX_DATAGRAM)]);
    if datagram.len() > MAX_DATAGRAM {
        return Err(head.refuse(513, None, Flaw(phrase(513))));
    }
    let body = match head.content_length() {
        Ok(None) => Ok(rest),
        // RFC 3261 18.3: what stands behind the body of a datagram is nobody's.
        Ok(Some(len)) => rest.get(..len).ok_or(Flaw("Content-Length is more than there is")),
        Err(flaw) => Err(flaw),
    };
    head.message(body)
}

/// Reads a message of a stream, which is as long as its Content-Length said.
pub(crate) fn parse_framed(message: &[u8]) -> Result<Message, Malformed> {
    let (head, rest) = Head::read(message);
    head.message(Ok(rest))
}

/// A message that cannot be read.
///
/// Its answer belongs to no transaction: it goes back at once to where the message came from, and is not repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    flaw: Flaw,
    /// The header that has it.
    name: Option<Name>,
    answer: Option<Box<Response>>,
}

impl Malformed {
    /// What is wrong with it.
    #[must_use]
    pub fn flaw(&self) -> Flaw {
        self.flaw
    }

    /// The status of its answer, where it gets one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|answer| answer.status)
    }

    /// Its answer: `None` when it is not SIP, is never answered, or says too little of where an answer would belong.
    #[must_use]
    pub fn response(&self) -> Option<Response> {
        self.answer.as_deref().cloned()
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) if !self.flaw.words().starts_with(name.as_str()) => write!(f, "{name}: {}", self.flaw),
            _ => self.flaw.fmt(f),
        }
    }
}

impl core::error::Error for Malformed {}

/// What stands in front of a body.
#[derive(Debug)]
pub(crate) struct Head {
    start: Start,
    headers: Headers,
    /// The first thing that is wrong with the header lines.
    flaw: Option<Flaw>,
}

#[derive(Debug)]
enum Start {
    Request {
        method: Method,
        uri: Result<Uri, (u16, Flaw)>,
    },
    Response {
        status: u16,
        reason: String,
    },
    /// Not SIP.
    Strange,
}

impl Head {
    /// The head, and what follows it.
    pub(crate) fn read(bytes: &[u8]) -> (Self, &[u8]) {
        let mut rest = skip_breaks(bytes);
        let start = next_line(&mut rest).map_or(Start::Strange, Start::read);
        let mut head = Self { start, headers: Headers::default(), flaw: None };
        if !matches!(head.start, Start::Strange) {
            head.read_headers(&mut rest);
        }
        (head, rest)
    }

    /// How long the body is said to be.
    pub(crate) fn content_length(&self) -> Result<Option<usize>, Flaw> {
        let mut lines = self.headers.all(&Name::ContentLength);
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(Flaw("Content-Length is there twice"));
        }
        let len = header::number(line).ok_or(Flaw("Content-Length is no number"))?;
        Ok(Some(len as usize))
    }

    /// The refusal of the message that it is the head of, for what stands in a header or elsewhere.
    pub(crate) fn refuse(&self, status: u16, name: Option<Name>, flaw: Flaw) -> Malformed {
        let mut malformed = Malformed { flaw, name, answer: None };
        let is_answered = match &self.start {
            Start::Request { method, .. } => *method != Method::Ack,
            Start::Response { .. } | Start::Strange => false,
        };
        let headers = tie(&self.headers);
        // By these two a client knows whose answer it is (RFC 3261 17.1.3). The rest may be missing: RFC 4475 3.3.1.
        let finds_back =
            headers.list(&Name::Via).next().is_some_and(leads_somewhere) && headers.get(&Name::CSeq).is_some();
        if is_answered && finds_back {
            let reason = malformed.to_string();
            malformed.answer = Some(Box::new(Response { status, reason, headers, body: vec![] }));
        }
        malformed
    }

    /// The whole of it.
    fn message(mut self, body: Result<&[u8], Flaw>) -> Result<Message, Malformed> {
        let body = match self.check().and(body.map_err(|flaw| (400, None, flaw))) {
            Ok(body) => body.to_vec(),
            Err((status, name, flaw)) => return Err(self.refuse(status, name, flaw)),
        };
        self.headers.remove(&Name::ContentLength);
        let headers = self.headers;
        match self.start {
            Start::Request { method, uri: Ok(uri) } => Ok(Request { method, uri, headers, body }.into()),
            Start::Response { status, reason } => Ok(Response { status, reason, headers, body }.into()),
            // It did not pass the check.
            Start::Request { .. } | Start::Strange => Err(Malformed { flaw: NOT_SIP, name: None, answer: None }),
        }
    }

    /// All that is read later can be read, and says the same everywhere.
    fn check(&self) -> Result<(), Wrong> {
        match &self.start {
            Start::Request { uri: Err((status, flaw)), .. } => return Err((*status, None, *flaw)),
            Start::Strange => return Err((400, None, NOT_SIP)),
            Start::Request { .. } | Start::Response { .. } => {}
        }
        if let Some(flaw) = self.flaw {
            return Err((400, None, flaw));
        }
        self.check_headers().map_err(|(name, flaw)| (400, Some(name), flaw))?;
        if let (Start::Request { method, .. }, Ok(cseq)) = (&self.start, self.headers.cseq())
            && cseq.method != *method
        {
            // RFC 3261 8.1.1.5; RFC 4475 3.1.2.18
            let status = if matches!(method, Method::Other(_)) { 501 } else { 400 };
            return Err((status, Some(Name::CSeq), Flaw("CSeq is of another method")));
        }
        Ok(())
    }

    fn check_headers(&self) -> Result<(), (Name, Flaw)> {
        let headers = &self.headers;
        for name in ONCE {
            if headers.all(&name).nth(1).is_some() {
                return Err((name, Flaw("it is there twice")));
            }
        }
        if headers.list(&Name::Via).next().is_none() {
            return Err((Name::Via, Flaw("Via is missing")));
        }
        for via in headers.list(&Name::Via) {
            via.parse::<Via>().map_err(|flaw| (Name::Via, flaw))?;
        }
        headers.from().map_err(|flaw| (Name::From, flaw))?;
        headers.to().map_err(|flaw| (Name::To, flaw))?;
        match headers.call_id() {
            None | Some("") => return Err((Name::CallId, Flaw("Call-ID is missing"))),
            Some(id) if id.contains(char::is_whitespace) => return Err((Name::CallId, Flaw("Call-ID has a space"))),
            Some(_) => {}
        }
        headers.cseq().map_err(|flaw| (Name::CSeq, flaw))?;
        if headers.get(&Name::MaxForwards).is_some() && headers.max_forwards().is_none() {
            return Err((Name::MaxForwards, Flaw("Max-Forwards is no number below 256")));
        }
        for name in [Name::Contact, Name::Route, Name::RecordRoute] {
            for value in headers.list(&name).filter(|value| *value != "*") {
                value.parse::<NameAddr>().map_err(|flaw| (name.clone(), flaw))?;
            }
        }
        Ok(())
    }

    fn read_headers(&mut self, rest: &mut &[u8]) {
        let mut flaw = None;
        loop {
            let Some(line) = next_line(rest) else {
                flaw = flaw.or(Some(Flaw("no empty line ends the headers")));
                break;
            };
            if line.is_empty() {
                break;
            }
            let mut line = line.to_vec();
            // RFC 3261 7.3.1: a line that begins with a space goes on with the one before.
            while rest.first().is_some_and(|first| b" \t".contains(first)) {
                let Some(more) = next_line(rest) else { break };
                line.truncate(line.trim_ascii_end().len());
                line.push(b' ');
                line.extend(more.trim_ascii());
            }
            // Those that came are still good enough to answer with.
            if let Err(first) = self.read_header(&line) {
                flaw = flaw.or(Some(first));
            }
        }
        self.flaw = flaw;
    }

    fn read_header(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Flaw("header line has no colon"))?;
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        if self.headers.len() == MAX_HEADERS {
            return Err(Flaw("too many headers"));
        }
        if name.len() > MAX_NAME || value.len() > MAX_VALUE {
            return Err(Flaw("header is too long"));
        }
        let name = str::from_utf8(name).ok().filter(|name| is_token(name)).ok_or(Flaw("header name is no word"))?;
        if has_control(value) {
            return Err(Flaw("header has a control character"));
        }
        // What is not UTF-8 is somebody's name in Latin-1; the call is worth more than its spelling.
        let value = String::from_utf8_lossy(value);
        if value.len() > MAX_VALUE {
            return Err(Flaw("header is too long"));
        }
        self.headers.push(name.into(), value);
        Ok(())
    }
}

impl Start {
    fn read(line: &[u8]) -> Self {
        let Ok(line) = str::from_utf8(line) else { return Self::Strange };
        if let Some(rest) = strip_version(line, "SIP/2.0 ") {
            let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let is_status = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
            return match status.parse() {
                Ok(status @ 100..700) if is_status && !reason.contains(char::is_control) => {
                    Self::Response { status, reason: reason.trim().to_owned() }
                }
                _ => Self::Strange,
            };
        }
        // With a version at its end it means to be a request, whatever else is wrong with it.
        let trimmed = line.trim_end();
        let Some((method, rest)) = trimmed.split_once(' ') else { return Self::Strange };
        let Some((uri, version)) = rest.rsplit_once(' ') else { return Self::Strange };
        let (Ok(method), Some(_)) = (method.parse(), strip_version(version, "SIP/")) else { return Self::Strange };
        let uri = if !version.eq_ignore_ascii_case("SIP/2.0") {
            Err((505, Flaw(phrase(505))))
        } else if trimmed.len() < line.len() {
            Err((400, Flaw("request line ends in a space")))
        } else {
            read_uri(uri)
        };
        Self::Request { method, uri }
    }
}

fn read_uri(text: &str) -> Result<Uri, (u16, Flaw)> {
    if text.len() > MAX_URI {
        return Err((414, Flaw(phrase(414))));
    }
    if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return Err((400, Flaw("request line has more than one space between its parts")));
    }
    let uri: Uri = text.parse().map_err(|flaw| (400, flaw))?;
    if matches!(uri.scheme, Scheme::Other(_)) {
        return Err((416, Flaw(phrase(416))));
    }
    // RFC 3261 19.1.1, table 1
    if uri.headers.is_empty() { Ok(uri) } else { Err((400, Flaw("Request-URI has headers"))) }
}

/// What follows the version; its case counts for nothing (RFC 3261 7.1).
fn strip_version<'t>(text: &'t str, version: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(version.len())?;
    start.eq_ignore_ascii_case(version).then_some(rest)
}

/// An answer with this Via would find somebody, though we may not be able to read it in full.
fn leads_somewhere(via: &str) -> bool {
    let mut parts = via.splitn(3, '/');
    parts.next().is_some_and(|name| name.trim().eq_ignore_ascii_case("SIP")) && parts.nth(1).is_some()
}

/// Nothing that a terminal obeys gets in, but for what a quoted string may have behind a backslash (RFC 3261 25.1).
fn has_control(value: &[u8]) -> bool {
    let mut is_escaped = false;
    value.iter().any(|byte| {
        let is_wrong = match byte {
            b'\t' => false,
            b'\r' => true,
            byte => byte.is_ascii_control() && !is_escaped,
        };
        is_escaped = *byte == b'\\' && !is_escaped;
        is_wrong
    })
}

/// RFC 3261 7.5: line breaks in front of a start line count for nothing.
pub(crate) fn skip_breaks(bytes: &[u8]) -> &[u8] {
    let breaks = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    &bytes[breaks..]
}

/// Takes a line off, without its break; a mere LF ends one, too. `None` where none ends.
fn next_line<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = rest.split_at(end);
    *rest = &after[1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// What is wrong: the status that it is answered by, the header that it stands in, the flaw.
type Wrong = (u16, Option<Name>, Flaw);

const NOT_SIP: Flaw = Flaw("not SIP");

/// Headers that come once (RFC 4475 3.3.8).
const ONCE: [Name; 7] =
    [Name::From, Name::To, Name::CallId, Name::CSeq, Name::MaxForwards, Name::ContentType, Name::ContentLength];

const _: () = assert!(MAX_DATAGRAM <= MAX_MESSAGE && MAX_VALUE < MAX_DATAGRAM);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_sip_is_dropped() {
        for bytes in [
            &b""[..],
            b"\0\0\0\0",
            b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"INVITE sip:a@example.com\r\n\r\n",
            b"SIP/2.0 99 Low\r\n\r\n",
            b"SIP/2.0 700 High\r\n\r\n",
            b"SIP/2.0 20 Short\r\n\r\n",
            b"SIP/3.0 200 OK\r\n\r\n",
        ] {
            let dropped = parse(bytes).expect_err("no message");
            assert_eq!(dropped.response(), None, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_broken_request_is_answered_with_what_ties_the_answer_to_it() {
        let refused = parse(&request("INVITE", "Max-Forwards: many\r\n")).expect_err("broken");
        let mut out = vec![];
        refused.response().expect("an answer").write(&mut out);
        let answer = "SIP/2.0 400 Max-Forwards is no number below 256\r\n\
            Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n\
            From: <sip:a@example.com>;tag=1\r\n\
            To: <sip:b@example.com>\r\n\
            Call-ID: c\r\n\
            CSeq: 1 INVITE\r\n\
            Content-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), answer);
    }

    #[test]
    fn neither_an_ack_nor_a_response_is_answered() {
        let refused = parse(&request("ACK", "Max-Forwards: many\r\n")).expect_err("broken");
        assert_eq!((refused.flaw().words(), refused.status()), ("Max-Forwards is no number below 256", None));
        let request = String::from_utf8(request("INVITE", "Max-Forwards: many\r\n")).expect("text");
        let response = request.replace("INVITE sip:b@example.com SIP/2.0", "SIP/2.0 200 OK");
        let refused = parse(response.as_bytes()).expect_err("broken");
        assert_eq!((refused.flaw().words(), refused.status()), ("Max-Forwards is no number below 256", None));
    }

    #[test]
    fn without_via_or_cseq_nobody_would_know_whose_answer_it_is() {
        let whole = String::from_utf8(request("INVITE", "Max-Forwards: many\r\n")).expect("text");
        for line in ["Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n", "CSeq: 1 INVITE\r\n"] {
            assert!(whole.contains(line));
            let refused = parse(whole.replace(line, "").as_bytes()).expect_err("broken");
            assert_eq!(refused.response(), None);
        }
    }

    #[test]
    fn limits_hold_before_anything_is_kept() {
        let status = |bytes: &[u8]| parse(bytes).map_err(|malformed| malformed.status());
        let fits = |extra: &str| status(&request("OPTIONS", extra)).is_ok();
        let value = |len: usize| format!("Subject: {}\r\n", "s".repeat(len));
        assert!(fits(&value(MAX_VALUE)));
        assert_eq!(status(&request("OPTIONS", &value(MAX_VALUE + 1))), Err(Some(400)));
        assert!(fits(&format!("{}: 1\r\n", "n".repeat(MAX_NAME))));
        assert_eq!(status(&request("OPTIONS", &format!("{}: 1\r\n", "n".repeat(MAX_NAME + 1)))), Err(Some(400)));
        assert!(fits(&"A: 1\r\n".repeat(MAX_HEADERS - 6)));
        assert_eq!(status(&request("OPTIONS", &"A: 1\r\n".repeat(MAX_HEADERS - 5))), Err(Some(400)));

        // A body that makes it as long as it may be, and one byte more.
        let mut datagram = request("OPTIONS", "");
        datagram.resize(MAX_DATAGRAM, b' ');
        assert!(status(&datagram).is_ok());
        datagram.push(b' ');
        assert_eq!(status(&datagram), Err(Some(513)));
        datagram.resize(65_535, b' ');
        assert_eq!(status(&datagram), Err(Some(513)));

        let long = format!("OPTIONS sip:{}@example.com", "u".repeat(MAX_URI));
        let long = String::from_utf8_lossy(&request("OPTIONS", "")).replace("OPTIONS sip:b@example.com", &long);
        assert_eq!(status(long.as_bytes()), Err(Some(414)));
    }

    #[test]
    fn a_name_in_latin_1_costs_its_spelling_and_not_the_call() {
        let bytes = request("INVITE", "Subject: x\r\n");
        let at = bytes.windows(3).position(|three| three == b": x").expect("the subject");
        let bytes = [&bytes[..at], b": Caf\xe9", &bytes[at + 3..]].concat();
        let Ok(Message::Request(invite)) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        assert_eq!(invite.headers.get(&Name::Subject), Some("Caf\u{fffd}"));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_in() {
        for (subject, is_fine) in [
            ("tab\there", true),
            ("\"\\\x1b\"", true),
            ("\x1b[2J", false),
            ("\\\\\x1b", false),
            ("half\ra break", false),
            ("\\\rx", false),
            ("nul\0", false),
        ] {
            let bytes = request("INVITE", &format!("Subject: {subject}\r\n"));
            assert_eq!(parse(&bytes).is_ok(), is_fine, "{subject:?}");
        }
    }

    #[test]
    fn line_breaks_in_front_and_mere_line_feeds_do_no_harm() {
        let bytes = [b"\r\n\r\n", &request("OPTIONS", "")[..]].concat();
        let feeds: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\r').collect();
        assert_eq!(parse(&bytes), parse(&feeds));
        assert!(parse(&bytes).is_ok());
    }

    #[test]
    fn a_head_without_an_end_is_refused() {
        let bytes = request("OPTIONS", "");
        let refused = parse(&bytes[..bytes.len() - 2]).expect_err("cut");
        assert_eq!((refused.flaw().words(), refused.status()), ("no empty line ends the headers", Some(400)));
    }

    fn request(method: &str, extra: &str) -> Vec<u8> {
        let head = format!(
            "{method} sip:b@example.com SIP/2.0\r\n\
            Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n\
            From: <sip:a@example.com>;tag=1\r\n\
            To: <sip:b@example.com>\r\n\
            Call-ID: c\r\n\
            CSeq: 1 {method}\r\n\
            Contact: <sip:a@192.0.2.1>\r\n\
            {extra}\r\n"
        );
        head.into_bytes()
    }
}
