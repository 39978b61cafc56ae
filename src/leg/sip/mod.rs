//! The SIP line (RFC 3261): Trunkline as an extension or as a trunk of a PBX.
//!
//! ```text
//!   datagram, stream --> parse --> Request, Response --> what a line makes of them
//!                          |                                       |
//!                          +--> Malformed, with its answer         +--> write --> datagram, stream
//! ```
//!
//! All of it is pure and runs on the control thread, so it may use the heap; whatever a peer can make grow has a limit
//! that is checked before it is read.

pub mod admission;
pub mod connection;
pub mod dial_plan;
pub mod dialog;
pub mod digest;
pub mod field;
pub mod flow;
pub mod header;
pub mod leg;
pub mod line;
pub mod message;
mod oversize;
pub mod parse;
pub mod random;
pub mod registration;
pub mod resolve;
pub mod sdp;
pub mod session_timer;
pub mod stream;
#[cfg(test)]
mod torture;
pub mod transaction;
pub mod transport;
pub mod uri;

use core::fmt;

pub use self::{
    field::{Headers, Name},
    flow::{Flow, Transport},
    header::{CSeq, NameAddr, Params, RAck, Via},
    message::{Message, Method, Request, Response},
    parse::{Malformed, parse},
    stream::{Item, Splitter},
    uri::{Scheme, Uri},
};

/// The longest datagram that is read. PBXs stay below 4 KiB, and what is longer than one packet should have come by a
/// stream (RFC 3261 18.1.1).
pub const MAX_DATAGRAM: usize = 8 * 1024;

/// The longest message that is read from a stream.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// The most header lines of a message.
pub const MAX_HEADERS: usize = 128;

/// The longest header name.
pub const MAX_NAME: usize = 1024;

/// The longest value of a header line, unfolded.
pub const MAX_VALUE: usize = 4 * 1024;

/// The longest Request-URI.
pub const MAX_URI: usize = 1024;

/// What makes a part of a message unreadable, in the words that its sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaw(pub(crate) &'static str);

impl Flaw {
    /// The words.
    #[must_use]
    pub fn words(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Flaw {}

/// The usual reason phrase of a status (RFC 3261 21 and the RFCs that added to it).
#[must_use]
pub fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => match status / 100 {
            1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}

/// A character of a token (RFC 3261 25.1).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// A word that needs no quotes.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}
