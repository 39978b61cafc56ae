//! Session descriptions, as offers, re-offers and answers: what we send is always one that we would take, with as many
//! lines as there have to be, and nothing in it that a peer smuggled there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::{
    leg::sip::sdp::{Local, MAX_BYTES, Media, Offer},
    media::{Rate, codec::Codec},
};
use trunkline_fuzz::Steer;

fuzz_target!(|data: &[u8]| {
    let Some((mut steer, body)) = Steer::split(data) else { return };
    let Ok(offer) = Offer::parse(body) else { return };
    let codecs = [Codec::L16(Rate::Hz16000), Codec::G722, Codec::Pcma, Codec::Pcmu];
    let mut ours = Local::new(1, "192.0.2.9:30000".parse().expect("an address"), &codecs[steer.up_to(3)..]);
    let mut peer = Local::new(2, "192.0.2.7:40000".parse().expect("an address"), &codecs);
    let lines = body.split(|byte| *byte == b'\n').filter(|line| is_media(line)).count();
    // A few turns of one call, in an order that differs.
    for _ in 0..6 {
        ours.hold = steer.up_to(3) == 0;
        match steer.up_to(3) {
            0 => {
                if let Ok((text, media)) = ours.answer(&offer) {
                    check(&text);
                    check_media(&media);
                    assert_eq!(text.matches("m=").count(), lines, "{text}");
                    assert_eq!(ours.answer(&offer), Ok((text, media)), "the same again is the same");
                }
            }
            1 => {
                check(&ours.offer());
                if let Ok(media) = ours.read_answer(&offer) {
                    check_media(&media);
                }
            }
            2 => {
                let text = ours.offer_again();
                assert_eq!(ours.offer_again(), text, "a refresh says the same");
                check(&text);
            }
            _ => {
                // A peer like us takes what we offer, and we take its answer.
                let text = ours.offer();
                let offer = Offer::parse(text.as_bytes()).expect("our own");
                let (text, there) = peer.answer(&offer).expect("the same codecs");
                let here = ours.read_answer(&Offer::parse(text.as_bytes()).expect("our own")).expect("what we offered");
                assert_eq!(here.codec.codec, there.codec.codec);
                assert_eq!(here.codec.payload_type, there.codec.receive_payload_type);
                assert_eq!(here.direction.sends(), there.direction.receives());
            }
        }
    }
});

fn check(text: &str) {
    assert!(text.bytes().all(|byte| matches!(byte, b'\r' | b'\n' | b' '..=b'~')), "{text:?}");
    assert!(text.len() <= MAX_BYTES && Offer::parse(text.as_bytes()).is_ok(), "{text}");
}

fn check_media(media: &Media) {
    let codec = media.codec;
    assert!((10..=60).contains(&codec.ptime_ms) && codec.ptime_ms.is_multiple_of(10));
    assert!(codec.payload_type < 128 && codec.dtmf_payload_type != Some(codec.payload_type));
    assert!(!(media.hold && media.direction.sends()));
    if let Some(addr) = media.addr {
        assert!(!addr.ip().is_unspecified() && !addr.ip().is_multicast() && addr.port() != 0);
    }
}

/// As the reader has it: blanks around a line do not count.
fn is_media(line: &[u8]) -> bool {
    core::str::from_utf8(line.trim_ascii()).is_ok_and(|line| line.starts_with("m="))
}
