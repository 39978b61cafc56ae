//! What we describe: our side of one call's audio, from the first offer or answer to the last.
//!
//! It remembers what later descriptions of the same call have to keep: how many lines there are and which is ours, what
//! each number means, and the text sent last, whose version goes up only when the next one differs (RFC 3264 8).

use core::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::{
    leg::sip::sdp::{
        Direction, Media, Negotiated, NoCodec, Offer,
        offer::{Encoding, Line},
    },
    media::codec::Codec,
};

/// Our side of one call.
#[derive(Clone, Debug)]
pub struct Local {
    /// Where we take RTP.
    pub address: SocketAddr,
    /// What we can, the best first.
    pub codecs: Vec<Codec>,
    /// Digits go beside the audio (RFC 4733), where the peer can.
    pub dtmf: bool,
    /// What we would like to be sent, in milliseconds.
    pub ptime_ms: u8,
    /// We hold the peer: it is told to send nothing.
    pub hold: bool,
    /// 32 bits: there are parsers that know no longer ones.
    session_id: u32,
    version: u32,
    /// What was sent last, without the line that has the version.
    last: String,
    /// What our numbers mean, for good: RFC 3264 8.3.2.
    numbers: Vec<(Kind, u8)>,
    /// What our latest offer has.
    offered: Vec<(Kind, u8)>,
    slots: Vec<Slot>,
    time: (u64, u64),
    /// The line of ours as it was agreed.
    agreed: Option<Agreed>,
}

impl Local {
    /// The start of a call. `session_id` is drawn at random, the address is what peers are told.
    #[must_use]
    pub fn new(session_id: u32, address: SocketAddr, codecs: &[Codec]) -> Self {
        Self {
            address,
            codecs: codecs.to_vec(),
            dtmf: true,
            ptime_ms: 20,
            hold: false,
            session_id,
            version: 0,
            last: String::new(),
            numbers: vec![],
            offered: vec![],
            slots: vec![Slot::Ours],
            time: (0, 0),
            agreed: None,
        }
    }

    /// Answers an offer: our best codec among theirs, or the one in use if they still have it.
    ///
    /// # Errors
    /// Nothing in common. What was agreed before still holds.
    pub fn answer(&mut self, offer: &Offer) -> Result<(String, Media), NoCodec> {
        let (at, line, codec) = offer.choose(|line| {
            let in_use = self.agreed.iter().map(|agreed| agreed.codec.codec);
            let mut ours = in_use.chain(self.codecs.iter().copied()).filter(|codec| self.codecs.contains(codec));
            ours.find_map(|codec| Some((codec, line.payload_type(Encoding::Codec(codec))?)))
        })?;
        let (codec, payload_type) = codec;
        let events = Encoding::TelephoneEvent(codec.clock());
        let dtmf = self.dtmf.then(|| line.payload_type(events)).flatten();
        let codec = Negotiated {
            codec,
            payload_type,
            receive_payload_type: payload_type,
            ptime_ms: line.ptime_ms(),
            dtmf_payload_type: dtmf,
            receive_dtmf_payload_type: dtmf,
        };
        let media = self.agree(line, codec, line.rtcp_mux);
        self.slots = (offer.lines.iter().enumerate())
            .map(|(other, line)| if other == at { Slot::Ours } else { Slot::refused(line) })
            .collect();
        self.time = offer.time;
        let formats = self.agreed_formats();
        Ok((self.write(&formats, media.direction), media))
    }

    /// Everything that we can, what is in use first: for a call of ours, and for a request that asks for an offer.
    pub fn offer(&mut self) -> String {
        let in_use = self.agreed.as_ref().map(|agreed| agreed.codec.codec);
        let mut codecs = self.codecs.clone();
        codecs.sort_by_key(|codec| Some(*codec) != in_use);
        let mut formats: Vec<(Kind, u8)> = vec![];
        for kind in codecs.iter().map(|codec| Kind::Codec(*codec)) {
            formats.push((kind, self.number(kind)));
        }
        if self.dtmf {
            for kind in codecs.iter().map(|codec| Kind::Dtmf(codec.clock())) {
                if !formats.iter().any(|(other, _)| *other == kind) {
                    formats.push((kind, self.number(kind)));
                }
            }
        }
        self.offered.clone_from(&formats);
        self.write(&formats, self.allowed())
    }

