//! A message: a request or a response, its headers and its body (RFC 3261 7).

use core::{fmt, net::SocketAddr, str::FromStr};

use crate::leg::sip::{CSeq, Flaw, Headers, Name, NameAddr, RAck, Uri, Via, is_token, phrase};

/// What peers say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// One asks.
    Request(Request),
    /// The other answers.
    Response(Response),
}

impl Message {
    /// Appends it as it goes out. Content-Length is written here, of the body that there is.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Request(request) => request.write(out),
            Self::Response(response) => response.write(out),
        }
    }

    /// The headers of either.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }
}

impl From<Request> for Message {
    fn from(request: Request) -> Self {
        Self::Request(request)
    }
}

impl From<Response> for Message {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// Of whom.
    pub uri: Uri,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, headers: Headers::default(), body: vec![] }
    }

    /// An answer to it, with the headers that tie the two together (RFC 3261 8.2.6.2) as the peer wrote them. The tag
    /// of To is left to whoever knows it: [`Headers::set_to_tag`].
    #[must_use]
    pub fn response(&self, status: u16, reason: &str) -> Response {
        let mut headers = tie(&self.headers);
        let makes_dialog = matches!(self.method, Method::Invite | Method::Subscribe | Method::Refer | Method::Notify);
        // RFC 3261 12.1.1
        if makes_dialog && (101..300).contains(&status) {
            self.headers.all(&Name::RecordRoute).for_each(|value| headers.push(Name::RecordRoute, value));
        }
        // RFC 3261 8.2.6.1
        if status == 100
            && let Some(timestamp) = self.headers.get(&Name::Timestamp)
        {
            headers.push(Name::Timestamp, timestamp);
        }
        Response { status, reason: reason.to_owned(), headers, body: vec![] }
    }

    /// An answer to it with the usual reason phrase.
    #[must_use]
    pub fn answer(&self, status: u16) -> Response {
        self.response(status, phrase(status))
    }

    /// Notes where it really came from: [`Headers::note_source`].
    pub fn note_source(&mut self, source: SocketAddr) {
        self.headers.note_source(source);
    }

    /// Appends it as it goes out.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(format!("{} {} SIP/2.0\r\n", self.method, self.uri).into_bytes());
        write_rest(&self.headers, &self.body, out);
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it went: 100 to 699.
    pub status: u16,
    /// The same in words.
    pub reason: String,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Appends it as it goes out.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend(
            format!("SIP/2.0 {} {}\r\n", self.status, self.reason.replace(['\r', '\n'], " ").trim()).into_bytes(),
        );
        write_rest(&self.headers, &self.body, out);
    }

    /// More is to come: 1xx.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.status < 200
    }

    /// It went well: 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The headers that tie an answer to its request.
pub(crate) fn tie(request: &Headers) -> Headers {
    let mut headers = Headers::default();
    for name in [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq] {
        request.all(&name).for_each(|value| headers.push(name.clone(), value));
    }
    headers
}

fn write_rest(headers: &Headers, body: &[u8], out: &mut Vec<u8>) {
    for (name, value) in headers.iter().filter(|(name, _)| **name != Name::ContentLength) {
        out.extend(name.as_str().as_bytes());
        out.extend(b": ");
        out.extend(value.as_bytes());
        out.extend(b"\r\n");
    }
    out.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
    out.extend(body);
}

macro_rules! reads {
    ($message:ident: $($name:ident -> $read:ty,)*) => {
        impl $message {
            $(
                #[doc = concat!("[`Headers::", stringify!($name), "`]")]
                #[allow(clippy::missing_errors_doc, reason = "said there")]
                pub fn $name(&self) -> $read {
                    self.headers.$name()
                }
            )*
        }
    };
    ($($message:ident)*) => {
        $(
            reads! {
                $message:
                via -> Result<Via, Flaw>,
                from -> Result<NameAddr, Flaw>,
                to -> Result<NameAddr, Flaw>,
                call_id -> Option<&str>,
                cseq -> Result<CSeq, Flaw>,
                contact -> Option<NameAddr>,
                max_forwards -> Option<u8>,
                expires -> Option<u32>,
                rack -> Result<RAck, Flaw>,
                content_type -> Option<&str>,
            }
        )*
    };
}

reads! { Request Response }

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A call, or a change of one.
    Invite,
    /// The answer to the INVITE was heard.
    Ack,
    /// The call is over.
    Bye,
    /// Never mind the INVITE.
    Cancel,
    /// Are you there?
    Options,
    /// Where I am.
    Register,
    /// A provisional response was heard (RFC 3262).
    Prack,
    /// A change that needs nobody to agree (RFC 3311).
    Update,
    /// Something within a call (RFC 6086).
    Info,
    /// Call somebody else (RFC 3515).
    Refer,
    /// Something happened (RFC 6665).
    Notify,
    /// Tell me when something happens (RFC 6665).
    Subscribe,
    /// Text (RFC 3428).
    Message,
    /// State to pass on (RFC 3903).
    Publish,
    /// One that we do not know.
    Other(String),
}

