//! One call's RTP in both directions: what a media thread holds of a SIP call, beside the sockets.
//!
//! ```text
//!   handle_packet, handle_rtcp   when a datagram came        poll_frame    20 ms of the caller, on every tick
//!   poll_rtcp                    on a tick, for the report   write_frame   20 ms of the agent, on every tick
//! ```
//! Both ways go on whatever the peer does: uplink frames are concealed or silent when nothing comes, and downlink
//! timestamps go on while nothing may be sent. Our SSRC, sequence and timestamps are drawn once and stay through every
//! re-INVITE, so that no PBX takes us for somebody else in the middle of a call.

use core::net::SocketAddr;

use crate::{
    leg::{
        rtp::{
            dice::Dice,
            dtmf::{self, Tick},
            packet::{HEADER, Header, Packet},
            reception::Reception,
            rtcp::{self, CNAME, Part, Report, SenderInfo},
            source::{Sources, Verdict},
        },
        sip::sdp::Media,
    },
    media::{
        clock::{Now, PTIME_MS},
        codec::{Codec, Encoder},
        frame::{MAX_SAMPLES, Rate},
        jitter::{self, Jitter},
    },
};

/// Room for the largest packet that a session writes (bytes): 20 ms of L16 at 48 kHz. A report is smaller.
pub const MAX_PACKET: usize = HEADER + 2 * MAX_SAMPLES;

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the two descriptions agreed on.
    pub media: Media,
    /// The peer may be behind a NAT: another address than its description's may be learned.
    pub learn: bool,
    /// While a digit is pressed, the agent hears nothing of it; see [`Session::set_mask_dtmf`].
    pub mask_dtmf: bool,
    /// Between what the time is kept for which late packets are waited for.
    pub bounds: jitter::Bounds,
    /// The peer is gone when nothing came for so long; `None`: never.
    pub timeout: Option<Now>,
    /// Drawn from the kernel: nobody may guess what follows from it.
    pub seed: u64,
}

/// What the peer told beside its voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key was pressed, one of `0-9*#A-D`.
    Digit(u8),
}

/// What a frame of the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// What the jitter buffer had, or made up.
    Audio(jitter::Got),
    /// Silence, in place of the sound of a digit.
    Masked,
    /// Silence, because the call is held.
    Held,
}

/// What a call's RTP was like so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets of the peer, of any kind.
    pub packets: u64,
    /// Packets of the peer that never came.
    pub lost: u64,
    /// Packets that came after their turn.
    pub late: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Samples made up for what did not come in time.
    pub concealed: u64,
    /// Interarrival jitter, as it is now (RFC 3550 6.4.1).
    pub jitter: Now,
    /// How long is waited for late packets now.
    pub target: Now,
    /// How much later than the fastest packet would allow the caller is heard now.
    pub delay: Now,
    /// The most that this was.
    pub most_delay: Now,
    /// Times that the caller was put on hold, or that nothing of the caller was to be heard for another reason.
    pub holds: u32,
    /// How long that was, all together.
    pub held: Now,
    /// Reports that we sent.
    pub reports: u64,
    /// Reports of the peer that told how long the way is.
    pub round_trips: u64,
    /// How long the last report and its answer were on the way together.
    pub round_trip: Option<Now>,
    /// Where the audio comes from; before any came, where the peer said that it would be.
    pub peer: Option<SocketAddr>,
    /// Datagrams of a source that is not, or not yet, accepted.
    pub foreign: u64,
    /// Datagrams that are no RTP or RTCP, or of a payload type that was not agreed on.
    pub bad: u64,
    /// Packets sent.
    pub sent: u64,
    /// Of what we sent, lost on the way by the peer's last report.
    pub remote_lost: i32,
    /// The highest fraction lost that any of the peer's reports told, in 256ths.
    pub remote_worst_fraction: u8,
    /// Jitter by the peer's last report.
    pub remote_jitter: Now,
}

/// One call's RTP.
pub struct Session {
    media: Media,
    learn: bool,
    bounds: jitter::Bounds,
    timeout: Option<Now>,
    dice: Dice,

    sources: Sources,
    reception: Reception,
    jitter: Jitter,
    digits_heard: dtmf::Receiver,
    /// While digits are masked, the frame before the one that the jitter buffer gave; else empty.
    held_back: Box<[i16]>,
    /// Until then the agent hears nothing.
    masked_until: Now,
    /// The last frame was masked, so the next begins softly.
    was_masked: bool,
    /// When something of the peer came, or began to be waited for.
    last_heard: Now,

    encoder: Encoder,
    digits: dtmf::Sender,
    ssrc: u32,
    sequence: u16,
    /// Of the next frame.
    timestamp: u32,
    /// The next packet is the first after a silence.
    talk_begins: bool,
    /// When the last packet went out, and the timestamp of its tick.
    last_sent: Option<(Now, u32)>,
    octets: u32,

    cname: [u8; CNAME],
    next_report: Now,
    sent_at_last_report: u64,
    /// Where RTCP of the peer came from.
    rtcp_from: Option<SocketAddr>,

    /// What is counted here; the rest is asked from where it is known.
    counted: Tally,
}

impl Session {
    /// A session at the start of its audio. It takes from the heap here, and when a re-INVITE changes the codec or masking
    /// begins.
    #[must_use]
    pub fn open(now: Now, setup: Setup) -> Self {
        let mut dice = Dice::new(setup.seed);
        let codec = setup.media.codec.codec;
        let (ssrc, sequence, timestamp) = (dice.roll() as u32, dice.roll() as u16, dice.roll() as u32);
        let cname = name(&mut dice);
        Self {
            sources: Sources::new(setup.media.addr.unwrap_or(NOWHERE), may_learn(setup.learn, &setup.media)),
            reception: Reception::new(),
            jitter: Jitter::open(codec, setup.bounds),
            digits_heard: dtmf::Receiver::new(),
            held_back: hold_back(setup.mask_dtmf, codec),
            masked_until: Now::ZERO,
            was_masked: false,
            last_heard: now,
            encoder: Encoder::new(codec),
            digits: dtmf::Sender::new(),
            ssrc,
            sequence,
            timestamp,
            talk_begins: true,
            last_sent: None,
            octets: 0,
            cname,
            // Half as long as the others, so that a short call has a report, too. RFC 3550 6.2
            next_report: now + REPORT_EVERY / 2 + dither(&mut dice),
            sent_at_last_report: 0,
            rtcp_from: None,
            counted: Tally::default(),
            media: setup.media,
            learn: setup.learn,
            bounds: setup.bounds,
            timeout: setup.timeout,
            dice,
        }
    }

    /// The rate of the frames, both ways.
    #[must_use]
    pub const fn rate(&self) -> Rate {
        self.media.codec.codec.rate()
    }

