//! What a peer describes.
//!
//! Tolerant: a line that cannot be read is skipped, never the description. Only what an answer needs is kept, and no
//! more of it than the limits say, whatever comes.

use core::str;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{
    leg::sip::sdp::{Direction, MAX_BYTES, MAX_FORMATS, MAX_LINES, Malformed, NoCodec},
    media::codec::Codec,
};

/// A peer's description: an offer, or its answer to ours.
#[derive(Clone, Debug)]
pub struct Offer {
    /// `t=`, which an answer repeats (RFC 3264 6).
    pub(super) time: (u64, u64),
    pub(super) lines: Vec<Line>,
}

impl Offer {
    /// Reads a body of type `application/sdp`.
    ///
    /// # Errors
    /// It is no description, or past the limits.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > MAX_BYTES {
            return Err(Malformed::TooLong);
        }
        if !body.trim_ascii_start().starts_with(b"v=") {
            return Err(Malformed::NotSdp);
        }
        let mut offer = Self { time: (0, 0), lines: vec![] };
        let mut session = Line::default();
        for line in body.split(|byte| *byte == b'\n') {
            // `s=` and `i=` may be in any character set; those we read are ASCII.
            let Ok(line) = str::from_utf8(line.trim_ascii()) else { continue };
            let Some((kind, value)) = line.split_once('=') else { continue };
            match kind {
                "t" => offer.time = parse_time(value).unwrap_or(offer.time),
                "m" if offer.lines.len() == MAX_LINES => return Err(Malformed::TooManyLines),
                "m" => offer.lines.push(Line::open(value, &session)),
                "c" => offer.lines.last_mut().unwrap_or(&mut session).connection = Connection::parse(value),
                "a" => offer.lines.last_mut().unwrap_or(&mut session).on_attribute(value),
                _ => {}
            }
        }
        Ok(offer)
    }

    /// The first line that a call of ours can be on, and what `choose` took from it.
    pub(super) fn choose<T>(&self, choose: impl Fn(&Line) -> Option<T>) -> Result<(usize, &Line, T), NoCodec> {
        let mut refusal = NoCodec::NoAudio;
        for (at, line) in self.lines.iter().enumerate().filter(|(_, line)| line.is_open_audio()) {
            if !line.is_plain() {
                if refusal == NoCodec::NoAudio {
                    refusal = NoCodec::Transport(line.transport.clone());
                }
            } else if let Some(chosen) = choose(line) {
                return Ok((at, line, chosen));
            } else if !matches!(refusal, NoCodec::Codecs(_)) {
                refusal = NoCodec::Codecs(line.codecs());
            }
        }
        Err(refusal)
    }
}

/// A media line. The one in front of the first has what the session says for all.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// Three words that are written again when the line is refused, so they are tokens whatever came.
    pub(super) media: String,
    pub(super) transport: String,
    pub(super) first_format: String,
    port: u16,
    formats: Vec<Format>,
    connection: Connection,
    direction: Option<Direction>,
    ptime_ms: Option<u16>,
    max_ptime_ms: Option<u16>,
    /// RFC 3605.
    rtcp: Option<(u16, Option<IpAddr>)>,
    pub(super) rtcp_mux: bool,
}

impl Line {
    /// `audio 49170 RTP/AVP 0 8 101`. One that is less than that still counts: an answer has as many.
    fn open(value: &str, session: &Self) -> Self {
        let mut words = value.split_ascii_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let media = token(word(), "audio");
        // `49170/2`: two ports for layers of one stream, of which no codec of ours makes any.
        let port = word().split('/').next().and_then(|port| port.parse().ok()).unwrap_or(0);
        let transport = token(word(), "RTP/AVP");
        let first_format = token(words.clone().next().unwrap_or_default(), "0");
        let mut formats: Vec<Format> = vec![];
        for format in words.take(MAX_FORMATS).filter_map(|number| Format::of(number.parse().ok()?)) {
            if !formats.iter().any(|other| other.payload_type == format.payload_type) {
                formats.push(format);
            }
        }
        Self { media, port, transport, first_format, formats, rtcp: None, rtcp_mux: false, ..session.clone() }
    }

