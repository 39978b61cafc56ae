//! `exostreamkit`: what RTAA's own guide for "ExoStreamKit" shows, all of it in text.
//!
//! It is [`rtaa`](super::rtaa) with the samples in base64 in a JSON text and an `end` before the close. RTAA's server
//! itself never heard it: it ignores `audio` and `end`. (Exotel's product of a similar name speaks
//! [`exotel`](super::exotel).)
//!
//! ```text
//!  vendor                                                                         agent
//!    | start {interaction_id, tenant_id, sample_rate, encoding: "pcm16"}   ------> |
//!    | <-------------------------------------------  started {interaction_id}      |
//!    | audio {data: 200 ms of PCM16, seq: 1} ...                           ------> |
//!    | <-----------------------------------------------------------  ack {seq: 10} |
//!    | end, and the close                                                  ------> |
//! ```
//!
//! As agent, both shapes are heard on one connection. Source: the integration guide for ExoStreamKit in the repository
//! exkrishan/rtaafin.

use crate::{
    dialect::{
        Role,
        rtaa::{Rtaa, Shape},
    },
    media::Rate,
};

pub use crate::dialect::rtaa::Options;

/// A call that has not begun.
#[must_use]
pub fn open(role: Role, rate: Rate, options: &Options) -> Rtaa {
    Rtaa::with_shape(Shape::Text, role, rate, options)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]
mod tests {
    use super::*;
    use crate::dialect::{
        Audio, Carrier, Coding, Dialect, Event, Format, Incoming, Malformed, OptionValue, Say, Stamp, StopReason,
        ozonetel::tests::{STAMP, audio, event, facts, in_pieces, noise, opening, said, samples},
        rtaa::tests::{START, due},
    };

    fn vendor() -> Rtaa {
        open(Role::Vendor, Rate::Hz24000, &Options::default())
    }

    fn agent() -> Rtaa {
        open(Role::Agent, Rate::Hz24000, &Options::default())
    }

    fn started(mut agent: Rtaa) -> Rtaa {
        assert_eq!(event(&mut agent, START), Event::Start);
        assert!(due(&mut agent).is_some());
        agent
    }

    fn take(agent: &mut Rtaa, text: &str) -> Vec<i16> {
        let incoming = agent.handle_text(text.as_bytes()).unwrap();
        assert_eq!(incoming.event, Event::None);
        samples(incoming.audio).unwrap()
    }