    /// What the audio is.
    #[must_use]
    pub const fn codec(&self) -> Codec {
        self.media.codec.codec
    }

    /// A re-INVITE or an UPDATE agreed on this.
    pub fn renegotiate(&mut self, now: Now, media: Media) {
        let was_listening = self.is_listening();
        let (codec, before) = (media.codec.codec, self.media.codec.codec);
        self.sources.renegotiate(media.addr.unwrap_or(NOWHERE), may_learn(self.learn, &media));
        if media.rtcp_addr != self.media.rtcp_addr {
            self.rtcp_from = None;
        }
        self.media = media;
        if codec != before {
            let buffer = self.jitter.tally();
            self.counted.late += buffer.late;
            self.counted.duplicates += buffer.duplicates;
            self.counted.concealed += buffer.concealed;
            self.counted.most_delay = self.counted.most_delay.max(millis(buffer.most_delay_ms));
            self.jitter = Jitter::open(codec, self.bounds);
            self.encoder = Encoder::new(codec);
            self.held_back = hold_back(self.is_masking(), codec);
            self.reception.set_clock(codec.clock());
        }
        if self.is_listening() != was_listening {
            // What lies here was said before the hold.
            self.jitter.restart();
            self.last_heard = now;
            self.counted.holds += u32::from(was_listening);
        }
    }

    /// From now on digits are kept from the agent, or no longer. While they are, the caller is heard a frame later: what
    /// turns a tone into an event needs a while to know it, and until then the tone comes as sound.
    pub fn set_mask_dtmf(&mut self, on: bool) {
        if on != self.is_masking() {
            self.held_back = hold_back(on, self.codec());
        }
    }

    /// A datagram came where RTP comes; RTCP may be among it (RFC 5761).
    pub fn handle_packet(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) -> Option<Input> {
        if rtcp::is_rtcp(datagram) {
            self.handle_rtcp(now, from, datagram);
            return None;
        }
        let Ok(Packet { header, payload }) = Packet::parse(datagram) else {
            self.counted.bad += 1;
            return None;
        };
        let Header { marker, sequence, timestamp, ssrc, .. } = header;
        let Some(kind) = self.kind_of(header.payload_type) else {
            self.counted.bad += 1;
            return None;
        };
        match self.sources.admit(now, from, ssrc, sequence, kind == Kind::Event) {
            Verdict::Play => {}
            Verdict::PlayAnew => {
                self.reception.begin(ssrc, self.codec().clock(), sequence);
                self.jitter.restart();
                self.digits_heard = dtmf::Receiver::new();
            }
            // Some peers count events apart from audio.
            Verdict::Stray if kind == Kind::Event => return self.on_event(now, marker, timestamp, payload),
            Verdict::Stray | Verdict::Probation | Verdict::Foreign => {
                self.counted.foreign += 1;
                return None;
            }
        }
        self.last_heard = now;
        self.reception.on_packet(sequence);
        match kind {
            Kind::Event => {
                self.jitter.skip(sequence);
                return self.on_event(now, marker, timestamp, payload);
            }
            Kind::Audio => {
                self.reception.on_audio(now, timestamp);
                if self.is_listening() {
                    self.jitter.insert(now, sequence, timestamp, marker, payload);
                }
            }
            Kind::ComfortNoise => self.jitter.skip(sequence),
        }
        None
    }

    /// A datagram came where RTCP comes.
    pub fn handle_rtcp(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        let is_named = self.media.rtcp_addr.is_some_and(|named| named.ip() == from.ip().to_canonical());
        if !is_named && !self.sources.is_peer(from) {
            self.counted.foreign += 1;
            return;
        }
        let Self { reception, counted, ssrc: ours, media, .. } = self;
        let clock = u64::from(media.codec.codec.clock());
        let understood = rtcp::read(datagram, |part| match part {
            Part::Sender { ssrc, info } => reception.on_sender_report(now, ssrc, info.ntp),
            Part::Block { block, .. } if block.ssrc == *ours => {
                counted.remote_lost = block.lost;
                counted.remote_worst_fraction = counted.remote_worst_fraction.max(block.fraction);
                counted.remote_jitter = Now::from_nanos(u64::from(block.jitter) * 1_000_000_000 / clock);
                if let Some(round_trip) = rtcp::round_trip(now, &block) {
                    counted.round_trip = Some(round_trip);
                    counted.round_trips += 1;
                }
            }
            // A goodbye is no end of a call: a PBX says it for one source when it plays another.
            Part::Block { .. } | Part::Cname { .. } | Part::Bye { .. } => {}
        });
        if understood.is_err() {
            self.counted.bad += 1;
            return;
        }
        self.last_heard = now;
        self.rtcp_from = Some(from);
    }

    /// The caller's next 20 ms, into a frame at the session's rate. To be asked on every tick.
    pub fn poll_frame(&mut self, now: Now, out: &mut [i16]) -> Got {
        // On hold, too: what it gave last must have faded away when the call goes on.
        let got = self.jitter.poll_frame(now, out);
        if !self.is_listening() {
            out.fill(0);
            self.held_back.fill(0);
            self.counted.held += Now::from_millis(PTIME_MS as u64);
            return Got::Held;
        }
        for (sample, held_back) in out.iter_mut().zip(&mut self.held_back) {
            core::mem::swap(sample, held_back);
        }
        if self.is_masking() && now < self.masked_until {
            out.fill(0);
            self.was_masked = true;
            return Got::Masked;
        }
        if core::mem::take(&mut self.was_masked) {
            let fade = self.rate().samples(FADE_MS) as i32;
            for (sample, step) in out.iter_mut().zip(0..fade) {
                *sample = (i32::from(*sample) * step / fade) as i16;
            }
        }
        Got::Audio(got)
    }

