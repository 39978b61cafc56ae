//! `[line.NAME]` of the kind `sip`: which PBX brings calls, how they sound, and who may be called through it.
//!
//! Either we are an extension of a PBX (`register`), or its trunk (`allow`). Who is neither the registrar nor allowed gets
//! no answer at all, so a scanner does not learn that somebody is there. Nobody is called that no pattern of the dial plan
//! allows.

use core::{fmt, net::IpAddr, net::SocketAddr, time::Duration};
use std::path::PathBuf;

use crate::{
    config::{Cidr, Pair, Secret, is_loopback},
    leg::sip::{dial_plan::DialPlan, flow::Transport},
    media::{Rate, codec::Codec},
};

mod read;
mod uri;

pub(super) use self::read::{KEYS, check_ports};
pub use self::uri::SipUri;

/// A line to a PBX that speaks SIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipLine {
    /// Where UDP and TCP listen; the audio has the same address. Port 0 is any free one.
    pub listen: SocketAddr,
    /// UDP is spoken.
    pub udp: bool,
    /// TCP is listened for. Connections to a registrar that asks for TCP are made all the same.
    pub tcp: bool,
    /// TLS is listened for; `None`: it is not. Connections to a registrar that asks for TLS are made all the same.
    pub tls: Option<TlsListen>,
    /// Certificates to trust beside the platform's, for TLS. The file held at least one at the start.
    pub ca_file: Option<PathBuf>,
    /// What Contact, Via and SDP name in place of the address of `listen`.
    pub advertise: Option<IpAddr>,
    /// Who may bring calls beside the registrar. Empty, and no `register`: whoever can.
    pub allow: Vec<Cidr>,
    /// Where we register; `None`: nowhere.
    pub register: Option<Register>,
    /// How calls sound.
    pub audio: Audio,
    /// What the phone hears before a call is answered, or instead.
    pub ringing: Ringing,
    /// What happens while the caller is on hold.
    pub hold: Hold,
    /// How it is found out that a call's other end is gone (RFC 4028).
    pub session_timer: SessionTimer,
    /// What one source may ask for.
    pub intake: Intake,
    /// Who may be called; `None`: nobody.
    pub dial: Option<Dial>,
    /// Headers of an INVITE that are facts of the call for the agent, beside From, To, P-Asserted-Identity and Diversion.
    pub metadata_headers: Vec<String>,
    /// What we call ourselves in `User-Agent` and `Server`; `None`: nothing.
    pub user_agent: Option<String>,
}

/// Where TLS is listened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsListen {
    /// Port 0 is any free one.
    pub address: SocketAddr,
    /// What we show.
    pub pair: Pair,
}

/// `[line.NAME.register]`: the PBX that we are an extension of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Where we register. It has no user.
    pub registrar: SipUri,
    /// Where we register while the first does not take us.
    pub backup: Option<SipUri>,
    /// The user part of our address of record.
    pub user: String,
    /// The user of the digest.
    pub auth_user: String,
    /// The password of the digest; `None`: a registrar that asks for one is not answered.
    pub password: Option<Secret>,
    /// For how long we ask to be registered. The registrar may say otherwise.
    pub expires: Duration,
}

/// How calls sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio {
    /// In the order in which we like them; at least one, none twice.
    pub codecs: Vec<Codec>,
    /// The ports of RTP and RTCP.
    pub rtp_ports: PortRange,
    /// How keys come and go.
    pub dtmf: Dtmf,
    /// The agent does not learn which keys are pressed.
    pub mask_dtmf: bool,
    /// Audio may come from another address than the SDP names, and is answered there.
    pub nat: bool,
    /// The Differentiated Services code point of RTP, 0 to 63 (RFC 2474 3).
    pub dscp: u8,
    /// A call without RTP for so long is over, unless it is on hold; `None`: it may be silent for ever.
    pub timeout: Option<Duration>,
    /// The least delay that the jitter buffer aims at.
    pub jitter_min: Duration,
    /// The most delay that the jitter buffer aims at.
    pub jitter_max: Duration,
}

/// Ports for RTP, on even ones, and RTCP on the next (RFC 3550 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first, even or not.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// The even ports that have their odd neighbour here, too.
    pub fn pairs(self) -> impl Iterator<Item = u16> {
        let first = u32::from(self.first).next_multiple_of(2);
        (first..u32::from(self.last)).step_by(2).filter_map(|port| u16::try_from(port).ok())
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// How keys come and go. One way at a time, because a PBX that sends a key both ways would have pressed it twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtmf {
    /// In RTP where the PBX has `telephone-event`, else by INFO.
    #[default]
    Auto,
    /// In RTP only (RFC 4733).
    Rtp,
    /// By INFO only; `telephone-event` is not offered.
    Info,
}

impl Dtmf {
    const ALL: [(&'static str, Self); 3] = [("auto", Self::Auto), ("rfc4733", Self::Rtp), ("info", Self::Info)];
}

/// What the phone hears before a call is answered, or instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ringing {
    /// We make the tone ourselves, in early media (183); otherwise the phone or PBX does (180).
    pub tone: bool,
    /// For so long trunks are tried.
    pub limit: Duration,
    /// What the PBX is told when no trunk takes the call, unless there is a fallback.
    pub refuse_status: u16,
    /// Where the call goes (302) when no trunk takes it.
    pub fallback: Option<SipUri>,
}

/// What happens while the caller is on hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The agent is sent silence; otherwise it is sent nothing.
    pub silence: bool,
    /// A call that is on hold for so long is over; `None`: it may be held for ever.
    pub limit: Option<Duration>,
}

