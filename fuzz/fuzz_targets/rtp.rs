//! RTP and RTCP, as a session hears them: whatever comes, frames and packets go on at their pace, and what a stranger
//! says beside the peer changes not one sample.
//!
//! An input is datagrams, each behind a byte that says how long it is.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use trunkline::{
    leg::{
        rtp::{
            dtmf::info_digit,
            packet::{HEADER, Header, Packet},
            rtcp::{self, MAX_REPORT},
            session::{Got, Input, MAX_PACKET, Session, Setup},
        },
        sip::sdp::{Direction, Media, Negotiated},
    },
    media::{Now, Rate, codec::Codec, frame::MAX_SAMPLES, jitter::Bounds},
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, mut rest)) = Steer::split(data) else { return };
    let _ = info_digit(steer.one_of(&["application/dtmf", "application/dtmf-relay"]), rest);
    let mut media = media(&mut steer);
    let mut scene = Scene::new(&mut steer, media.clone());
    while let Some((&len, after)) = rest.split_first() {
        let (datagram, after) = after.split_at(after.len().min(len.into()));
        rest = after;
        scene.hear(&mut steer, datagram);
        for _ in 0..steer.up_to(2) {
            scene.tick(&mut steer);
        }
        if steer.up_to(30) == 0 {
            media.direction = steer.one_of(&[Direction::SendRecv, Direction::RecvOnly, Direction::Inactive]);
            media.hold = media.direction != Direction::SendRecv;
            media.addr = (!media.hold || steer.up_to(1) == 0).then_some(PEER.parse().expect("an address"));
            scene.ours.renegotiate(scene.now, media.clone());
            scene.attacked.renegotiate(scene.now, media.clone());
        }
    }
});

const PEER: &str = "192.0.2.10:4000";

fn media(steer: &mut Steer) -> Media {
    let codec = steer.one_of(&[Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::L16(Rate::Hz16000)]);
    let payload_type = codec.payload_type().unwrap_or(96);
    Media {
        addr: Some(PEER.parse().expect("an address")),
        rtcp_addr: Some("192.0.2.10:4001".parse().expect("an address")),
        rtcp_mux: steer.up_to(1) == 0,
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

/// A session that hears its peer, and one that hears a stranger, too.
struct Scene {
    now: Now,
    ours: Session,
    attacked: Session,
    /// What was sent last.
    last: Option<Header>,
    datagrams: u64,
}

impl Scene {
    fn new(steer: &mut Steer, media: Media) -> Self {
        let setup = Setup {
            media,
            learn: false,
            mask_dtmf: steer.up_to(1) == 0,
            bounds: Bounds::default(),
            timeout: Some(Now::from_secs(10)),
            seed: steer.up_to(9) as u64,
        };
        Self {
            now: Now::ZERO,
            ours: Session::open(Now::ZERO, setup.clone()),
            attacked: Session::open(Now::ZERO, setup),
            last: None,
            datagrams: 0,
        }
    }

    fn hear(&mut self, steer: &mut Steer, datagram: &[u8]) {
        let from: SocketAddr = steer.one_of(&[PEER, PEER, PEER, "192.0.2.10:5555"]).parse().expect("an address");
        let stranger: SocketAddr = "198.51.100.66:4000".parse().expect("an address");
        self.now += Now::from_millis(steer.up_to(25) as u64);
        let is_report = steer.up_to(9) == 0;
        for session in [&mut self.ours, &mut self.attacked] {
            if is_report {
                session.handle_rtcp(self.now, from, datagram);
            } else if let Some(Input::Digit(digit)) = session.handle_packet(self.now, from, datagram) {
                assert!(digit.is_ascii() && trunkline::leg::audiosocket::is_digit(digit));
            }
        }
        self.datagrams += 1;
        assert_eq!(self.attacked.handle_packet(self.now, stranger, datagram), None);
        self.attacked.handle_rtcp(self.now, stranger, datagram);

        let tally = self.ours.tally();
        assert!(tally.packets + tally.foreign + tally.bad <= self.datagrams, "{tally:?}");
        assert_eq!(self.ours.peer(), self.attacked.peer());
        assert_eq!(self.ours.rtcp_peer(), self.attacked.rtcp_peer());
    }

    fn tick(&mut self, steer: &mut Steer) {
        self.now += Now::from_millis(20);
        let mut frames = [[1; MAX_SAMPLES]; 2];
        let len = self.ours.rate().frame();
        let got = self.ours.poll_frame(self.now, &mut frames[0][..len]);
        assert_eq!(self.attacked.poll_frame(self.now, &mut frames[1][..len]), got);
        assert_eq!(frames[0], frames[1], "not one sample of a stranger");
        if matches!(got, Got::Held | Got::Masked) {
            assert!(frames[0][..len].iter().all(|&sample| sample == 0));
        }
        assert_eq!(self.ours.is_silent(self.now), self.attacked.is_silent(self.now));

        if steer.up_to(20) == 0 {
            let _ = self.ours.send_digit(b"0123456789*#ABCD"[steer.up_to(15)]);
        }
        let mut space = [0; MAX_PACKET];
        if let Some(packet) = self.ours.write_frame(self.now, &frames[0][..len], &mut space) {
            let Ok(packet) = Packet::parse(packet) else { panic!("what we write we would read") };
            assert!(packet.header.payload_type != 101 || packet.payload.len() == 4);
            assert!(packet.payload.len() + HEADER <= MAX_PACKET);
            if let Some(last) = self.last {
                assert_eq!(packet.header.ssrc, last.ssrc);
                assert_eq!(packet.header.sequence, last.sequence.wrapping_add(1));
                let ahead = packet.header.timestamp.wrapping_sub(last.timestamp);
                assert!(ahead < 0x8000_0000, "time goes on");
            }
            self.last = Some(packet.header);
        }
        if let Some(report) = self.ours.poll_rtcp(self.now, &mut space) {
            assert!(report.len() <= MAX_REPORT && rtcp::is_rtcp(report));
            assert_eq!(rtcp::read(report, |_| ()), Ok(()));
        }
    }
}