impl Method {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Options => "OPTIONS",
            Self::Register => "REGISTER",
            Self::Prack => "PRACK",
            Self::Update => "UPDATE",
            Self::Info => "INFO",
            Self::Refer => "REFER",
            Self::Notify => "NOTIFY",
            Self::Subscribe => "SUBSCRIBE",
            Self::Message => "MESSAGE",
            Self::Publish => "PUBLISH",
            Self::Other(method) => method,
        }
    }
}

impl FromStr for Method {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let known = [
            Self::Invite,
            Self::Ack,
            Self::Bye,
            Self::Cancel,
            Self::Options,
            Self::Register,
            Self::Prack,
            Self::Update,
            Self::Info,
            Self::Refer,
            Self::Notify,
            Self::Subscribe,
            Self::Message,
            Self::Publish,
        ];
        if let Some(method) = known.into_iter().find(|method| method.as_str() == text) {
            return Ok(method);
        }
        if is_token(text) { Ok(Self::Other(text.to_owned())) } else { Err(Flaw("method is no word")) }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::sip::{Scheme, parse};

    fn invite(bytes: &[u8]) -> Request {
        match parse(bytes) {
            Ok(Message::Request(request)) if request.method == Method::Invite => request,
            other => panic!("{other:?}"),
        }
    }

    fn written(message: impl Into<Message>) -> String {
        let mut out = vec![];
        message.into().write(&mut out);
        String::from_utf8(out).expect("text")
    }

    /// As Asterisk 20 sends it, with other addresses.
    #[test]
    fn the_invite_of_asterisk_is_read() {
        let invite = invite(include_bytes!("../../../tests/sip/peers/asterisk.sip"));
        assert_eq!(invite.uri.to_string(), "sip:trunkline@192.0.2.20:5080");
        let via = invite.via().expect("a Via");
        assert_eq!((via.host.as_str(), via.port, via.params.has("rport")), ("192.0.2.10", Some(5060), true));
        assert_eq!(via.branch(), Some("z9hG4bKPjac6a0a13-425d-4c85-b117-1d893768383b"));
        let from = invite.from().expect("a caller");
        assert_eq!((from.display.as_deref(), from.uri.user.as_deref()), (Some("Keller, Ruth"), Some("6001")));
        assert_eq!(from.tag(), Some("7e826d40-db17-4666-85e5-7a580b962429"));
        assert!(invite.headers.has_token(&Name::Supported, "100rel"));
        assert_eq!(invite.headers.number(&Name::SessionExpires), Some(1800));
        assert_eq!(invite.headers.get(&"x-queue".into()), Some("harbour"));
        let diversion: NameAddr = invite.headers.get(&Name::Diversion).and_then(|text| text.parse().ok()).expect("one");
        assert_eq!((diversion.uri.user.as_deref(), diversion.params.get("reason")), (Some("6009"), Some("no-answer")));
        assert_eq!((invite.content_type(), invite.max_forwards()), (Some("application/sdp"), Some(70)));
        assert!(invite.body.starts_with(b"v=0\r\n") && invite.body.ends_with(b"a=sendrecv\r\n"));
    }

    /// As FreeSWITCH 1.10 sends it to a gateway, with other addresses.
    #[test]
    fn the_invite_of_freeswitch_is_read() {
        let invite = invite(include_bytes!("../../../tests/sip/peers/freeswitch.sip"));
        assert_eq!(invite.uri.decoded_user().as_deref(), Some("gw+trunkline"));
        assert_eq!((invite.uri.transport(), invite.uri.params.get("gw")), (Some("udp"), Some("trunkline")));
        let contact = invite.contact().expect("a target");
        assert_eq!(contact.uri.to_string(), "sip:gw+trunkline@192.0.2.30:5080;transport=udp;gw=trunkline");
        assert_eq!(invite.via().map(|via| via.port), Ok(None));
        assert_eq!(invite.cseq(), Ok(CSeq { number: 25_244_563, method: Method::Invite }));
        let party: NameAddr = invite.headers.get(&Name::RemotePartyId).and_then(|text| text.parse().ok()).expect("one");
        assert_eq!((party.display.as_deref(), party.params.get("privacy")), (Some("Sales"), Some("off")));
    }

    /// Taken off the wire: sipp 3.6.1, its own `uac` scenario.
    #[test]
    fn the_invite_of_sipp_is_read() {
        let invite = invite(include_bytes!("../../../tests/sip/peers/sipp.sip"));
        let from = invite.from().expect("a caller");
        assert_eq!((from.display.as_deref(), from.tag()), (Some("sipp"), Some("17453SIPpTag001")));
        assert_eq!(
            invite.contact().map(|contact| contact.uri.to_string()),
            Some("sip:sipp@127.0.0.1:25071".to_owned())
        );
        assert_eq!((invite.call_id(), invite.body.len()), (Some("1-17453@127.0.0.1"), 129));
    }