    fn on_attribute(&mut self, attribute: &str) {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let (name, value) = (name.trim_ascii(), value.trim_ascii());
        match name {
            "rtpmap" => self.on_rtpmap(value),
            "ptime" => self.ptime_ms = parse_ms(value).or(self.ptime_ms),
            "maxptime" => self.max_ptime_ms = parse_ms(value).or(self.max_ptime_ms),
            "rtcp" => self.rtcp = parse_rtcp(value).or(self.rtcp),
            "rtcp-mux" => self.rtcp_mux = true,
            _ => {
                let direction = Direction::ALL.into_iter().find(|direction| direction.name() == name);
                self.direction = direction.or(self.direction);
            }
        }
    }

    fn on_rtpmap(&mut self, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let (Some(number), Some(name)) = (words.next(), words.next()) else { return };
        let Ok(number) = number.parse::<u8>() else { return };
        if let Some(format) = self.formats.iter_mut().find(|format| format.payload_type == number) {
            (format.name, format.encoding) = (token(name, "?"), Encoding::parse(name));
        }
    }

    /// Audio that is not refused or switched off by port 0.
    fn is_open_audio(&self) -> bool {
        self.media.eq_ignore_ascii_case("audio") && self.port != 0
    }

    /// RTP without encryption. AVPF (RFC 4585) differs in when RTCP may be sent, and may always be sent later.
    fn is_plain(&self) -> bool {
        ["RTP/AVP", "RTP/AVPF"].iter().any(|plain| self.transport.eq_ignore_ascii_case(plain))
    }

    /// The formats that are in use, in the order of the peer's preference.
    pub(super) fn formats(&self) -> impl Iterator<Item = &Format> {
        self.formats.iter()
    }

    pub(super) fn payload_type(&self, encoding: Encoding) -> Option<u8> {
        self.formats().find(|format| format.encoding == encoding).map(|format| format.payload_type)
    }

    /// What the peer does from now on. Who wants audio at 0.0.0.0 wants none (RFC 3264 8.4, the hold of RFC 2543).
    pub(super) fn direction(&self) -> Direction {
        let said = self.direction.unwrap_or(Direction::SendRecv);
        Direction::of(said.sends(), said.receives() && self.connection != Connection::Hold)
    }

    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.connection.address().map(|address| SocketAddr::new(address, self.port))
    }

    /// RFC 3550 11: one above RTP, unless it is said otherwise.
    pub(super) fn rtcp_addr(&self) -> Option<SocketAddr> {
        let rtp = self.addr()?;
        match self.rtcp {
            Some((port, address)) => Some(SocketAddr::new(address.unwrap_or(rtp.ip()), port)),
            None => Some(SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?)),
        }
    }

    /// What the peer would like to be sent, as near as packets of whole tens of milliseconds come.
    pub(super) fn ptime_ms(&self) -> u8 {
        let most = self.max_ptime_ms.unwrap_or(60).clamp(10, 60);
        let ptime = self.ptime_ms.unwrap_or(20).clamp(10, most);
        (ptime / 10 * 10) as u8
    }

    /// The names of the codecs, for people.
    fn codecs(&self) -> String {
        let mut text = String::new();
        for format in self.formats() {
            if matches!(format.encoding, Encoding::TelephoneEvent(_) | Encoding::ComfortNoise) {
                continue;
            }
            if text.len() > 120 {
                text += ", ...";
                break;
            }
            text += if text.is_empty() { "" } else { ", " };
            text += &format.name;
        }
        if text.is_empty() { "none".to_owned() } else { text }
    }
}

/// One number of a media line.
#[derive(Clone, Debug)]
pub(super) struct Format {
    pub(super) payload_type: u8,
    pub(super) encoding: Encoding,
    /// For people: a token.
    name: String,
}

impl Format {
    /// Without an `rtpmap` it is what RFC 3551 table 4 says, as far as that is of use here.
    fn of(payload_type: u8) -> Option<Self> {
        if let Some(codec) = Codec::from_payload_type(payload_type) {
            return Some(Self { payload_type, encoding: Encoding::Codec(codec), name: codec.name().to_owned() });
        }
        let (name, encoding) = match payload_type {
            3 => ("GSM".to_owned(), Encoding::Other),
            4 => ("G723".to_owned(), Encoding::Other),
            13 | 19 => ("CN".to_owned(), Encoding::ComfortNoise),
            18 => ("G729".to_owned(), Encoding::Other),
            128.. => return None, // RFC 3550 5.1: seven bits
            _ => (format!("payload type {payload_type}"), Encoding::Unnamed),
        };
        Some(Self { payload_type, encoding, name })
    }
}