    /// The agent's next 20 ms as a packet, or the packet of a digit in its place. `None`: nothing may be sent now.
    pub fn write_frame<'b>(&mut self, now: Now, frame: &[i16], out: &'b mut [u8]) -> Option<&'b [u8]> {
        if !self.media.direction.sends() || self.media.hold || self.sources.peer().is_none() {
            self.rest();
            return None;
        }
        let step = self.step();
        let tick = self.timestamp;
        self.timestamp = self.timestamp.wrapping_add(step);
        let codec = self.media.codec;
        let event_type = codec.dtmf_payload_type;
        let due = if event_type.is_some() { self.digits.poll(tick, step) } else { Tick::Audio };
        let header = |marker, payload_type, timestamp| Header {
            marker,
            payload_type,
            sequence: self.sequence,
            timestamp,
            ssrc: self.ssrc,
        };
        let packet = match (due, event_type) {
            (Tick::Event { marker, timestamp, payload }, Some(event_type)) => header(marker, event_type, timestamp)
                .write(out, |space| {
                    space.get_mut(..payload.len())?.copy_from_slice(&payload);
                    Some(payload.len())
                }),
            (due, _) => {
                let samples = if due == Tick::Silence { &SILENCE[..frame.len().min(MAX_SAMPLES)] } else { frame };
                let encoder = &mut self.encoder;
                header(self.talk_begins, codec.payload_type, tick)
                    .write(out, |space| Some(encoder.encode(samples, space)))
            }
        }?;
        self.sequence = self.sequence.wrapping_add(1);
        self.talk_begins = false;
        self.last_sent = Some((now, tick));
        self.counted.sent += 1;
        self.octets = self.octets.wrapping_add((packet.len() - HEADER) as u32);
        Some(packet)
    }

    /// Nothing is sent for 20 ms, because there is nobody to hear it: for the peer a silence, after which talk begins. A
    /// digit that was begun ends here, or the peer would take it for one that was held all the while.
    pub fn rest(&mut self) {
        self.missed(1);
        self.digits.interrupt();
        self.talk_begins = true;
    }

    /// So many frames of 20 ms were never sent, because their ticks were missed: for the peer they are a gap, and what
    /// comes next is in its place.
    pub fn missed(&mut self, frames: u32) {
        self.timestamp = self.timestamp.wrapping_add(self.step().wrapping_mul(frames));
    }

    /// Queues a digit to be sent as an event. `false`: the peer takes none, too many wait, or it is no digit.
    #[must_use]
    pub fn send_digit(&mut self, digit: u8) -> bool {
        self.media.codec.dtmf_payload_type.is_some() && self.digits.push(digit)
    }

    /// The report that is due, if one is. To be asked on every tick; goes to [`Self::rtcp_peer`].
    pub fn poll_rtcp<'b>(&mut self, now: Now, out: &'b mut [u8]) -> Option<&'b [u8]> {
        if now < self.next_report {
            return None;
        }
        self.next_report = now + REPORT_EVERY * 9 / 10 + dither(&mut self.dice);
        self.report(now, false, out)
    }

    /// The last report: we leave.
    pub fn bye<'b>(&mut self, now: Now, out: &'b mut [u8]) -> Option<&'b [u8]> {
        self.report(now, true, out)
    }

    /// Where our packets go, if the peer has an address.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.sources.peer()
    }

    /// Where our reports go, if the peer has an address for them.
    #[must_use]
    pub fn rtcp_peer(&self) -> Option<SocketAddr> {
        let peer = self.sources.peer()?;
        if self.media.rtcp_mux {
            return Some(peer);
        }
        if !self.learn || Some(peer) == self.media.addr {
            return self.media.rtcp_addr;
        }
        // Behind a NAT: where its reports come from; before one came, the port that is next by custom.
        self.rtcp_from.or_else(|| Some(SocketAddr::new(peer.ip(), peer.port().checked_add(1)?)))
    }

    /// Whether RTCP goes where RTP does (RFC 5761).
    #[must_use]
    pub const fn is_muxed(&self) -> bool {
        self.media.rtcp_mux
    }

    /// Whether the peer seems to be gone: neither audio nor a report came for the time that the setup says. Never while
    /// the call is held.
    #[must_use]
    pub fn is_silent(&self, now: Now) -> bool {
        self.is_listening() && self.timeout.is_some_and(|timeout| now.saturating_sub(self.last_heard) >= timeout)
    }

    /// What it was like so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let buffer = self.jitter.tally();
        Tally {
            packets: self.reception.received(),
            lost: self.reception.lost().max(0).unsigned_abs(),
            late: self.counted.late + buffer.late,
            duplicates: self.counted.duplicates + buffer.duplicates,
            concealed: self.counted.concealed + buffer.concealed,
            jitter: self.reception.jitter(),
            target: millis(buffer.target_ms),
            delay: millis(buffer.delay_ms),
            most_delay: self.counted.most_delay.max(millis(buffer.most_delay_ms)),
            peer: self.sources.source(),
            ..self.counted
        }
    }

    /// Whether what the peer sends is for the agent. Music that a PBX plays to whom it holds is not.
    const fn is_listening(&self) -> bool {
        self.media.direction.receives() && !self.media.hold
    }

    const fn is_masking(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// Ticks of our clock in a frame.
    const fn step(&self) -> u32 {
        self.media.codec.codec.clock() / 1_000 * PTIME_MS as u32
    }

    fn kind_of(&self, payload_type: u8) -> Option<Kind> {
        let codec = &self.media.codec;
        if payload_type == codec.receive_payload_type {
            Some(Kind::Audio)
        } else if Some(payload_type) == codec.receive_dtmf_payload_type {
            Some(Kind::Event)
        } else if matches!(payload_type, COMFORT_NOISE | COMFORT_NOISE_OF_OLD) {
            Some(Kind::ComfortNoise)
        } else {
            None
        }
    }

    fn on_event(&mut self, now: Now, marker: bool, timestamp: u32, payload: &[u8]) -> Option<Input> {
        let was_pressed = self.digits_heard.is_pressed(now);
        let digit = self.digits_heard.handle(now, marker, timestamp, payload);
        // The sound of a digit lies in the buffer when its first packet comes, and still does when its last one does.
        let buffer = self.jitter.tally();
        let buffered = millis(buffer.delay_ms.max(buffer.target_ms)) + SLACK;
        if self.digits_heard.is_pressed(now) {
            self.masked_until = now + dtmf::TIMEOUT + buffered;
        } else if was_pressed || digit.is_some() {
            self.masked_until = now + buffered;
        }
        digit.map(Input::Digit)
    }

    fn report<'b>(&mut self, now: Now, bye: bool, out: &'b mut [u8]) -> Option<&'b [u8]> {
        let has_sent = self.counted.sent > self.sent_at_last_report;
        self.sent_at_last_report = self.counted.sent;
        self.counted.reports += 1;
        let clock = u128::from(self.codec().clock());
        let sender = self.last_sent.filter(|_| has_sent).map(|(then, timestamp)| SenderInfo {
            ntp: rtcp::ntp(now),
            // This moment on the clock of the audio.
            rtp: timestamp.wrapping_add((now.saturating_sub(then).as_nanos() * clock / 1_000_000_000) as u32),
            packets: self.counted.sent as u32,
            octets: self.octets,
        });
        let block = self.reception.report(now);
        Report { ssrc: self.ssrc, sender, block, cname: &self.cname, bye }.write(out)
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Audio,
    Event,
    ComfortNoise,
}

/// A description without an address, and without hold, leaves nothing to go by but what arrives.
fn may_learn(learn: bool, media: &Media) -> bool {
    learn || media.addr.is_none() && !media.hold
}

