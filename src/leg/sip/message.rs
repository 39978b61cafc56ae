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