/// What packets of one number carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Codec(Codec),
    /// Digits by this clock.
    TelephoneEvent(u32),
    /// Never answered: silence is sent as silence.
    ComfortNoise,
    /// None of ours.
    Other,
    /// Nobody said.
    Unnamed,
}

impl Encoding {
    /// `G722/8000`, `L16/16000/1`. Names are alike in any case (RFC 8866 6.6).
    fn parse(name: &str) -> Self {
        let mut parts = name.split('/');
        let name = parts.next().unwrap_or_default();
        let clock = parts.next().map_or(Some(8_000), |clock| clock.parse().ok());
        let is_mono = parts.next().is_none_or(|channels| channels == "1");
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let (Some(clock), true) = (clock, is_mono) else { return Self::Other };
        if is("telephone-event") {
            return Self::TelephoneEvent(clock);
        }
        if is("CN") {
            return Self::ComfortNoise;
        }
        Codec::from_rtpmap(name, clock).map_or(Self::Other, Self::Codec)
    }
}

/// Where a peer wants its audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Connection {
    /// Not said, or at a name, or at a group of hosts.
    #[default]
    Unknown,
    /// `0.0.0.0` or `::`.
    Hold,
    At(IpAddr),
}

impl Connection {
    /// `IN IP4 192.0.2.1`, perhaps with `/127` of a group behind it.
    fn parse(value: &str) -> Self {
        let address = value.split_ascii_whitespace().nth(2).and_then(|word| word.split('/').next());
        match address.and_then(|address| address.parse::<IpAddr>().ok()) {
            Some(address) if address.is_unspecified() => Self::Hold,
            // One call's audio is for one host: never to be sent to a group, whoever asks.
            Some(address) if !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST) => Self::At(address),
            _ => Self::Unknown,
        }
    }

    fn address(self) -> Option<IpAddr> {
        match self {
            Self::At(address) => Some(address),
            Self::Unknown | Self::Hold => None,
        }
    }
}

/// `53020 IN IP4 192.0.2.1`, or the port alone.
fn parse_rtcp(value: &str) -> Option<(u16, Option<IpAddr>)> {
    let (port, rest) = value.split_once(' ').unwrap_or((value, ""));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some((port, Connection::parse(rest).address()))
}

fn parse_time(value: &str) -> Option<(u64, u64)> {
    let (start, stop) = value.split_once(' ')?;
    Some((start.trim_ascii().parse().ok()?, stop.trim_ascii().parse().ok()?))
}

/// Whole milliseconds; what some write behind a point is dropped.
fn parse_ms(value: &str) -> Option<u16> {
    value.split('.').next()?.parse().ok().filter(|ms| *ms != 0)
}