    #[test]
    fn a_vendor_says_start_audio_and_end() {
        let mut vendor = vendor();
        assert_eq!(
            opening(&mut vendor, 0).unwrap(),
            concat!(
                r#"{"event":"start","interaction_id":"0f8b2c6e-51d4-4f0a-9e37-62a1c4d97b80","#,
                r#""tenant_id":"harbour","sample_rate":24000,"encoding":"pcm16"}"#
            )
        );
        assert_eq!(audio(&mut vendor, &[1, -1]), r#"{"event":"audio","data":"AQD//w==","seq":1}"#);
        assert_eq!(audio(&mut vendor, &[]), r#"{"event":"audio","data":"","seq":2}"#);
        assert_eq!(said(&mut vendor, Say::Stop(StopReason::CallerHungUp)).unwrap(), r#"{"event":"end"}"#);
        assert_eq!(said(&mut vendor, Say::Dtmf(b'1')), None);
        assert_eq!((vendor.name(), vendor.chunk()), ("exostreamkit", 4_800));
    }

    #[test]
    fn nobody_is_overdue_who_was_never_known_to_answer() {
        let mut vendor = vendor();
        opening(&mut vendor, 0);
        for _ in 0..100 {
            audio(&mut vendor, &[0]);
        }
        assert_eq!(vendor.overdue(Stamp { stream_ms: 600_000, ..STAMP }), None);
    }

    #[test]
    fn both_shapes_are_heard_and_counted_on_one_connection() {
        let mut agent = started(agent());
        for n in 1..=20 {
            if n % 2 == 0 {
                // The client's own count does not matter.
                assert_eq!(take(&mut agent, r#"{"event":"audio","data":"AQD//w==","seq":700}"#), [1, -1]);
            } else {
                assert_eq!(samples(agent.handle_binary(b"\x01\0").unwrap().audio).unwrap(), [1]);
            }
            let ack = due(&mut agent);
            assert_eq!(ack, (n % 10 == 0).then(|| format!(r#"{{"event":"ack","seq":{n}}}"#)));
        }
    }

    #[test]
    fn an_rtaa_becomes_an_exostreamkit_at_its_first_audio_or_end() {
        for text in [r#"{"event":"audio","data":"AQA="}"#, r#"{"event":"end"}"#] {
            let mut agent = started(Rtaa::new(Role::Agent, Rate::Hz24000, &Options::default()));
            agent.handle_binary(b"\x01\0").unwrap();
            assert_eq!((agent.name(), agent.expected().carrier), ("rtaa", Carrier::Raw));
            agent.handle_text(text.as_bytes()).unwrap();
            assert_eq!((agent.name(), agent.expected().carrier), ("exostreamkit", Carrier::Base64));
        }
    }

    #[test]
    fn an_end_is_the_end() {
        let mut agent = started(agent());
        assert_eq!(event(&mut agent, r#"{"event":"end"}"#), Event::Stop);
        let skipped = Incoming { audio: Audio::Skip, event: Event::None };
        assert_eq!(agent.handle_binary(b"\x01\0"), Ok(skipped));
        assert_eq!(agent.handle_text(br#"{"event":"audio","data":"AQA="}"#), Ok(skipped));
    }

    #[test]
    fn audio_before_the_start_ends_the_connection_and_bad_audio_does_not() {
        let early = br#"{"event":"audio","data":"AQA="}"#;
        assert_eq!(agent().handle_text(early).unwrap().event, Event::Broken("audio before `start`"));
        assert_eq!(event(&mut agent(), r#"{"event":"end"}"#), Event::Unknown);
        let mut agent = started(agent());
        for odd in [r#"{"event":"audio","data":[1,2]}"#, r#"{"event":"audio"}"#] {
            assert_eq!(agent.handle_text(odd.as_bytes()), Err(Malformed::Base64), "{odd}");
        }
        assert_eq!(event(&mut agent, r#"{"event":"audio""#), Event::Broken("a text that is not JSON"));
    }

    #[test]
    fn two_sides_understand_each_other_for_a_whole_call() {
        for rate in Rate::ALL {
            let (mut vendor, mut agent) = (open(Role::Vendor, rate, &Options::default()), agent());
            assert_eq!(event(&mut agent, &opening(&mut vendor, 0).unwrap()), Event::Start);
            assert_eq!(event(&mut vendor, &due(&mut agent).unwrap()), Event::None);
            let told = agent.facts().unwrap();
            assert_eq!((&told.call_sid, &told.account), (&facts().call_sid, &facts().account));
            let expected = Format { carrier: Carrier::Base64, coding: Coding::Pcm16Le, rate };
            assert_eq!(agent.expected(), expected);
            let spoken = noise(vendor.chunk() * 3 + 7);
            let mut heard = Vec::new();
            for chunk in spoken.chunks(vendor.chunk()) {
                let text = audio(&mut vendor, chunk);
                assert!(text.len() <= vendor.longest());
                heard.extend(take(&mut agent, &text));
            }
            assert!(heard == spoken);
            let end = said(&mut vendor, Say::Stop(StopReason::Ended)).unwrap();
            assert_eq!(event(&mut agent, &end), Event::Stop);
        }
    }

    #[test]
    fn a_message_in_single_bytes_says_what_it_says_whole() {
        let sent = noise(4_800);
        let text = audio(&mut vendor(), &sent);
        for len in [1, 7, 4_096, text.len()] {
            let heard = in_pieces(&mut started(agent()), &text, len, |incoming| {
                assert!(matches!(incoming.audio, Audio::Take { bytes: b"", .. }));
            });
            assert!(heard == sent);
        }
    }

    #[test]
    fn messages_can_be_shorter() {
        let mut options = Options::default();
        options.set("chunk-ms", OptionValue::Int(20)).unwrap();
        assert_eq!(open(Role::Vendor, Rate::Hz8000, &options).chunk(), 160);
    }
}