    /// What was agreed and no more: for a refresh, and for a hold of ours. Nothing was changed, so the text is that of
    /// the last time, and so is its version.
    pub fn offer_again(&mut self) -> String {
        if self.agreed.is_none() {
            return self.offer();
        }
        self.offered = self.agreed_formats();
        let formats = self.offered.clone();
        self.write(&formats, self.allowed())
    }

    /// What a peer makes of our latest offer. It may be read twice: from a 183 and from the 200.
    ///
    /// # Errors
    /// It took nothing of it.
    pub fn read_answer(&mut self, answer: &Offer) -> Result<Media, NoCodec> {
        // Of several codecs the answerer likes the first best (RFC 3264 7).
        let (_, line, (codec, payload_type, receive_payload_type)) = answer.choose(|line| {
            line.formats().find_map(|format| match self.offered_as(format.encoding, format.payload_type)? {
                (Kind::Codec(codec), ours) => Some((codec, format.payload_type, ours)),
                (Kind::Dtmf(_), _) => None,
            })
        })?;
        let clock = codec.clock();
        let dtmf = line.formats().find_map(|format| {
            let (kind, ours) = self.offered_as(format.encoding, format.payload_type)?;
            (kind == Kind::Dtmf(clock)).then_some((format.payload_type, ours))
        });
        let codec = Negotiated {
            codec,
            payload_type,
            receive_payload_type,
            ptime_ms: line.ptime_ms(),
            dtmf_payload_type: dtmf.map(|(theirs, _)| theirs),
            receive_dtmf_payload_type: dtmf.map(|(_, ours)| ours),
        };
        // RFC 5761 5.1.1: only what was offered can be taken.
        let rtcp_mux = line.rtcp_mux && self.agreed.as_ref().is_some_and(|agreed| agreed.rtcp_mux);
        Ok(self.agree(line, codec, rtcp_mux))
    }

    /// What an encoding in an answer is among what we offered. Some leave out the `rtpmap` of a number of ours.
    fn offered_as(&self, theirs: Encoding, number: u8) -> Option<(Kind, u8)> {
        let mut offered = self.offered.iter();
        let found = match theirs {
            Encoding::Codec(codec) => offered.find(|(kind, _)| *kind == Kind::Codec(codec)),
            Encoding::TelephoneEvent(clock) => offered.find(|(kind, _)| *kind == Kind::Dtmf(clock)),
            Encoding::Unnamed => offered.find(|(_, ours)| *ours == number),
            Encoding::ComfortNoise | Encoding::Other => None,
        };
        found.copied()
    }

    fn agree(&mut self, line: &Line, codec: Negotiated, rtcp_mux: bool) -> Media {
        self.set_number(Kind::Codec(codec.codec), codec.receive_payload_type);
        if let Some(number) = codec.receive_dtmf_payload_type {
            self.set_number(Kind::Dtmf(codec.codec.clock()), number);
        }
        self.agreed = Some(Agreed { codec, rtcp_mux, transport: line.transport.clone() });
        let theirs = line.direction();
        Media {
            addr: line.addr(),
            rtcp_addr: if rtcp_mux { line.addr() } else { line.rtcp_addr() },
            rtcp_mux,
            hold: !theirs.receives(),
            direction: theirs.answered_by(self.allowed()),
            codec,
        }
    }

    /// What we would do if the peer let us.
    const fn allowed(&self) -> Direction {
        Direction::of(true, !self.hold)
    }