/// The session timer (RFC 4028).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    /// The `Session-Expires` that we ask for.
    pub expires: Duration,
    /// The `Min-SE` that we insist on.
    pub min: Duration,
}

/// What one source may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// INVITEs a second of one source, twice as many at once. What is more is told 503 with Retry-After.
    pub invites_per_second: u32,
    /// Answered calls whose ACK has not come; while there are so many, new calls are told 503.
    pub max_unacked: u32,
}

/// `[line.NAME.dial]`: who may be called through the PBX, and whom callers may be transferred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// What may be called; at least one pattern.
    pub plan: DialPlan,
    /// Through whom numbers are reached. It has no user.
    pub proxy: SipUri,
    /// The user part of From.
    pub from: String,
    /// The name that is shown beside it.
    pub display_name: Option<String>,
    /// Who does not answer for so long is not called any more, and a transferred caller is taken back.
    pub answer_timeout: Duration,
}

impl SipLine {
    /// Whether whoever reaches it may bring calls.
    #[must_use]
    pub fn takes_anyone(&self) -> bool {
        self.allow.is_empty() && self.register.is_none()
    }

    /// The address that the PBX is told to find us at.
    #[must_use]
    pub fn public_ip(&self) -> IpAddr {
        self.advertise.unwrap_or(self.listen.ip())
    }

    /// The highest rate that a call can have.
    pub(super) fn rate(&self) -> Rate {
        self.audio.codecs.iter().map(|codec| codec.rate()).max().unwrap_or(Rate::Hz8000)
    }

    /// Whether it could go on with the sockets of this one.
    #[must_use]
    pub fn has_the_sockets_of(&self, other: &Self) -> bool {
        let sockets = |line: &Self| (line.listen, line.udp, line.tcp, line.tls.clone());
        sockets(self) == sockets(other)
    }

    /// Whether somebody is to be reached by TLS.
    #[must_use]
    pub fn wants_trust(&self) -> bool {
        let register = self.register.iter().flat_map(|register| [Some(&register.registrar), register.backup.as_ref()]);
        let reached = register.flatten().chain(self.dial.iter().map(|dial| &dial.proxy));
        self.tls.is_some() || reached.map(SipUri::transport).any(|transport| transport == Transport::Tls)
    }

    /// What a firewall has to let in.
    pub(super) fn ports(&self) -> String {
        let Self { listen, audio, .. } = self;
        let mut ports = Vec::new();
        ports.extend(self.udp.then(|| format!("udp {listen}")));
        ports.extend(self.tcp.then(|| format!("tcp {listen}")));
        ports.extend(self.tls.as_ref().map(|tls| format!("tcp {} (tls)", tls.address)));
        format!("{} and udp {} for audio", ports.join(", "), audio.rtp_ports)
    }

    /// What is allowed but should not go unsaid.
    pub(super) fn warn(&self, name: &str, warnings: &mut Vec<String>) {
        let listen = self.listen;
        if self.takes_anyone() && !is_loopback(listen.ip()) {
            warnings.push(format!("[line.{name}] listen-anywhere: whoever reaches {listen} can place calls"));
        }
        for range in &self.allow {
            if range.prefix == 0 {
                warnings.push(format!("[line.{name}] allow: whoever reaches {listen} can place calls"));
            } else if is_internet(range.address) {
                warnings.push(format!("[line.{name}] allow: speech goes to {range} over the Internet in the clear"));
            }
        }
        if let Some(register) = &self.register {
            for (key, uri) in [("registrar", Some(&register.registrar)), ("backup-registrar", register.backup.as_ref())]
            {
                let Some(uri) = uri.filter(|uri| uri.ip().is_some_and(is_internet)) else { continue };
                let table = format!("[line.{name}.register] {key}");
                if uri.transport() == Transport::Tls {
                    warnings.push(format!("{table}: speech goes to {uri} over the Internet in the clear"));
                } else {
                    warnings.push(format!(
                        "{table}: calls go to {uri} over the Internet in the clear, and from a digest with MD5 the \
                         password can be guessed"
                    ));
                }
            }
        }
        for pattern in self.dial.iter().flat_map(|dial| dial.plan.patterns()).filter(|pattern| pattern.is_wide()) {
            warnings.push(format!("[line.{name}.dial] plan: `{pattern}` lets calls go to numbers at any price"));
        }
    }
}

/// Whether an address is in the Internet, as far as it tells (RFC 1918, RFC 4193, RFC 5737, RFC 6598).
fn is_internet(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || v4.is_unspecified()
                || is_shared)
        }
        IpAddr::V6(v6) => {
            let is_documentation = v6.segments()[0] == 0x2001 && v6.segments()[1] == 0xdb8;
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unique_local()
                || v6.is_unspecified()
                || is_documentation)
        }
    }
}