    /// Taken off the wire: baresip 1.0.0.
    #[test]
    fn the_invite_of_baresip_is_read() {
        let invite = invite(include_bytes!("../../../tests/sip/peers/baresip.sip"));
        assert_eq!(invite.via().map(|via| via.params.has("rport")), Ok(true));
        let contact = invite.contact().expect("a target");
        assert_eq!(contact.uri.to_string(), "sip:6001-0x55e4d6193590@127.0.0.1:25072");
        assert_eq!(invite.headers.list(&Name::Allow).count(), 10);
        assert!(invite.headers.has_token(&Name::Allow, "REFER"));
    }

    /// As a Cisco CUCM sends it, through two proxies that write short, with other addresses.
    #[test]
    fn the_invite_of_cisco_through_two_proxies_is_read() {
        let invite = invite(include_bytes!("../../../tests/sip/peers/cisco.sip"));
        let vias: Vec<Via> = invite.headers.list(&Name::Via).filter_map(|via| via.parse().ok()).collect();
        let hops: Vec<_> = vias.iter().map(|via| (via.transport.as_str(), via.host.as_str())).collect();
        assert_eq!(hops, [("TCP", "192.0.2.5"), ("TLS", "203.0.113.9"), ("TCP", "198.51.100.13")]);
        assert_eq!((vias[0].params.get("i"), vias[1].received()), (Some("c"), Some("203.0.113.77")));
        let routes: Vec<NameAddr> =
            invite.headers.list(&Name::RecordRoute).filter_map(|one| one.parse().ok()).collect();
        let hosts: Vec<_> = routes.iter().map(|route| (route.uri.host.as_str(), route.uri.is_loose())).collect();
        assert_eq!(hosts, [("192.0.2.5", true), ("203.0.113.5", true), ("edge.example.net", true)]);
        let from = invite.from().expect("a caller");
        assert_eq!(from.display.as_deref(), Some("10048 - Armstrong, \"Clint\""));
        assert_eq!((from.uri.params.get("x-refci"), from.uri.params.has("x-nearend")), (Some("38960750"), true));
        let asserted: Vec<NameAddr> =
            invite.headers.list(&Name::PAssertedIdentity).filter_map(|one| one.parse().ok()).collect();
        assert_eq!((asserted[0].uri.user.as_deref(), &asserted[1].uri.scheme), (Some("10048"), &Scheme::Tel));
        let contact = invite.contact().expect("a target");
        let device = contact.params.unquoted("+u.sip!devicename.ccm.cisco.com");
        assert_eq!((contact.uri.transport(), device.as_deref()), (Some("tcp"), Some("SEP0041D2924D45")));
        assert_eq!((invite.headers.number(&Name::SessionExpires), invite.expires()), (Some(1800), Some(180)));
        assert!(invite.headers.has_token(&Name::Supported, "replaces"));
    }

    #[test]
    fn an_answer_is_tied_to_its_request_as_the_peer_wrote_it() {
        let mut invite = invite(include_bytes!("../../../tests/sip/peers/cisco.sip"));
        invite.note_source("192.0.2.5:33010".parse().expect("an address"));
        let mut ringing = invite.answer(180);
        ringing.headers.set_to_tag("t1");
        let text = written(ringing.clone());
        assert!(text.starts_with("SIP/2.0 180 Ringing\r\nVia: SIP/2.0/TCP 192.0.2.5:5060;branch="), "{text}");
        for name in [Name::Via, Name::From, Name::CallId, Name::CSeq, Name::RecordRoute] {
            assert!(ringing.headers.all(&name).eq(invite.headers.all(&name)), "{name}");
        }
        assert_eq!(ringing.headers.get(&Name::To), Some("<sip:7359@192.0.2.20>;tag=t1"));
        assert_eq!(parse(text.as_bytes()), Ok(ringing.into()));
        // A dialog is made by 101 to 299.
        for (status, has_route) in [(100, false), (183, true), (200, true), (486, false)] {
            assert_eq!(invite.answer(status).headers.get(&Name::RecordRoute).is_some(), has_route, "{status}");
        }
        assert_eq!(Request { method: Method::Bye, ..invite }.answer(200).headers.get(&Name::RecordRoute), None);
    }

    #[test]
    fn the_length_is_that_of_the_body_whatever_a_header_says() {
        let mut request = Request::new(Method::Options, Uri::sip("b", "192.0.2.1", None));
        request.headers.push(Name::ContentLength, "7");
        request.headers.push("l".into(), "8");
        request.body = b"text".to_vec();
        assert_eq!(written(request), "OPTIONS sip:b@192.0.2.1 SIP/2.0\r\nContent-Length: 4\r\n\r\ntext");
    }

    #[test]
    fn a_reason_phrase_cannot_end_its_line() {
        let request = Request::new(Method::Options, Uri::sip("b", "192.0.2.1", None));
        let answer = request.response(603, "No\r\nVia: x");
        assert_eq!(written(answer), "SIP/2.0 603 No  Via: x\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn methods_are_known_by_their_exact_case() {
        assert_eq!("INVITE".parse(), Ok(Method::Invite));
        assert_eq!("Invite".parse(), Ok(Method::Other("Invite".to_owned())));
        assert!("IN VITE".parse::<Method>().is_err() && "".parse::<Method>().is_err());
    }
}