    fn agreed_formats(&self) -> Vec<(Kind, u8)> {
        let Some(Agreed { codec, .. }) = self.agreed else { return vec![] };
        let dtmf = codec.receive_dtmf_payload_type.map(|number| (Kind::Dtmf(codec.codec.clock()), number));
        [(Kind::Codec(codec.codec), codec.receive_payload_type)].into_iter().chain(dtmf).collect()
    }

    /// What a format is called in this call.
    fn number(&mut self, kind: Kind) -> u8 {
        if let Some((_, number)) = self.numbers.iter().find(|(known, _)| *known == kind) {
            return *number;
        }
        let fixed = match kind {
            Kind::Codec(codec) => codec.payload_type(),
            Kind::Dtmf(_) => None,
        };
        // By custom digits are 101, and there are peers that look for nothing else.
        let custom = (kind == Kind::Dtmf(8_000)).then_some(101);
        let free = |number: &u8| !self.numbers.iter().any(|(_, taken)| taken == number);
        let mut dynamic = custom.into_iter().chain((96..=127).filter(|number| *number != 101));
        let number = fixed.filter(free).or_else(|| dynamic.find(free)).expect("a dozen formats fit into 32 numbers");
        self.numbers.push((kind, number));
        number
    }

    fn set_number(&mut self, kind: Kind, number: u8) {
        self.numbers.retain(|(other, taken)| *other != kind && *taken != number);
        self.numbers.push((kind, number));
    }

    fn write(&mut self, formats: &[(Kind, u8)], direction: Direction) -> String {
        let address = Address(self.address.ip());
        let (start, stop) = self.time;
        let mut body = format!("s=-\r\nc=IN {address}\r\nt={start} {stop}\r\n");
        for slot in &self.slots {
            match slot {
                Slot::Ours => self.write_ours(&mut body, formats, direction),
                Slot::Refused { media, transport, format } => {
                    let _ = write!(body, "m={media} 0 {transport} {format}\r\n");
                }
            }
        }
        if body != self.last {
            self.version = self.version.wrapping_add(1);
            self.last.clone_from(&body);
        }
        format!("v=0\r\no=- {} {} IN {address}\r\n{body}", self.session_id, self.version)
    }

    /// Writing to a string cannot fail.
    fn write_ours(&self, body: &mut String, formats: &[(Kind, u8)], direction: Direction) {
        let transport = self.agreed.as_ref().map_or("RTP/AVP", |agreed| &agreed.transport);
        let _ = write!(body, "m=audio {} {transport}", self.address.port());
        for (_, number) in formats {
            let _ = write!(body, " {number}");
        }
        *body += "\r\n";
        for (kind, number) in formats {
            let _ = match kind {
                Kind::Codec(codec) => {
                    write!(body, "a=rtpmap:{number} {}/{}\r\n", codec.name(), codec.clock())
                }
                // The sixteen of a keypad; RFC 4733 2.4.1.
                Kind::Dtmf(clock) => {
                    write!(body, "a=rtpmap:{number} telephone-event/{clock}\r\na=fmtp:{number} 0-15\r\n")
                }
            };
        }
        let _ = write!(body, "a=ptime:{}\r\na=maxptime:{MAX_PTIME_MS}\r\n", self.ptime_ms);
        let _ = write!(body, "a={}\r\n", direction.name());
        if self.agreed.as_ref().is_some_and(|agreed| agreed.rtcp_mux) {
            *body += "a=rtcp-mux\r\n";
        }
    }
}

/// What one of our numbers stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Codec(Codec),
    /// Digits by this clock.
    Dtmf(u32),
}

/// A media line of the call. An offer has those of the description before it, an answer those of the offer.
#[derive(Clone, Debug)]
enum Slot {
    Ours,
    Refused { media: String, transport: String, format: String },
}

impl Slot {
    fn refused(line: &Line) -> Self {
        let Line { media, transport, first_format, .. } = line;
        Self::Refused { media: media.clone(), transport: transport.clone(), format: first_format.clone() }
    }
}

