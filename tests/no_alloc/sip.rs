//! Calls of a SIP line: RTP from a network that loses, swaps and doubles packets, reports, keys and hold.

use trunkline::{
    call::{
        gauges::Gauges,
        outcome::{Figures, LineTally},
    },
    control::metrics::{Counter, Metrics},
    leg::{
        rtp::session::{self, Got, MAX_PACKET, Session},
        sip::sdp::{self, Media, Negotiated},
    },
    media::{
        codec::Codec,
        jitter::{self, Bounds},
    },
};

use super::*;

const CODECS: [Codec; 5] = [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::L16(Rate::Hz8000), Codec::L16(Rate::Hz16000)];

fn media(codec: Codec, port: u16) -> Media {
    let payload_type = codec.payload_type().unwrap_or(96);
    let at = |port| Some(([192, 0, 2, 10], port).into());
    Media {
        addr: at(port),
        rtcp_addr: at(port + 1),
        rtcp_mux: false,
        hold: false,
        direction: sdp::Direction::SendRecv,
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

fn open(media: Media, seed: u64) -> Session {
    let (bounds, timeout) = (Bounds::default(), Some(Now::from_secs(60)));
    Session::open(Now::ZERO, session::Setup { media, learn: true, mask_dtmf: true, bounds, timeout, seed })
}

/// A datagram on its way, and whether it is RTCP.
type Datagram = (Vec<u8>, bool);

/// The daemon's side of a SIP call, and the phone at its other end.
struct SipCall {
    call: Call,
    session: Session,
    phone: Session,
    /// What the phone sent and the network holds back for a frame.
    held_back: Vec<Datagram>,
    frames: u64,
    metrics: Metrics,
    gauges: Gauges,
    told: Figures,
    /// Frames by what they were: heard, made up, quiet, masked, on hold.
    got: [u64; 5],
    /// Keys that the phone heard, and samples of the agent.
    keys: u64,
    loud: u64,
}

const DAEMON: u16 = 4000;
const PHONE: u16 = 5000;

impl SipCall {
    fn new(dialect: &'static str, codec: Codec) -> Self {
        Self {
            call: Call::new(dialect),
            session: open(media(codec, PHONE), 1),
            phone: open(media(codec, DAEMON), 2),
            held_back: vec![],
            frames: 0,
            metrics: Metrics::default(),
            gauges: Gauges::default(),
            told: Figures::default(),
            got: [0; 5],
            keys: 0,
            loud: 0,
        }
    }

    /// 20 ms: the phone says `speech`, the network does what it does, and the agent's bytes come.
    fn frame(&mut self, speech: &[i16], agent: &[u8]) {
        let now = self.call.now + Now::from_millis(20);
        let arriving = self.network(now, speech);
        let Self { call, session, metrics, gauges, told, got, .. } = self;
        let (mut packet, mut report) = ([0; MAX_PACKET], [0; MAX_PACKET]);
        let (mut packet_len, mut report_len) = (0, 0);
        let is_second = self.frames.is_multiple_of(50);
        let AllocationInfo { count_total, bytes_current, .. } = measure(|| {
            call.now = now;
            for (bytes, is_report) in &arriving {
                if *is_report {
                    session.handle_rtcp(now, ([192, 0, 2, 10], PHONE + 1).into(), bytes);
                } else if let Some(session::Input::Digit(digit)) =
                    session.handle_packet(now, ([192, 0, 2, 10], PHONE).into(), bytes)
                {
                    call.bridge.handle_digit(now, digit);
                }
            }
            report_len = session.poll_rtcp(now, &mut report).map_or(0, <[u8]>::len);
            let mut frame = [0; MAX_SAMPLES];
            let frame = &mut frame[..session.rate().frame()];
            let what = match session.poll_frame(now, frame) {
                Got::Audio(jitter::Got::Heard) => 0,
                Got::Audio(jitter::Got::Concealed) => 1,
                Got::Audio(jitter::Got::Quiet) => 2,
                Got::Masked => 3,
                Got::Held => 4,
            };
            got[what] += 1;
            call.bridge.handle_line_audio(now, session.rate(), frame, &mut call.pool);
            call.bridge.pump(now, &mut call.pool);
            call.write_trunk(1_000);
            call.hear_trunk(agent, 16 * 1024);
            let heard = call.bridge.poll_frame(Tick { now, late: Now::ZERO, missed: 0 }, &mut call.pool, frame);
            packet_len = session.write_frame(now, frame, &mut packet).map_or(0, <[u8]>::len);
            call.bridge.handle_frame_written(now, heard, &mut call.pool);
            call.bridge.handle_tick(now, &mut call.pool);
            call.write_trunk(usize::MAX);
            if is_second {
                let figures = Figures::of(&call.bridge, LineTally::default(), Some(session.tally()));
                metrics.add_growth(told, &figures);
                *told = figures.counted_after(told);
                gauges.set(&mut call.bridge, told.rtp.as_ref());
            }
        });
        call.allocations += count_total;
        call.held += bytes_current;
        self.frames += 1;
        self.hear(now, &packet[..packet_len], &report[..report_len]);
    }

    /// What the phone sends, less what is lost: of a hundred packets two, one of them in a burst of three; one is overtaken,
    /// one comes twice, and one is of nobody that we know.
    fn network(&mut self, now: Now, speech: &[i16]) -> Vec<Datagram> {
        let mut space = [0; MAX_PACKET];
        let mut arriving: Vec<Datagram> = vec![];
        if let Some(report) = self.phone.poll_rtcp(now, &mut space) {
            arriving.push((report.to_vec(), true));
        }
        let late = core::mem::take(&mut self.held_back);
        if let Some(packet) = self.phone.write_frame(now, speech, &mut space) {
            let packet = (packet.to_vec(), false);
            match self.frames % 100 {
                20 | 60..63 => {}
                30 => self.held_back.push(packet),
                40 => arriving.extend([packet.clone(), packet]),
                50 => arriving.extend([(vec![0x80; 60], false), packet]),
                _ => arriving.push(packet),
            }
        }
        arriving.extend(late);
        arriving
    }

    fn hear(&mut self, now: Now, packet: &[u8], report: &[u8]) {
        let from = |port| ([192, 0, 2, 10], port).into();
        if !packet.is_empty() {
            self.keys += u64::from(self.phone.handle_packet(now, from(DAEMON), packet).is_some());
        }
        if !report.is_empty() {
            self.phone.handle_rtcp(now, from(DAEMON + 1), report);
        }
        let mut frame = [0; MAX_SAMPLES];
        let frame = &mut frame[..self.phone.rate().frame()];
        self.phone.poll_frame(now, frame);
        self.loud += frame.iter().filter(|sample| sample.unsigned_abs() > 1_000).count() as u64;
    }

    /// The signalling agreed on something.
    fn agree(&mut self, hold: bool) {
        let mut media = media(self.session.codec(), PHONE);
        if hold {
            (media.hold, media.direction) = (true, sdp::Direction::Inactive);
        }
        let (session, now) = (&mut self.session, self.call.now);
        self.call.allocations += measure(|| session.renegotiate(now, media)).count_total;
    }

    /// The agent presses a key.
    fn press(&mut self, digit: u8) {
        let session = &mut self.session;
        let mut taken = false;
        self.call.allocations += measure(|| taken = session.send_digit(digit)).count_total;
        assert!(taken);
    }
}

#[test]
fn a_sip_call_allocates_nothing_whatever_its_network_and_its_people_do() {
    for dialect in DIALECTS {
        for codec in CODECS {
            let mut sip = SipCall::new(dialect, codec);
            let speech = speech(codec.rate().frame());
            let said = super::speech(160);
            let audio = agent_sends(dialect, |leg| {
                for half in said.chunks(leg.dialect().chunk().min(160)) {
                    assert!(leg.write_audio(Now::ZERO, half));
                }
            });
            for i in 0..3_000 {
                match i % 1_000 {
                    300 => assert!(sip.phone.send_digit(b'7')),
                    400 => sip.press(b'#'),
                    600 => sip.agree(true),
                    800 => sip.agree(false),
                    _ => {}
                }
                sip.frame(&speech, &audio);
            }
            let what = format!("{dialect}, {codec:?}");
            assert_eq!((sip.call.allocations, sip.call.held), (0, 0), "{what}");
            // And it was a call.
            let tally = sip.session.tally();
            assert_eq!(
                (sip.call.bridge.state(), sip.call.bridge.line_rate()),
                (State::Bridged, codec.rate()),
                "{what}"
            );
            assert_eq!((sip.call.bridge.uplink().digits, sip.keys), (3, 3), "{what}");
            assert_eq!((tally.holds, tally.held), (3, Now::from_secs(12)), "{what}");
            let [heard, made_up, _, masked, held] = sip.got;
            assert!(heard > 2_000 && made_up > 40 && masked > 10 && held == 600, "{what}: {:?}", sip.got);
            assert!(tally.lost > 80 && tally.duplicates > 20 && tally.concealed > 0, "{what}: {tally:?}");
            assert!(
                tally.bad + tally.foreign >= 29 && tally.round_trips > 5 && tally.reports > 10,
                "{what}: {tally:?}"
            );
            assert!(sip.loud > 1_000 * codec.rate().frame() as u64, "{what}: {}", sip.loud);
            assert!(sip.metrics.get(Counter::RtpLost) >= 80, "{what}: {}", sip.metrics.get(Counter::RtpLost));
            assert!(sip.gauges.get().rtp.is_some_and(|rtp| rtp.round_trip.is_some()), "{what}");
        }
    }
}

#[test]
fn the_audio_of_a_sip_call_takes_20_kb_more_than_that_of_an_audiosocket_at_most() {
    let audiosocket = size_of::<Line>();
    for codec in CODECS {
        let mut session = None;
        let boxed = measure(|| session = Some(Box::new(open(media(codec, PHONE), 1)))).bytes_current;
        println!("{codec:?}: {boxed} bytes with its {} own, AudioSocket: {audiosocket}", size_of::<Session>());
        assert!(boxed <= audiosocket as i64 + 20_000, "{codec:?}: {boxed} bytes");
    }
}