/// A word as it may stand in a line of ours: the characters of RFC 8866's tokens and the slash, at most 32.
fn token(word: &str, otherwise: &str) -> String {
    let good = |c: &char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`{|}~/".contains(*c);
    let word: String = word.chars().filter(good).take(32).collect();
    if word.is_empty() { otherwise.to_owned() } else { word }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::leg::sip::sdp::samples::{
        ASTERISK, BARESIP, CISCO, EVERYTHING, FREESWITCH, SIPP, THREE_CX, changed, many, wire,
    };
    use crate::media::Rate;

    fn first(body: &[u8]) -> Line {
        Offer::parse(body).unwrap().lines.swap_remove(0)
    }

    fn encodings(line: &Line) -> Vec<(u8, Encoding)> {
        line.formats().map(|format| (format.payload_type, format.encoding)).collect()
    }

    #[test]
    fn codecs_and_digits_are_read_in_the_order_of_the_peer() {
        assert_eq!(
            encodings(&first(&wire(ASTERISK))),
            [
                (9, Encoding::Codec(Codec::G722)),
                (8, Encoding::Codec(Codec::Pcma)),
                (0, Encoding::Codec(Codec::Pcmu)),
                (101, Encoding::TelephoneEvent(8_000)),
            ]
        );
        let freeswitch = first(&wire(FREESWITCH));
        assert_eq!(freeswitch.payload_type(Encoding::Codec(Codec::L16(Rate::Hz16000))), Some(104));
        assert_eq!(freeswitch.payload_type(Encoding::TelephoneEvent(8_000)), Some(101));
        assert_eq!(freeswitch.payload_type(Encoding::TelephoneEvent(16_000)), Some(106));
        assert_eq!(freeswitch.payload_type(Encoding::ComfortNoise), Some(13));
        // A number with a meaning of its own means what the peer says.
        assert_eq!(first(&wire(BARESIP)).payload_type(Encoding::TelephoneEvent(8_000)), Some(10));
    }

    #[test]
    fn numbers_without_a_name_mean_what_they_always_do() {
        let line =
            first(&changed(SIPP, &[("RTP/AVP 0\n", "RTP/AVP 0 8 9 13 96 11\n"), ("a=rtpmap:0 PCMU/8000\n", "")]));
        assert_eq!(
            encodings(&line),
            [
                (0, Encoding::Codec(Codec::Pcmu)),
                (8, Encoding::Codec(Codec::Pcma)),
                (9, Encoding::Codec(Codec::G722)),
                (13, Encoding::ComfortNoise),
                (96, Encoding::Unnamed),
                (11, Encoding::Unnamed),
            ]
        );
        assert_eq!(line.codecs(), "PCMU, PCMA, G722, payload type 96, payload type 11");
    }

    #[test]
    fn stereo_and_other_clocks_are_other_codecs() {
        for (name, meant) in [
            ("L16/16000", Encoding::Codec(Codec::L16(Rate::Hz16000))),
            ("l16/8000/1", Encoding::Codec(Codec::L16(Rate::Hz8000))),
            ("L16/16000/2", Encoding::Other),
            ("L16/44100", Encoding::Other),
            ("pcmu", Encoding::Codec(Codec::Pcmu)),
            ("PCMU/16000", Encoding::Other),
            ("G722/16000", Encoding::Other),
            ("PCMA/8000/", Encoding::Other),
            ("PCMA/99999999999", Encoding::Other),
            ("Telephone-Event/16000", Encoding::TelephoneEvent(16_000)),
            ("", Encoding::Other),
        ] {
            assert_eq!(Encoding::parse(name), meant, "{name}");
        }
    }

    #[test]
    fn a_medium_has_its_own_address_or_that_of_the_session() {
        let addr = |body: &[u8]| first(body).addr().map(|addr| addr.to_string());
        assert_eq!(addr(&wire(CISCO)).as_deref(), Some("172.18.199.71:18912"));
        assert_eq!(addr(&wire(THREE_CX)).as_deref(), Some("192.168.3.10:7042"));
        assert_eq!(addr(&wire(EVERYTHING)).as_deref(), Some("[2001:db8::7]:40020"));
        for address in ["IN IP4 pbx.example.com", "IN IP4 224.2.1.1/127", "IN IP4 255.255.255.255", "IN", ""] {
            assert_eq!(addr(&changed(SIPP, &[("IN IP4 127.0.0.1\nt", &format!("{address}\nt"))])), None, "{address}");
        }
    }

    #[test]
    fn rtcp_goes_one_port_above_unless_the_peer_says_where() {
        let rtcp = |line: &str| {
            let line = first(&changed(SIPP, &[("a=rtpmap:0 PCMU/8000", line)]));
            line.rtcp_addr().map(|addr| addr.to_string())
        };
        assert_eq!(rtcp("a=x").as_deref(), Some("127.0.0.1:6001"));
        assert_eq!(rtcp("a=rtcp:7009").as_deref(), Some("127.0.0.1:7009"));
        assert_eq!(rtcp("a=rtcp:7009 IN IP4 127.0.0.9").as_deref(), Some("127.0.0.9:7009"));
        assert_eq!(rtcp("a=rtcp:0").as_deref(), Some("127.0.0.1:6001"));
        assert_eq!(first(&changed(SIPP, &[("6000", "65535")])).rtcp_addr(), None);
    }

    #[test]
    fn a_direction_of_the_medium_outdoes_that_of_the_session() {
        assert_eq!(first(&wire(SIPP)).direction(), Direction::SendRecv);
        assert_eq!(first(&wire(EVERYTHING)).direction(), Direction::SendOnly);
        let body = changed(EVERYTHING, &[("m=audio 40002", "a=inactive\nm=audio 40002")]);
        let offer = Offer::parse(&body).unwrap();
        let directions: Vec<_> = offer.lines.iter().map(Line::direction).collect();
        assert_eq!(directions, [Direction::Inactive, Direction::SendOnly, Direction::SendOnly, Direction::SendOnly]);
    }

    #[test]
    fn whoever_wants_audio_nowhere_wants_none() {
        let held = changed(SIPP, &[("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0")]);
        assert_eq!((first(&held).direction(), first(&held).addr()), (Direction::SendOnly, None));
        let quiet = changed(SIPP, &[("c=IN IP4 127.0.0.1", "c=IN IP6 ::"), ("a=rtpmap", "a=recvonly\na=rtpmap")]);
        assert_eq!(first(&quiet).direction(), Direction::Inactive);
    }

    #[test]
    fn packet_times_are_whole_tens_that_we_can_send() {
        for (lines, ms) in [
            ("a=x", 20),
            ("a=ptime:30", 30),
            ("a=ptime: 10", 10),
            ("a=ptime:20.5", 20),
            ("a=ptime:25", 20),
            ("a=ptime:5", 10),
            ("a=ptime:200", 60),
            ("a=ptime:0", 20),
            ("a=ptime:-1", 20),
            ("a=maxptime:10", 10),
            ("a=ptime:60\na=maxptime:40", 40),
            ("a=maxptime:5", 10),
        ] {
            assert_eq!(first(&changed(SIPP, &[("a=rtpmap:0 PCMU/8000", lines)])).ptime_ms(), ms, "{lines}");
        }
    }

    #[test]
    fn bare_line_feeds_foreign_letters_and_nonsense_are_read_over() {
        let body =
            [&b"\r\n"[..], SIPP.as_bytes(), b"a=\nm\n=\n==\n\xff=\xfe\na=rtpmap\na=rtpmap:0\na=rtpmap:999 X/1\nz\0"]
                .concat();
        let body = String::from_utf8_lossy(&body).replace("s=-", "s=B\u{fc}ro");
        let latin: Vec<u8> = body.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
        let line = first(&latin);
        assert_eq!(encodings(&line), [(0, Encoding::Codec(Codec::Pcmu))]);
        assert_eq!(line.addr().unwrap().to_string(), "127.0.0.1:6000");
    }

    #[test]
    fn what_is_no_description_or_too_much_of_one_is_refused() {
        assert_eq!(Offer::parse(b"").err(), Some(Malformed::NotSdp));
        assert_eq!(Offer::parse(b"{\"sdp\":\"v=0\"}").err(), Some(Malformed::NotSdp));
        assert_eq!(Offer::parse(&wire(&SIPP.repeat(100))).err(), Some(Malformed::TooLong));
        assert!(Offer::parse(&many("video", MAX_LINES - 1)).is_ok());
        assert_eq!(Offer::parse(&many("video", MAX_LINES)).err(), Some(Malformed::TooManyLines));
    }

    #[test]
    fn a_line_of_a_thousand_formats_is_looked_at_in_part() {
        let numbers: String = (0..1_000).map(|number| format!(" {}", number % 128)).collect();
        let line = first(&changed(SIPP, &[("RTP/AVP 0", &format!("RTP/AVP{numbers}"))]));
        assert_eq!(line.formats().count(), MAX_FORMATS);
        assert!(line.codecs().len() < 200, "{}", line.codecs());
    }

    #[test]
    fn what_is_written_again_is_a_token() {
        assert_eq!(token("a\u{1b}[2J\"<ud\0io>", "audio"), "a2Judio");
        assert_eq!(token("\u{fc}", "audio"), "audio");
        assert_eq!(token(&"x".repeat(100), "audio").len(), 32);
    }
}