#[derive(Clone, Debug)]
struct Agreed {
    codec: Negotiated,
    rtcp_mux: bool,
    transport: String,
}

/// `IP4 192.0.2.1`.
struct Address(IpAddr);

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let family = if self.0.is_ipv4() { "IP4" } else { "IP6" };
        write!(f, "{family} {}", self.0)
    }
}

/// The longest packets that the jitter buffer takes.
const MAX_PTIME_MS: u8 = 60;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        leg::sip::sdp::samples::{
            ASTERISK, AUDIOCODES, BARESIP, BROWSER, CISCO, EVERYTHING, FREESWITCH, GOOD, SIPP, THREE_CX, changed, wire,
        },
        media::Rate,
    };

    const OURS: [Codec; 3] = [Codec::G722, Codec::Pcma, Codec::Pcmu];

    fn local() -> Local {
        local_with(&OURS)
    }

    fn local_with(codecs: &[Codec]) -> Local {
        Local::new(77, "192.0.2.9:30000".parse().unwrap(), codecs)
    }

    fn answer(local: &mut Local, body: &[u8]) -> (String, Media) {
        local.answer(&Offer::parse(body).unwrap()).unwrap()
    }

    fn read(local: &mut Local, body: &[u8]) -> Media {
        local.read_answer(&Offer::parse(body).unwrap()).unwrap()
    }

    fn line(text: &str, start: &str) -> String {
        let found: Vec<_> = text.lines().filter(|line| line.starts_with(start)).collect();
        assert_eq!(found.len(), 1, "{start} in {text}");
        found[0].to_owned()
    }

    #[test]
    fn asterisk_gets_one_codec_and_its_digits() {
        let (text, media) = answer(&mut local(), &wire(ASTERISK));
        assert_eq!(
            text,
            "v=0\r\no=- 77 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
             m=audio 30000 RTP/AVP 9 101\r\na=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
             a=fmtp:101 0-15\r\na=ptime:20\r\na=maxptime:60\r\na=sendrecv\r\n"
        );
        let codec = Negotiated {
            codec: Codec::G722,
            payload_type: 9,
            receive_payload_type: 9,
            ptime_ms: 20,
            dtmf_payload_type: Some(101),
            receive_dtmf_payload_type: Some(101),
        };
        let (addr, rtcp_addr) = ("192.168.1.20:12084".parse().ok(), "192.168.1.20:12085".parse().ok());
        let direction = Direction::SendRecv;
        assert_eq!(media, Media { addr, rtcp_addr, rtcp_mux: false, hold: false, direction, codec });
    }

    #[test]
    fn our_preference_decides_among_what_a_peer_has() {
        let l16 = Codec::L16(Rate::Hz16000);
        for (body, ours, codec, payload_type, dtmf) in [
            (FREESWITCH, &OURS[..], Codec::G722, 9, Some(101)),
            (FREESWITCH, &[l16, Codec::Pcmu], l16, 104, Some(106)),
            (FREESWITCH, &[Codec::L16(Rate::Hz8000), Codec::Pcmu], Codec::Pcmu, 0, Some(101)),
            (CISCO, &OURS, Codec::Pcma, 8, Some(101)),
            (THREE_CX, &[Codec::Pcmu, Codec::Pcma], Codec::Pcmu, 0, Some(101)),
            (BARESIP, &OURS, Codec::G722, 9, Some(10)),
            (SIPP, &OURS, Codec::Pcmu, 0, None),
            (AUDIOCODES, &OURS, Codec::Pcma, 8, Some(96)),
            (EVERYTHING, &[l16], l16, 97, None), // digits of another clock than the codec's
            (EVERYTHING, &OURS, Codec::Pcma, 8, Some(101)),
        ] {
            let (text, media) = answer(&mut local_with(ours), &wire(body));
            assert_eq!((media.codec.codec, media.codec.payload_type), (codec, payload_type), "{body}");
            assert_eq!(media.codec.dtmf_payload_type, dtmf, "{body}");
            let formats = dtmf.map_or(format!("{payload_type}"), |dtmf| format!("{payload_type} {dtmf}"));
            assert!(line(&text, "m=audio 30000").ends_with(&format!(" {formats}")), "{text}");
            assert!(!text.contains("CN/"), "{text}");
        }
        let mut deaf = local();
        deaf.dtmf = false;
        let (text, media) = answer(&mut deaf, &wire(ASTERISK));
        assert!(!text.contains("telephone-event") && media.codec.dtmf_payload_type.is_none());
    }

    #[test]
    fn everything_but_one_audio_line_is_refused_in_its_place() {
        let (text, media) = answer(&mut local(), &wire(EVERYTHING));
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("m=")).collect();
        assert_eq!(
            lines,
            ["m=video 0 RTP/AVP 99", "m=audio 0 RTP/SAVP 0", "m=audio 30000 RTP/AVPF 8 101", "m=image 0 udptl t38"]
        );
        assert_eq!((media.direction, media.hold), (Direction::RecvOnly, true));
        assert!(media.rtcp_mux && text.contains("a=rtcp-mux\r\n"));
        assert_eq!((media.addr, media.rtcp_addr), (media.rtcp_addr, "[2001:db8::7]:40004".parse().ok()));
        assert_eq!(media.codec.ptime_ms, 30);
        // Our next offer has as many lines (RFC 3264 8), and what was agreed.
        let mut local = local();
        let (answered, _) = answer(&mut local, &wire(EVERYTHING));
        let again = local.offer_again().replace("a=sendrecv", "a=recvonly").replace("77 2", "77 1");
        assert_eq!(again, answered);
    }

    #[test]
    fn encrypted_foreign_or_closed_audio_is_refused_with_its_reason() {
        let refused = |body: &[u8]| local().answer(&Offer::parse(body).unwrap()).unwrap_err().to_string();
        assert_eq!(refused(&wire(BROWSER)), "the peer wants audio by UDP/TLS/RTP/SAVPF, which is not RTP/AVP");
        assert_eq!(
            refused(&changed(
                SIPP,
                &[("RTP/AVP 0", "RTP/AVP 18 96 101"), ("a=rtpmap:0 PCMU", "a=rtpmap:101 telephone-event")]
            )),
            "no codec in common: the peer has G729, payload type 96"
        );
        assert_eq!(refused(&changed(SIPP, &[("6000", "0")])), "the peer has no open audio line");
        assert_eq!(refused(&changed(SIPP, &[("m=audio", "m=video")])), "the peer has no open audio line");
        assert_eq!(refused(b"v=0\r\n"), "the peer has no open audio line");
        let (_, media) = answer(&mut local(), &changed(SIPP, &[("RTP/AVP 0", "RTP/AVP 13 0")]));
        assert_eq!(media.codec.codec, Codec::Pcmu);
    }

    #[test]
    fn a_hold_is_answered_as_it_is_asked_and_so_is_its_end() {
        let mut local = local();
        let (active, _) = answer(&mut local, &wire(ASTERISK));
        for (ask, told, sends, hold) in [
            ("a=sendonly", "a=recvonly", false, true),
            ("a=sendrecv", "a=sendrecv", true, false),
            ("a=inactive", "a=inactive", false, true),
            ("a=recvonly", "a=sendonly", true, false),
        ] {
            let (text, media) = answer(&mut local, &changed(ASTERISK, &[("a=sendrecv", ask)]));
            assert!(text.contains(&format!("{told}\r\n")), "{ask}: {text}");
            assert_eq!((media.direction.sends(), media.hold), (sends, hold), "{ask}");
            assert_eq!(media.codec.codec, Codec::G722);
        }
        // RFC 2543's: the address says it, whatever the direction is.
        let nowhere = ("c=IN IP4 192.168.1.20", "c=IN IP4 0.0.0.0");
        let (text, media) = answer(&mut local, &changed(ASTERISK, &[nowhere]));
        assert!(text.contains("a=recvonly\r\n"));
        assert_eq!((media.addr, media.rtcp_addr, media.hold), (None, None, true));
        let (text, _) = answer(&mut local, &changed(ASTERISK, &[nowhere, ("a=sendrecv", "a=inactive")]));
        assert!(text.contains("a=inactive\r\n"));
        // Back where it began, but for the version.
        let (resumed, media) = answer(&mut local, &wire(ASTERISK));
        assert!(!media.hold && media.addr.is_some());
        assert_eq!(resumed.replace("77 8", "77 1"), active);
    }

    #[test]
    fn a_hold_of_ours_goes_through_every_answer() {
        let mut local = local();
        answer(&mut local, &wire(ASTERISK));
        local.hold = true;
        assert!(local.offer_again().contains("a=sendonly\r\n"));
        for (told, direction, hold) in [
            ("a=recvonly", Direction::SendOnly, false),
            ("a=inactive", Direction::Inactive, true),
            ("a=sendrecv", Direction::SendOnly, false), // it was not asked to send, so it does not
        ] {
            let media = read(&mut local, &changed(ASTERISK, &[("a=sendrecv", told)]));
            assert_eq!((media.direction, media.hold), (direction, hold), "{told}");
        }
        let (text, media) = answer(&mut local, &changed(ASTERISK, &[("a=sendrecv", "a=sendonly")]));
        assert!(text.contains("a=inactive\r\n"), "both hold: {text}");
        assert!(media.hold);
        local.hold = false;
        assert!(local.offer_again().contains("a=sendrecv\r\n"));
    }

    #[test]
    fn a_re_offer_keeps_the_codec_while_the_peer_has_it() {
        let mut local = local();
        answer(&mut local, &wire(CISCO));
        // G.722 is better, and now there: no reason to change in the middle of a sentence.
        let (_, media) = answer(&mut local, &wire(ASTERISK));
        assert_eq!(media.codec.codec, Codec::Pcma);
        let (_, media) = answer(&mut local, &wire(SIPP));
        assert_eq!(media.codec.codec, Codec::Pcmu);
        // What cannot be taken changes nothing.
        let before = local.offer_again();
        assert!(local.answer(&Offer::parse(&wire(BROWSER)).unwrap()).is_err());
        assert_eq!(local.offer_again(), before);
    }

    #[test]
    fn the_version_goes_up_with_what_we_say_and_not_with_what_we_hear() {
        let mut local = local();
        let version = |text: &str| line(text, "o=").split(' ').nth(2).unwrap().parse::<u32>().unwrap();
        let (first, _) = answer(&mut local, &wire(ASTERISK));
        assert_eq!(version(&first), 1);
        // Moved, but for us the same.
        let moved = changed(ASTERISK, &[("c=IN IP4 192.168.1.20", "c=IN IP4 192.168.1.21"), ("12084", "12090")]);
        let (second, media) = answer(&mut local, &moved);
        assert_eq!((second, media.addr), (first.clone(), "192.168.1.21:12090".parse().ok()));
        assert_eq!(local.offer_again(), first, "a refresh says the same");
        assert_eq!(version(&answer(&mut local, &changed(ASTERISK, &[("a=sendrecv", "a=sendonly")])).0), 2);
        assert_eq!(version(&local.offer_again()), 3, "an offer says what we would do");
        assert_eq!(version(&local.offer_again()), 3);
        local.address.set_port(30_002);
        assert_eq!(version(&local.offer_again()), 4);
    }

    #[test]
    fn a_call_of_ours_offers_everything_and_takes_the_answer() {
        let mut local = local_with(&[Codec::L16(Rate::Hz16000), Codec::G722, Codec::Pcmu]);
        let text = local.offer();
        assert_eq!(line(&text, "m="), "m=audio 30000 RTP/AVP 96 9 0 97 101");
        for said in ["96 L16/16000", "97 telephone-event/16000", "101 telephone-event/8000", "9 G722/8000"] {
            assert!(text.contains(&format!("a=rtpmap:{said}\r\n")), "{said} in {text}");
        }
        let media = read(&mut local, &wire(CISCO));
        assert_eq!((media.codec.codec, media.codec.dtmf_payload_type), (Codec::Pcmu, Some(101)));
        assert_eq!(media.addr, "172.18.199.71:18912".parse().ok());
        // Asked for an offer in the call: all of it again, what is in use first, by the same numbers.
        assert_eq!(line(&local.offer(), "m="), "m=audio 30000 RTP/AVP 0 96 9 101 97");
        assert_eq!(line(&local.offer_again(), "m="), "m=audio 30000 RTP/AVP 0 101");
    }

    #[test]
    fn each_end_sends_by_the_numbers_of_the_other() {
        let mut local = local_with(&[Codec::L16(Rate::Hz16000), Codec::Pcmu]);
        local.offer();
        let taken = changed(
            SIPP,
            &[
                ("RTP/AVP 0", "RTP/AVP 120 121"),
                ("a=rtpmap:0 PCMU/8000", "a=rtpmap:120 L16/16000\na=rtpmap:121 telephone-event/16000"),
            ],
        );
        let codec = read(&mut local, &taken).codec;
        assert_eq!((codec.payload_type, codec.receive_payload_type), (120, 96));
        assert_eq!((codec.dtmf_payload_type, codec.receive_dtmf_payload_type), (Some(121), Some(97)));
        assert_eq!(line(&local.offer_again(), "m="), "m=audio 30000 RTP/AVP 96 97", "ours are still ours");
        // A number of ours that nobody named again is ours.
        let bare = changed(SIPP, &[("RTP/AVP 0", "RTP/AVP 96 97"), ("a=rtpmap:0 PCMU/8000\n", "")]);
        let codec = read(&mut local, &bare).codec;
        assert_eq!((codec.codec, codec.dtmf_payload_type), (Codec::L16(Rate::Hz16000), Some(97)));
    }

    #[test]
    fn an_answer_takes_no_more_than_was_offered() {
        let mut local = local_with(&[Codec::Pcma]);
        local.offer();
        let error = local.read_answer(&Offer::parse(&wire(SIPP)).unwrap()).unwrap_err();
        assert_eq!(error, NoCodec::Codecs("PCMU/8000".into()));
        let media = read(&mut local, &changed(THREE_CX, &[("a=sendrecv", "a=rtcp-mux")]));
        assert!(!media.rtcp_mux, "it was not offered");
        assert!(local.read_answer(&Offer::parse(&changed(THREE_CX, &[("7042", "0")])).unwrap()).is_err());
    }

    #[test]
    fn numbers_of_a_peer_stay_what_they_are_in_our_offers() {
        let mut local = local_with(&[Codec::L16(Rate::Hz16000), Codec::Pcmu]);
        let odd = changed(
            SIPP,
            &[("RTP/AVP 0", "RTP/AVP 101 0"), ("a=rtpmap:0 PCMU/8000", "a=rtpmap:101 L16/16000\na=rtpmap:0 GSM/8000")],
        );
        let (_, media) = answer(&mut local, &odd);
        assert_eq!(media.codec.payload_type, 101);
        assert_eq!(line(&local.offer(), "m="), "m=audio 30000 RTP/AVP 101 0 96 97");
    }

    #[test]
    fn two_of_us_agree_on_everything() {
        for codecs in [&OURS[..], &[Codec::L16(Rate::Hz24000)], &[Codec::Pcmu]] {
            let (mut caller, mut called) = (local_with(codecs), local());
            called.codecs = codecs.to_vec();
            let (text, there) = answer(&mut called, caller.offer().as_bytes());
            let here = read(&mut caller, text.as_bytes());
            assert_eq!(here, there);
            assert!(here.codec.dtmf_payload_type.is_some());
            // The caller holds, then the called holds too, then both let go.
            for (caller_holds, called_holds, direction) in [
                (true, false, Direction::SendOnly),
                (true, true, Direction::Inactive),
                (false, true, Direction::RecvOnly),
                (false, false, Direction::SendRecv),
            ] {
                (caller.hold, called.hold) = (caller_holds, called_holds);
                let (text, there) = answer(&mut called, caller.offer_again().as_bytes());
                let here = read(&mut caller, text.as_bytes());
                assert_eq!((here.direction, there.hold, here.hold), (direction, caller_holds, called_holds));
                assert_eq!(there.direction, Direction::of(direction.receives(), direction.sends()));
            }
        }
    }

    /// xorshift64, so that a failure can be repeated.
    struct Dice(u64);

    impl Dice {
        fn up_to(&mut self, most: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) as usize % (most + 1)
        }

        fn mutate(&mut self, body: &mut Vec<u8>, other: &[u8]) {
            const WORDS: [&[u8]; 12] = [
                b"m=audio 1 RTP/AVP 0\r\n",
                b"a=rtpmap:0 telephone-event/8000\r\n",
                b"c=IN IP4 0.0.0.0\r\n",
                b"a=inactive\r\n",
                b"\r\n",
                b"=",
                b"/",
                b" ",
                b":",
                b"99999999999999999999",
                b"\0",
                b"\xff\xc3",
            ];
            let at = self.up_to(body.len());
            let end = (at + self.up_to(40)).min(body.len());
            match self.up_to(4) {
                0 => drop(body.drain(at..end)),
                1 => drop(body.splice(at..at, WORDS[self.up_to(11)].iter().copied())),
                2 => drop(body.splice(at..end, other[at.min(other.len())..end.min(other.len())].iter().copied())),
                3 => drop(body.splice(at..at, body[at..end].to_vec())),
                _ => body[at.min(end.saturating_sub(1))..end]
                    .iter_mut()
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << self.up_to(7)),
            }
        }
    }

    #[test]
    fn twenty_thousand_broken_offers_get_a_sound_answer_or_none() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let seeds: Vec<Vec<u8>> = GOOD.into_iter().chain([BROWSER]).map(wire).collect();
        let (mut answered, mut read) = (0, 0);
        for round in 0..20_000 {
            let mut body = seeds[round % seeds.len()].clone();
            for _ in 0..=dice.up_to(8) {
                let other = dice.up_to(seeds.len() - 1);
                dice.mutate(&mut body, &seeds[other]);
            }
            let Ok(offer) = Offer::parse(&body) else { continue };
            let mut local = local_with(&[Codec::L16(Rate::Hz16000), Codec::G722, Codec::Pcma, Codec::Pcmu]);
            local.offer();
            read += usize::from(local.read_answer(&offer).is_ok());
            let Ok((text, media)) = local.answer(&offer) else { continue };
            answered += 1;
            assert!(text.bytes().all(|byte| matches!(byte, b'\r' | b'\n' | b' '..=b'~')), "{text:?}");
            let again = Offer::parse(text.as_bytes()).unwrap();
            assert_eq!(again.lines.len(), offer.lines.len(), "{text}");
            let (_, line, number) = again.choose(|line| line.payload_type(Encoding::Codec(media.codec.codec))).unwrap();
            assert_eq!((number, line.direction()), (media.codec.payload_type, media.direction), "{text}");
            assert_eq!(line.addr(), Some(local.address), "{text}");
            assert!(local.offer().len() < 8_000 && local.numbers.len() < 16);
        }
        assert!(answered > 10_000 && read > 10_000, "{answered} answered, {read} read");
    }
}
