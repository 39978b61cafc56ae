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
    let Some(within) = datagram.get(..MAX_DATAGRAM.min(datagram.len())) else {
        return Err(Malformed::dropped("empty"));
    };
    let (head, rest) = Head::read(within);
    if datagram.len() > MAX_DATAGRAM {
        return Err(head.refuse(513, Flaw(phrase(513))));
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    flaw: Flaw,
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

    fn dropped(words: &'static str) -> Self {
        Self { flaw: Flaw(words), answer: None }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flaw.fmt(f)
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
        method: Option<Method>,
        uri: Result<Uri, (u16, Flaw)>,
    },
    Response {
        status: Option<u16>,
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

    /// The refusal of the message that it is the head of.
    pub(crate) fn refuse(&self, status: u16, flaw: Flaw) -> Malformed {
        let is_answered = match &self.start {
            Start::Request { method, .. } => *method != Some(Method::Ack),
            Start::Response { .. } | Start::Strange => false,
        };
        // By these two a client knows whose answer it is (RFC 3261 17.1.3). The rest may be missing: RFC 4475 3.3.1.
        let headers = tie(&self.headers);
        if !is_answered
            || !headers.list(&Name::Via).next().is_some_and(leads_somewhere)
            || headers.get(&Name::CSeq).is_none()
        {
            return Malformed { flaw, answer: None };
        }
        let response = Response { status, reason: flaw.words().to_owned(), headers, body: vec![] };
        Malformed { flaw, answer: Some(Box::new(response)) }
    }

    /// The whole of it.
    fn message(mut self, body: Result<&[u8], Flaw>) -> Result<Message, Malformed> {
        if let Start::Request { uri: Err((status, flaw)), .. } = &self.start {
            return Err(self.refuse(*status, *flaw));
        }
        let checked = self.flaw.map_or(Ok(()), Err).and_then(|()| self.check());
        let (checked, body) = (checked, body.map(<[u8]>::to_vec));
        let (flaw, body) = match (checked, body) {
            (Ok(()), Ok(body)) => (None, body),
            (Err(flaw), _) | (_, Err(flaw)) => (Some(flaw), vec![]),
        };
        if let Some(flaw) = flaw {
            return Err(self.refuse(400, flaw));
        }
        if let Err((status, flaw)) = self.check_method() {
            return Err(self.refuse(status, flaw));
        }
        self.headers.remove(&Name::ContentLength);
        match self.start {
            Start::Request { method: Some(method), uri: Ok(uri) } => {
                Ok(Message::Request(Request { method, uri, headers: self.headers, body }))
            }
            Start::Response { status: Some(status), reason } => {
                Ok(Message::Response(Response { status, reason, headers: self.headers, body }))
            }
            Start::Response { status: None, .. } => Err(Malformed::dropped("status is not between 100 and 699")),
            Start::Request { .. } | Start::Strange => Err(Malformed::dropped("not SIP")),
        }
    }

    /// What everybody reads later can be read.
    fn check(&self) -> Result<(), Flaw> {
        let headers = &self.headers;
        for (name, words) in ONCE {
            if headers.all(&name).nth(1).is_some() {
                return Err(Flaw(words));
            }
        }
        if headers.list(&Name::Via).next().is_none() {
            return Err(Flaw("Via is missing"));
        }
        headers.list(&Name::Via).try_for_each(|via| via.parse::<Via>().map(drop))?;
        headers.from()?;
        headers.to()?;
        match headers.call_id() {
            None | Some("") => return Err(Flaw("Call-ID is missing")),
            Some(id) if id.contains(char::is_whitespace) => return Err(Flaw("Call-ID has a space")),
            Some(_) => {}
        }
        headers.cseq()?;
        if headers.get(&Name::MaxForwards).is_some() && headers.max_forwards().is_none() {
            return Err(Flaw("Max-Forwards is no number below 256"));
        }
        for name in [Name::Contact, Name::Route, Name::RecordRoute] {
            for value in headers.list(&name).filter(|value| *value != "*") {
                value.parse::<NameAddr>()?;
            }
        }
        Ok(())
    }

    /// The start line and CSeq say the same (RFC 3261 8.1.1.5).
    fn check_method(&self) -> Result<(), (u16, Flaw)> {
        let Start::Request { method: Some(method), .. } = &self.start else { return Ok(()) };
        let cseq = self.headers.cseq().map_err(|flaw| (400, flaw))?;
        if cseq.method == *method {
            return Ok(());
        }
        // RFC 4475 3.1.2.18
        let status = if matches!(method, Method::Other(_)) { 501 } else { 400 };
        Err((status, Flaw("CSeq is of another method")))
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
        if value.contains(&b'\r') {
            return Err(Flaw("header has half a line break"));
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
            let status = is_status.then(|| status.parse().ok()).flatten().filter(|status| (100..700).contains(status));
            return Self::Response { status, reason: reason.trim().to_owned() };
        }
        // With a version at the end it means to be a request, whatever else is wrong with it.
        let Some((method, rest)) = line.trim_end().split_once(' ') else { return Self::Strange };
        let Some((uri, version)) = rest.rsplit_once(' ') else { return Self::Strange };
        if strip_version(version, "SIP/").is_none() || !is_token(method) {
            return Self::Strange;
        }
        let uri = if !version.eq_ignore_ascii_case("SIP/2.0") {
            Err((505, Flaw(phrase(505))))
        } else if line.ends_with([' ', '\t']) {
            Err((400, Flaw("request line ends in a space")))
        } else {
            read_uri(uri)
        };
        Self::Request { method: method.parse().ok(), uri }
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

/// Headers that come once (RFC 4475 3.3.8), and what their sender is told.
const ONCE: [(Name, &str); 7] = [
    (Name::From, "From is there twice"),
    (Name::To, "To is there twice"),
    (Name::CallId, "Call-ID is there twice"),
    (Name::CSeq, "CSeq is there twice"),
    (Name::MaxForwards, "Max-Forwards is there twice"),
    (Name::ContentType, "Content-Type is there twice"),
    (Name::ContentLength, "Content-Length is there twice"),
];

const _: () = assert!(MAX_DATAGRAM <= MAX_MESSAGE && MAX_VALUE < MAX_DATAGRAM);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::sip::{Item, Splitter};

    #[test]
    fn the_invite_of_asterisk_is_read() {
        let Ok(Message::Request(invite)) = parse(ASTERISK) else { panic!("{:?}", parse(ASTERISK)) };
        assert_eq!(invite.method, Method::Invite);
        assert_eq!(invite.uri.to_string(), "sip:trunkline@192.0.2.10:5080");
        assert_eq!(invite.via().map(|via| via.branch().map(str::to_owned)), Ok(Some("z9hG4bKPj4a1b".to_owned())));
        assert_eq!(
            invite.from().map(|from| (from.display, from.uri.user)),
            Ok((Some("Reception, 1st".into()), Some("6001".into())))
        );
        assert_eq!(invite.body, b"v=0\r\n");
        let answer = invite.answer(180);
        let mut out = vec![];
        answer.write(&mut out);
        assert_eq!(parse(&out), Ok(Message::Response(answer)));
        let mut out = vec![];
        invite.write(&mut out);
        assert_eq!(parse(&out), Ok(invite.into()));
        let mut splitter = Splitter::new();
        let mut items = vec![];
        for byte in [b"\r\n\r\n", ASTERISK, b"\r\n", ASTERISK].concat() {
            assert_eq!(splitter.feed(&[byte]), 1);
            items.extend(core::iter::from_fn(|| splitter.poll()));
        }
        assert!(matches!(&items[..], [Item::Ping, Item::Message(a), Item::Message(b)] if a == b), "{items:?}");
    }

    const ASTERISK: &[u8] = b"INVITE sip:trunkline@192.0.2.10:5080 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKPj4a1b\r\n\
        From: \"Reception, 1st\" <sip:6001@192.0.2.1>;tag=ab\r\n\
        To: <sip:trunkline@192.0.2.10>\r\n\
        Contact: <sip:asterisk@192.0.2.1:5060>\r\n\
        Call-ID: 5f0c\r\n\
        CSeq: 7613 INVITE\r\n\
        Content-Type: application/sdp\r\n\
        Content-Length: 5\r\n\r\nv=0\r\n";
}
