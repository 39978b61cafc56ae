//! Session descriptions: the one audio line of a call, offered and answered (RFC 3264, RFC 8866).
//!
//! A peer's description is read into an [`Offer`], ours is kept in a [`Local`]. What we send is written anew each time,
//! from what we are and what was agreed: nothing that a peer wrote goes back to it but the kind of a line that we
//! refuse. So a hold is never answered with what was true before it.
//!
//! ```text
//!  INVITE with an offer:      Offer::parse -> Local::answer -> 200         Media
//!  INVITE without:            Local::offer -> 200, ACK -> Local::read_answer -> Media
//!  a call of ours:            Local::offer -> INVITE, 183 or 200 -> Local::read_answer -> Media
//!  refresh, hold of ours:     Local::offer_again -> re-INVITE
//! ```

use core::fmt;
use std::net::SocketAddr;

use crate::media::codec::Codec;

mod local;
mod offer;
#[cfg(test)]
mod samples;

pub use self::{local::Local, offer::Offer};

/// Which way audio flows, seen from whoever says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// Away from the speaker only.
    SendOnly,
    /// Towards the speaker only.
    RecvOnly,
    /// Neither way.
    Inactive,
}

impl Direction {
    const ALL: [Self; 4] = [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive];

    const fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }

    /// Whether the speaker sends.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the speaker takes what it is sent.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The same seen from the other end, as far as that one allows it.
    const fn answered_by(self, other: Self) -> Self {
        Self::of(self.receives() && other.sends(), self.sends() && other.receives())
    }

    const fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }
}

/// What two descriptions agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Where our RTP goes. `None`: on hold by `c=0.0.0.0`, or at a name or a group, so that only what arrives tells.
    pub addr: Option<SocketAddr>,
    /// Where our RTCP goes.
    pub rtcp_addr: Option<SocketAddr>,
    /// RTCP comes and goes on the port of RTP (RFC 5761).
    pub rtcp_mux: bool,
    /// The peer holds us: it takes no audio for now.
    pub hold: bool,
    /// What we do from now on.
    pub direction: Direction,
    /// What the audio is.
    pub codec: Negotiated,
}

/// The codec that was agreed, and its numbers. They differ by direction only when the peer answers an offer of ours by
/// numbers of its own (RFC 3264 5.1: each end sends by the numbers of the other).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// What both can.
    pub codec: Codec,
    /// What our packets carry.
    pub payload_type: u8,
    /// What the peer's packets carry.
    pub receive_payload_type: u8,
    /// Milliseconds in a packet that the peer would like to be sent: whole tens from 10 to 60.
    pub ptime_ms: u8,
    /// Digits that we send, if the peer takes any (RFC 4733). Their clock is the codec's.
    pub dtmf_payload_type: Option<u8>,
    /// Digits that the peer sends.
    pub receive_dtmf_payload_type: Option<u8>,
}

/// A body that is no description we could answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It does not start as one.
    NotSdp,
    /// It is longer than [`MAX_BYTES`].
    TooLong,
    /// It has more than [`MAX_LINES`] media lines, and an answer would need as many.
    TooManyLines,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSdp => f.write_str("the body is no session description"),
            Self::TooLong => write!(f, "the session description is longer than {MAX_BYTES} bytes"),
            Self::TooManyLines => write!(f, "the session description has more than {MAX_LINES} media lines"),
        }
    }
}

impl core::error::Error for Malformed {}

/// Why there is nothing to agree on: 488 to an offer, the end of a call for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCodec {
    /// No audio line, or none that is open.
    NoAudio,
    /// Audio by this transport only, mostly an encrypted one.
    Transport(String),
    /// Plain audio, but only in these codecs.
    Codecs(String),
}

impl fmt::Display for NoCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAudio => f.write_str("the peer has no open audio line"),
            Self::Transport(offered) => write!(f, "the peer wants audio by {offered}, which is not RTP/AVP"),
            Self::Codecs(offered) => write!(f, "no codec in common: the peer has {offered}"),
        }
    }
}

impl core::error::Error for NoCodec {}

/// A description of this many bytes is read, a longer one is not. A browser's with three media lines takes 6 KiB; a PBX
/// stays below 2.
pub const MAX_BYTES: usize = 8 << 10;

/// Media lines of one description; a browser in a meeting has the most, about ten.
pub const MAX_LINES: usize = 16;

/// Formats of one media line that are looked at. FreeSWITCH with every codec offers about 30.
const MAX_FORMATS: usize = 64;