fn millis(ms: u32) -> Now {
    Now::from_millis(ms.into())
}

/// A name that says nothing about where we are, and is another in every call. RFC 7022 4.2
fn name(dice: &mut Dice) -> [u8; CNAME] {
    [(); CNAME].map(|()| b"0123456789abcdef"[dice.below(16) as usize])
}

/// Room for the frame that is held back while digits are masked.
fn hold_back(mask: bool, codec: Codec) -> Box<[i16]> {
    core::iter::repeat_n(0, if mask { codec.rate().frame() } else { 0 }).collect()
}

/// So that the reports of many calls that began together spread out: up to a fifth. RFC 3550 6.2
fn dither(dice: &mut Dice) -> Now {
    Now::from_millis(dice.below(REPORT_EVERY.as_millis() as u64 / 5))
}

/// What is sent between two digits.
static SILENCE: [i16; MAX_SAMPLES] = [0; MAX_SAMPLES];

/// A peer without an address.
const NOWHERE: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED), 0);

/// The time between two reports, more or less. RFC 3550 6.2
const REPORT_EVERY: Now = Now::from_secs(5);

/// RFC 3389. It needs no agreement: RFC 3551 gives it this number.
const COMFORT_NOISE: u8 = 13;
/// What Cisco's first gateways used for it.
const COMFORT_NOISE_OF_OLD: u8 = 19;

/// How softly sound begins after a digit was masked: nobody hears a step at this length.
const FADE_MS: usize = 5;

/// The frame that is held back, and two more: a gateway that finds digits in sound may let the tone end that much late.
const SLACK: Now = Now::from_millis(60);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        leg::{
            rtp::{dice::Dice, mutate},
            sip::sdp::{Direction, Negotiated},
        },
        media::g711::Law,
    };

    const MS: fn(u64) -> Now = Now::from_millis;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    /// Where the peer is.
    fn pbx() -> SocketAddr {
        at("192.0.2.10:4000")
    }

    fn media(codec: Codec) -> Media {
        let payload_type = codec.payload_type().unwrap_or(96);
        Media {
            addr: Some(pbx()),
            rtcp_addr: Some(at("192.0.2.10:4001")),
            rtcp_mux: false,
            hold: false,
            direction: Direction::SendRecv,
            codec: Negotiated {
                codec,
                payload_type,
                receive_payload_type: payload_type,
                ptime_ms: 20,
                dtmf_payload_type: Some(101),
                receive_dtmf_payload_type: Some(101),
            },
        }
    }

    fn setup(media: Media) -> Setup {
        let (bounds, timeout) = (jitter::Bounds::default(), Some(Now::from_secs(60)));
        Setup { media, learn: false, mask_dtmf: false, bounds, timeout, seed: 20 }
    }

    fn pcmu() -> Session {
        Session::open(Now::ZERO, setup(media(Codec::Pcmu)))
    }

    fn tone(rate: Rate, from: usize, len: usize) -> Vec<i16> {
        let sample = |n: usize| (f64::from(n as u32) * 440.0 / f64::from(rate.hz()) * std::f64::consts::TAU).sin();
        (from..from + len).map(|n| (8_000.0 * sample(n)) as i16).collect()
    }

    /// Packets as a PBX sends them, from bytes.
    #[derive(Clone)]
    struct Pbx {
        sequence: u16,
        timestamp: u32,
        ssrc: u32,
        said: usize,
    }

    impl Pbx {
        fn new() -> Self {
            Self { sequence: 65_500, timestamp: 0xffff_f000, ssrc: 0x1111_2222, said: 0 }
        }

        fn head(&mut self, flags: u8, kind: u8, timestamp: u32) -> Vec<u8> {
            let mut packet = vec![flags, kind];
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(timestamp.to_be_bytes());
            packet.extend(self.ssrc.to_be_bytes());
            self.sequence = self.sequence.wrapping_add(1);
            packet
        }

        /// The next milliseconds of a tone.
        fn audio(&mut self, ms: usize) -> Vec<u8> {
            let samples = tone(Rate::Hz8000, self.said, 8 * ms);
            self.audio_of(&samples)
        }

        fn audio_of(&mut self, samples: &[i16]) -> Vec<u8> {
            let kind = if self.said == 0 { 0x80 } else { 0 };
            let mut packet = self.head(0x80, kind, self.timestamp);
            packet.extend(samples.iter().map(|&sample| Law::Mu.encode(sample)));
            self.pass(samples.len());
            packet
        }

        /// An event in place of 20 ms of audio: its code, how long it has lasted, and whether it is over.
        fn event(&mut self, code: u8, ticks: u32, end: bool) -> Vec<u8> {
            let began = self.timestamp.wrapping_sub(ticks);
            let mut packet = self.head(0x80, if ticks == 0 { 0xe5 } else { 0x65 }, began);
            let [high, low] = ((ticks + 160) as u16).to_be_bytes();
            packet.extend([code, if end { 0x8a } else { 0x0a }, high, low]);
            packet
        }

        fn pass(&mut self, samples: usize) {
            self.said += samples;
            self.timestamp = self.timestamp.wrapping_add(samples as u32);
        }
    }

    /// What the agent hears when `tell` has told the session what came before each tick.
    fn listen(session: &mut Session, ticks: u64, mut tell: impl FnMut(&mut Session, u64, Now)) -> Vec<i16> {
        let mut heard = vec![];
        for tick in 0..ticks {
            let now = MS(20 * tick);
            tell(session, tick, now);
            let mut frame = vec![1; session.rate().frame()];
            // Between two packets.
            session.poll_frame(now + MS(5), &mut frame);
            heard.extend(frame);
        }
        heard
    }

    /// That this was heard, whole from its beginning on.
    fn assert_heard(heard: &[i16], expected: &[i16], rate: Rate, least: usize) {
        // The beginning is faded in.
        let (soft, seen) = (rate.samples(10), rate.samples(10));
        let start = heard.windows(seen).position(|window| window == &expected[soft..soft + seen]).unwrap();
        let (heard, expected) = (&heard[start..], &expected[soft..]);
        assert!(heard.len() >= least && heard.len() <= expected.len(), "{} of {}", heard.len(), expected.len());
        let wrong = heard.iter().zip(expected).position(|(heard, expected)| heard != expected);
        assert_eq!(wrong, None, "of {}", heard.len());
    }

    fn through_mu(samples: &[i16]) -> Vec<i16> {
        samples.iter().map(|&sample| Law::Mu.decode(Law::Mu.encode(sample))).collect()
    }

    #[test]
    fn a_tone_goes_from_session_to_session_and_only_g711_changes_it() {
        for codec in [Codec::Pcmu, Codec::Pcma, Codec::L16(Rate::Hz16000)] {
            let rate = codec.rate();
            let mut far = Session::open(Now::ZERO, Setup { seed: 7, ..setup(media(codec)) });
            let mut near = Session::open(Now::ZERO, setup(media(codec)));
            let said = tone(rate, 0, 200 * rate.frame());
            let mut frames = said.chunks(rate.frame());
            let heard = listen(&mut near, 200, |near, _, now| {
                let mut space = [0; MAX_PACKET];
                let packet = far.write_frame(now, frames.next().unwrap(), &mut space).unwrap();
                assert_eq!(near.handle_packet(now, pbx(), packet), None);
            });
            let expected: Vec<i16> = match codec {
                Codec::Pcmu => through_mu(&said),
                Codec::Pcma => said.iter().map(|&sample| Law::A.decode(Law::A.encode(sample))).collect(),
                Codec::G722 | Codec::L16(_) => said,
            };
            assert_heard(&heard, &expected, rate, 190 * rate.frame());
            let tally = near.tally();
            assert_eq!((tally.packets, tally.lost, tally.late, tally.concealed), (200, 0, 0, 0));
            assert_eq!((tally.foreign, tally.bad, tally.jitter), (0, 0, Now::ZERO));
        }
    }

    /// What the agent hears of a PBX's tone when this comes after each of its packets.
    fn heard_beside(ticks: u64, mut attack: impl FnMut(&mut Session, u64, Now, &[Vec<u8>])) -> (Vec<i16>, Tally) {
        let mut session = pcmu();
        let mut pbx_says = Pbx::new();
        let mut sent = vec![];
        let heard = listen(&mut session, ticks, |session, tick, now| {
            sent.push(pbx_says.audio(20));
            session.handle_packet(now, pbx(), sent.last().unwrap());
            attack(session, tick, now, &sent);
        });
        (heard, session.tally())
    }

    #[test]
    fn of_what_others_send_not_one_sample_is_heard() {
        let (alone, calm) = heard_beside(500, |_, _, _, _| ());
        assert_eq!(calm.concealed, 0);
        let mut loud = Pbx { ssrc: 0x666, said: 8, ..Pbx::new() };
        let mut shout = move |kind: u8| {
            let mut packet = loud.audio_of(&[30_000; 160]);
            packet[1] = kind;
            packet
        };
        type Attack<'a> = Box<dyn FnMut(&mut Session, u64, Now, &[Vec<u8>]) + 'a>;
        let elsewhere = at("198.51.100.66:4000");
        let mut shout_in_its_name = shout.clone();
        let mut shout_otherwise = shout.clone();
        let attacks: [(&str, Attack<'_>); 7] = [
            (
                "another address",
                Box::new(move |session, _, now, _| {
                    assert_eq!(session.handle_packet(now, elsewhere, &shout(0)), None);
                }),
            ),
            (
                "another SSRC in the name of the PBX, in bursts",
                Box::new(move |session, tick, now, _| {
                    for _ in 0..tick % 9 {
                        session.handle_packet(now, pbx(), &shout_in_its_name(0));
                    }
                }),
            ),
            (
                "another payload type",
                Box::new(move |session, _, now, _| {
                    session.handle_packet(now, pbx(), &shout_otherwise(8));
                }),
            ),
            (
                "the right SSRC and sequence from another address",
                Box::new(move |session, _, now, sent| {
                    let mut packet = sent.last().unwrap().clone();
                    packet[3] = packet[3].wrapping_add(1);
                    packet[12..].fill(0x80);
                    session.handle_packet(now, elsewhere, &packet);
                }),
            ),
            (
                "a replay of what was just said",
                Box::new(|session, tick, now, sent| {
                    session.handle_packet(now, pbx(), &sent[tick.saturating_sub(3) as usize]);
                }),
            ),
            (
                "a replay of what was said long ago",
                Box::new(|session, tick, now, sent| {
                    if tick >= 200 {
                        for old in &sent[tick as usize - 200..tick as usize - 190] {
                            session.handle_packet(now, pbx(), old);
                        }
                    }
                }),
            ),
            (
                "no RTP at all",
                Box::new(|session, _, now, _| {
                    session.handle_packet(now, pbx(), &[0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42]);
                    session.handle_packet(now, pbx(), b"");
                }),
            ),
        ];
        for (name, attack) in attacks {
            let (heard, tally) = heard_beside(500, attack);
            assert!(heard == alone, "{name}");
            let refused = tally.foreign + tally.bad + tally.duplicates;
            assert!(refused >= 300, "{name}: {tally:?}");
        }
    }

    #[test]
    fn a_new_ssrc_in_the_call_is_heard_a_moment_later_and_the_sums_go_on() {
        let mut session = pcmu();
        let mut first = Pbx::new();
        let mut second = Pbx { sequence: 9, timestamp: 5, ssrc: 0x3333_4444, said: 0 };
        let heard = listen(&mut session, 100, |session, tick, now| {
            let packet = if tick < 50 { first.audio(20) } else { second.audio(20) };
            session.handle_packet(now, pbx(), &packet);
        });
        let is_sound = |frame: &[i16]| frame.iter().any(|&sample| sample.unsigned_abs() > 4_000);
        let frames: Vec<bool> = heard.chunks(160).map(is_sound).collect();
        assert!(frames[3..50].iter().all(|&sound| sound) && frames[57..].iter().all(|&sound| sound), "{frames:?}");
        let tally = session.tally();
        assert_eq!((tally.packets, tally.lost, tally.foreign), (97, 0, 3));
    }

    #[test]
    fn digits_take_sequence_numbers_and_leave_no_hole_behind() {
        // Counted with the audio, as Asterisk does, and apart from it.
        for apart in [false, true] {
            let mut session = pcmu();
            let mut says = Pbx::new();
            let mut digits = vec![];
            let mut apart_from = Pbx { sequence: 20_000, ..Pbx::new() };
            listen(&mut session, 150, |session, tick, now| {
                let packet = match tick {
                    50..57 => {
                        let ticks = 160 * (tick - 50).min(4) as u32;
                        apart_from.timestamp = says.timestamp;
                        let from = if apart { &mut apart_from } else { &mut says };
                        let packet = from.event(9, ticks, tick >= 54);
                        says.pass(160 * usize::from(tick < 54));
                        packet
                    }
                    _ => says.audio(20),
                };
                digits.extend(session.handle_packet(now, pbx(), &packet));
            });
            let tally = session.tally();
            assert_eq!(digits, [Input::Digit(b'9')]);
            assert_eq!((tally.lost, tally.late, tally.bad, tally.foreign), (0, 0, 0, 0), "{apart}");
            assert!(apart || tally.concealed == 0, "{tally:?}");
        }
    }

    #[test]
    fn comfort_noise_keeps_the_clock_and_is_no_loss() {
        for payload_type in [13, 19] {
            let mut session = pcmu();
            let mut says = Pbx::new();
            let heard = listen(&mut session, 150, |session, tick, now| match tick {
                50 => {
                    let mut noise = says.head(0x80, payload_type, says.timestamp);
                    noise.push(0x40);
                    session.handle_packet(now, pbx(), &noise);
                    says.pass(160);
                }
                51..100 => says.pass(160),
                _ => {
                    session.handle_packet(now, pbx(), &says.audio(20));
                }
            });
            let tally = session.tally();
            assert_eq!((tally.lost, tally.bad, tally.concealed), (0, 0, 0));
            assert!(heard[54 * 160..99 * 160].iter().all(|&sample| sample == 0));
            assert!(heard[104 * 160..].iter().any(|&sample| sample > 7_000));
        }
    }

    #[test]
    fn packets_of_thirty_milliseconds_with_an_extension_and_padding_are_the_same_tone() {
        let mut session = pcmu();
        let mut says = Pbx::new();
        let heard = listen(&mut session, 300, |session, tick, now| {
            for half in [2 * tick, 2 * tick + 1] {
                if half % 3 == 0 {
                    let plain = says.audio(30);
                    let mut packet = plain[..12].to_vec();
                    packet[0] |= 0x20 | 0x10 | 1;
                    packet.extend([9, 9, 9, 9, 0xbe, 0xde, 0, 1, 0x10, 0x7f, 0, 0]);
                    packet.extend(&plain[12..]);
                    packet.extend([0, 0, 3]);
                    session.handle_packet(now + MS(10 * (half % 2)), pbx(), &packet);
                }
            }
        });
        assert_heard(&heard, &through_mu(&tone(Rate::Hz8000, 0, 300 * 160)), Rate::Hz8000, 290 * 160);
        assert_eq!((session.tally().concealed, session.tally().lost), (0, 0));
    }

    #[test]
    fn reports_on_the_port_of_rtp_are_read_and_play_nothing() {
        let (alone, _) = heard_beside(100, |_, _, _, _| ());
        let (heard, tally) = heard_beside(100, |session, _, now, _| {
            let report = [0x80, 0xc9, 0, 1, 0x11, 0x11, 0x22, 0x22];
            assert_eq!(session.handle_packet(now, pbx(), &report), None);
        });
        assert!(heard == alone);
        assert_eq!((tally.bad, tally.foreign), (0, 0));
    }

    /// Two sessions and a wire that takes so long.
    struct Pair {
        sessions: [Session; 2],
        wire: Now,
        /// When, to whom, whether RTCP, and what.
        flying: Vec<(Now, usize, bool, Vec<u8>)>,
        told: [Vec<Input>; 2],
    }

    impl Pair {
        fn new(wire: Now) -> Self {
            let open = |seed| Session::open(Now::ZERO, Setup { seed, ..setup(media(Codec::Pcmu)) });
            Self { sessions: [open(1), open(2)], wire, flying: vec![], told: [vec![], vec![]] }
        }

        fn run(&mut self, ms: core::ops::Range<u64>) {
            for now in ms.map(MS) {
                for (_, to, is_report, bytes) in self.flying.extract_if(.., |(then, ..)| *then <= now) {
                    if is_report {
                        self.sessions[to].handle_rtcp(now, at("192.0.2.10:4001"), &bytes);
                    } else {
                        self.told[to].extend(self.sessions[to].handle_packet(now, pbx(), &bytes));
                    }
                }
                if now.as_millis() % 20 != 0 {
                    continue;
                }
                for (n, session) in self.sessions.iter_mut().enumerate() {
                    let mut space = [0; MAX_PACKET];
                    session.poll_frame(now, &mut [0; 160]);
                    let there = now + self.wire;
                    if let Some(packet) = session.write_frame(now, &[100; 160], &mut space) {
                        self.flying.push((there, 1 - n, false, packet.to_vec()));
                    }
                    if let Some(report) = session.poll_rtcp(now, &mut space) {
                        self.flying.push((there, 1 - n, true, report.to_vec()));
                    }
                }
            }
        }
    }

    #[test]
    fn two_sessions_know_how_long_the_way_between_them_is() {
        let mut pair = Pair::new(MS(37));
        pair.run(0..20_000);
        for session in &pair.sessions {
            let tally = session.tally();
            let trip = tally.round_trip.unwrap();
            assert!(tally.reports >= 3 && tally.round_trips >= 2, "{tally:?}");
            assert!(trip.abs_diff(MS(74)) < MS(1), "{trip:?}");
            assert_eq!((tally.remote_lost, tally.remote_worst_fraction, tally.remote_jitter), (0, 0, Now::ZERO));
            assert_eq!((tally.sent, tally.foreign, tally.bad), (1_000, 0, 0));
        }
    }

    #[test]
    fn the_caller_is_heard_as_late_as_the_bounds_say_after_a_re_invite_too() {
        let bounds = jitter::Bounds { least_ms: 60, most_ms: 80 };
        let mut session = Session::open(Now::ZERO, Setup { bounds, ..setup(media(Codec::Pcmu)) });
        let mut says = Pbx::new();
        listen(&mut session, 50, |session, _, now| {
            session.handle_packet(now, pbx(), &says.audio(20));
        });
        let tally = session.tally();
        assert_eq!((tally.target, tally.peer), (MS(60), Some(pbx())));
        assert!((MS(50)..=MS(80)).contains(&tally.delay) && tally.most_delay >= tally.delay, "{tally:?}");
        session.renegotiate(MS(1_000), media(Codec::Pcma));
        let after = session.tally();
        assert_eq!((after.target, after.most_delay), (MS(60), tally.most_delay));
    }

    #[test]
    fn what_the_peer_lost_is_told_by_its_report() {
        let mut pair = Pair::new(MS(1));
        for second in 0..15 {
            pair.run(1_000 * second..1_000 * second + 999);
            // One packet in fifty.
            let sequence = &mut pair.sessions[0].sequence;
            *sequence = sequence.wrapping_add(1);
        }
        let tally = pair.sessions[0].tally();
        assert!((9..=14).contains(&tally.remote_lost), "{tally:?}");
        assert!((4..=6).contains(&tally.remote_worst_fraction), "{tally:?}");
        assert!(pair.sessions[1].tally().lost >= 14);
    }

    #[test]
    fn digits_go_from_session_to_session_once_and_in_order() {
        let mut pair = Pair::new(MS(30));
        pair.run(0..1_000);
        let digits = b"*0123456789#ABCD";
        assert!(digits.iter().all(|&digit| pair.sessions[0].send_digit(digit)));
        pair.run(1_000..5_000);
        let heard: Vec<u8> = pair.told[1].iter().map(|&Input::Digit(digit)| digit).collect();
        assert_eq!(heard, digits);
        assert_eq!(pair.told[0], []);
        let tally = pair.sessions[1].tally();
        assert_eq!((tally.lost, tally.late, tally.concealed), (0, 0, 0));
    }

    #[test]
    fn a_digit_is_sent_in_place_of_audio_and_the_numbers_go_on() {
        let mut session = pcmu();
        let mut space = [0; MAX_PACKET];
        let mut write = |session: &mut Session| {
            let packet = session.write_frame(Now::ZERO, &[0; 160], &mut space).unwrap();
            let packet = Packet::parse(packet).unwrap();
            (packet.header, packet.payload.len())
        };
        let (first, _) = write(&mut session);
        assert!(first.marker && first.payload_type == 0);
        assert!(session.send_digit(b'1') && !session.send_digit(b'x'));
        for n in 1..=7 {
            let (header, len) = write(&mut session);
            assert_eq!((header.payload_type, header.marker, len), (101, n == 1, 4));
            assert_eq!(header.timestamp, first.timestamp.wrapping_add(160));
            assert_eq!(header.sequence, first.sequence.wrapping_add(n));
        }
        let (header, len) = write(&mut session);
        assert_eq!((header.payload_type, header.marker, len), (0, false, 160));
        assert_eq!(header.timestamp, first.timestamp.wrapping_add(8 * 160));

        session.missed(3);
        let (header, _) = write(&mut session);
        assert_eq!(header.timestamp, first.timestamp.wrapping_add(12 * 160));
        assert_eq!((header.sequence, header.ssrc), (first.sequence.wrapping_add(9), first.ssrc));

        let mut without = media(Codec::Pcmu);
        without.codec.dtmf_payload_type = None;
        session.renegotiate(Now::ZERO, without);
        assert!(!session.send_digit(b'1'));
    }

    #[test]
    fn a_hold_ends_a_digit_that_was_begun_and_the_next_talk_begins_anew() {
        let mut session = pcmu();
        let mut space = [0; MAX_PACKET];
        let mut write = |session: &mut Session| {
            let packet = session.write_frame(Now::ZERO, &[0; 160], &mut space).unwrap();
            Packet::parse(packet).unwrap().header
        };
        let first = write(&mut session);
        assert!(session.send_digit(b'1'));
        assert_eq!(write(&mut session).payload_type, 101);
        for _ in 0..500 {
            session.rest();
        }
        let header = write(&mut session);
        assert_eq!((header.payload_type, header.marker), (0, true), "not a key that was held for ten seconds");
        assert_eq!(header.timestamp, first.timestamp.wrapping_add(502 * 160));
        assert_eq!(header.sequence, first.sequence.wrapping_add(2));
    }

    #[test]
    fn on_hold_the_agent_hears_silence_and_nothing_is_sent_nor_missed() {
        let mut session = pcmu();
        let mut says = Pbx::new();
        let mut space = [0; MAX_PACKET];
        let before = session.write_frame(Now::ZERO, &[0; 160], &mut space).map(|p| Packet::parse(p).unwrap().header);
        listen(&mut session, 50, |session, _, now| {
            session.handle_packet(now, pbx(), &says.audio(20));
        });
        let mut held = media(Codec::Pcmu);
        (held.addr, held.hold, held.direction) = (None, true, Direction::Inactive);
        session.renegotiate(MS(1_000), held);
        let music = listen(&mut session, 200, |session, _, now| {
            session.handle_packet(now + MS(1_000), pbx(), &says.audio(20));
            assert_eq!(session.write_frame(now, &[0; 160], &mut [0; MAX_PACKET]), None);
        });
        assert!(music.iter().all(|&sample| sample == 0));
        assert_eq!(session.poll_frame(MS(5_000), &mut [0; 160]), Got::Held);
        assert!(!session.is_silent(Now::from_secs(3_600)));
        assert_eq!((session.tally().holds, session.tally().held), (1, MS(201 * 20)));

        session.renegotiate(Now::from_secs(3_600), media(Codec::Pcmu));
        assert!(!session.is_silent(Now::from_secs(3_659)) && session.is_silent(Now::from_secs(3_660)));
        let mut frame = [1; 160];
        session.poll_frame(Now::from_secs(3_600), &mut frame);
        assert_eq!(frame, [0; 160], "what lay in the buffer is gone");
        let after = session.write_frame(Now::ZERO, &[0; 160], &mut space).map(|p| Packet::parse(p).unwrap().header);
        let (before, after) = (before.unwrap(), after.unwrap());
        assert!(after.marker, "talk begins");
        assert_eq!(after.sequence, before.sequence.wrapping_add(1));
        assert_eq!(after.timestamp, before.timestamp.wrapping_add(201 * 160));
    }

    #[test]
    fn a_re_invite_changes_codec_and_address_and_we_stay_who_we_are() {
        let mut session = pcmu();
        let mut space = [0; MAX_PACKET];
        let before = Packet::parse(session.write_frame(MS(0), &[0; 160], &mut space).unwrap()).unwrap().header;
        let mut wide = media(Codec::G722);
        wide.addr = Some(at("192.0.2.99:5000"));
        session.renegotiate(MS(20), wide);
        assert_eq!((session.rate(), session.peer()), (Rate::Hz16000, Some(at("192.0.2.99:5000"))));
        let packet = Packet::parse(session.write_frame(MS(20), &[0; 320], &mut space).unwrap()).unwrap();
        assert_eq!((packet.header.payload_type, packet.payload.len()), (9, 160));
        assert_eq!(packet.header.ssrc, before.ssrc);
        assert_eq!(packet.header.timestamp, before.timestamp.wrapping_add(160));
        // What is still on its way from the old place is of the old codec.
        assert_eq!(session.handle_packet(MS(25), pbx(), &Pbx::new().audio(20)), None);
        assert_eq!(session.tally().bad, 1);
    }

    #[test]
    fn a_peer_behind_a_nat_is_answered_where_it_is() {
        let nat = at("203.0.113.7:62000");
        let mut session = Session::open(Now::ZERO, Setup { learn: true, ..setup(media(Codec::Pcmu)) });
        let mut says = Pbx::new();
        assert_eq!((session.peer(), session.rtcp_peer()), (Some(pbx()), Some(at("192.0.2.10:4001"))));
        let heard = listen(&mut session, 20, |session, tick, now| {
            session.handle_packet(now, nat, &says.audio(20));
            assert_eq!(session.peer(), Some(if tick < 3 { pbx() } else { nat }));
        });
        // Of the first three nothing.
        let expected = through_mu(&tone(Rate::Hz8000, 0, 20 * 160))[3 * 160..].to_vec();
        assert_heard(&heard, &expected, Rate::Hz8000, 15 * 160);
        assert_eq!(session.rtcp_peer(), Some(at("203.0.113.7:62001")));
        session.handle_rtcp(MS(400), at("203.0.113.7:62500"), &[0x80, 0xc9, 0, 1, 0x11, 0x11, 0x22, 0x22]);
        assert_eq!(session.rtcp_peer(), Some(at("203.0.113.7:62500")));
    }

    #[test]
    fn reports_of_strangers_change_nothing_and_keep_no_call_alive() {
        let mut session = pcmu();
        let ours = session.ssrc;
        let mut space = [0; MAX_PACKET];
        let lie = Report {
            ssrc: 1,
            sender: None,
            block: Some(rtcp::Block { ssrc: ours, fraction: 255, lost: 9_999, ..rtcp::Block::default() }),
            cname: &[b'x'; CNAME],
            bye: true,
        };
        let lie = lie.write(&mut space).unwrap();
        session.handle_rtcp(Now::from_secs(59), at("198.51.100.66:4001"), lie);
        assert_eq!((session.tally().remote_lost, session.tally().foreign), (0, 1));
        assert!(session.is_silent(Now::from_secs(60)));
        session.handle_rtcp(Now::from_secs(60), at("192.0.2.10:4001"), lie);
        assert!(!session.is_silent(Now::from_secs(60)), "the peer itself does, and its goodbye ends nothing");
        assert_eq!(session.tally().remote_lost, 9_999);
    }

    #[test]
    fn we_report_every_five_seconds_or_so_and_say_goodbye() {
        let mut session = pcmu();
        let mut space = [0; MAX_PACKET];
        let mut at = vec![];
        for now in (0..60_000).step_by(20).map(MS) {
            if now < Now::from_secs(30) {
                session.write_frame(now, &[0; 160], &mut space);
            }
            if let Some(report) = session.poll_rtcp(now, &mut space) {
                assert!(report.len() <= rtcp::MAX_REPORT);
                // A sender's while we send.
                let kind = if now < Now::from_secs(30) { 200 } else { 201 };
                assert!(report[1] == kind || at.last().is_some_and(|&last| last < Now::from_secs(30)));
                at.push(now);
            }
        }
        assert!(at[0] >= MS(2_500) && at[0] <= MS(3_520), "{at:?}");
        for pair in at.windows(2) {
            assert!((MS(4_500)..=MS(5_520)).contains(&(pair[1] - pair[0])), "{at:?}");
        }
        let mut byes = 0;
        let goodbye = session.bye(Now::from_secs(60), &mut space).unwrap();
        rtcp::read(goodbye, |part| byes += u8::from(part == Part::Bye { ssrc: 0 } || matches!(part, Part::Bye { .. })))
            .unwrap();
        assert_eq!(byes, 1);
    }

    #[test]
    fn of_a_masked_digit_not_one_sample_is_heard() {
        // Quiet talk, and a loud tone while a key is down; its first event comes with the tone's first packet or one later.
        for event_after in [0, 1] {
            for mask in [false, true] {
                let mut session = Session::open(Now::ZERO, Setup { mask_dtmf: mask, ..setup(media(Codec::Pcmu)) });
                let mut says = Pbx::new();
                let mut told = vec![];
                let heard = listen(&mut session, 150, |session, tick, now| {
                    let pressed = (50..60).contains(&tick);
                    let level = if pressed { 20_000 } else { 300 };
                    let samples: Vec<i16> = (0..160).map(|n| if n % 8 < 4 { level } else { -level }).collect();
                    let packet = says.audio_of(&samples);
                    session.handle_packet(now, pbx(), &packet);
                    let (since, last) = (tick.wrapping_sub(50 + event_after), 9 - event_after);
                    if since <= last {
                        let repeats = if since == last { 3 } else { 1 };
                        for _ in 0..repeats {
                            // It takes a number, and no time.
                            let event = says.event(7, 160 * since as u32, since == last);
                            told.extend(session.handle_packet(now, pbx(), &event));
                        }
                    }
                });
                assert_eq!(told, [Input::Digit(b'7')]);
                let loudest = heard.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
                if !mask {
                    assert!(loudest > 15_000);
                    continue;
                }
                assert!(loudest < 1_000, "{loudest} with {event_after}");
                let talk = |frames: core::ops::Range<usize>| heard[160 * frames.start..160 * frames.end].iter();
                assert!(talk(5..48).all(|&sample| sample != 0), "talk before it is heard");
                assert!(talk(70..150).all(|&sample| sample != 0), "and after it");
            }
        }
    }

    #[test]
    fn twenty_thousand_mutated_datagrams_do_no_harm() {
        let mut dice = Dice::new(24);
        let mut session = Session::open(Now::ZERO, Setup { learn: true, mask_dtmf: true, ..setup(media(Codec::Pcmu)) });
        let (mut says, mut other) = (Pbx::new(), pcmu());
        let mut space = [0; MAX_PACKET];
        for n in 0..20_000_u64 {
            let now = MS(20 * n);
            let mut bytes = match dice.below(4) {
                0 => says.event(dice.below(20) as u8, 160, dice.below(3) == 0),
                1 => {
                    other.write_frame(now, &[9; 160], &mut space);
                    other.handle_packet(now, pbx(), &says.audio(20));
                    other.report(now, dice.below(2) == 0, &mut space).unwrap().to_vec()
                }
                _ => says.audio(20),
            };
            if dice.below(4) > 0 {
                mutate(&mut dice, &mut bytes);
            }
            let from = [pbx(), at("198.51.100.66:9"), at("192.0.2.10:4001")][dice.below(3) as usize];
            session.handle_packet(now, from, &bytes);
            session.handle_rtcp(now, from, &bytes);
            let mut frame = [1; 160];
            session.poll_frame(now, &mut frame);
            session.write_frame(now, &frame, &mut [0; MAX_PACKET]);
            session.poll_rtcp(now, &mut [0; MAX_PACKET]);
        }
        let tally = session.tally();
        assert!(tally.packets > 1_000 && tally.foreign > 1_000 && tally.bad > 1_000, "{tally:?}");
        // Whatever came, the next call on this wire is heard: the buffer did not lose its way.
        let mut says = Pbx { ssrc: 0x77, ..Pbx::new() };
        let heard: Vec<i16> = (0..100)
            .flat_map(|n| {
                let now = Now::from_secs(500) + MS(20 * n);
                session.handle_packet(now, pbx(), &says.audio(20));
                let mut frame = [0; 160];
                session.poll_frame(now, &mut frame);
                frame
            })
            .collect();
        assert!(heard[50 * 160..].chunks(160).all(|frame| frame.iter().any(|&sample| sample > 7_000)));
    }
}
