//! What Telnyx is asked to stream, and the profiles in which it is shipped.
//!
//! The fields are those of Telnyx's API reference, "Start streaming". Its `stream_codec` is what is sent to us and
//! `stream_bidirectional_codec` what we send; without the first, calls of the telephone network come as PCMU at 8 kHz
//! whatever the second says. What really comes is in the stream's own `start`.

use serde::Serialize;

/// What `streaming_start` asks for, beside where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Whose voice comes: one of [`TRACKS`].
    pub track: &'static str,
    /// How our audio is taken: one of [`MODES`].
    pub mode: &'static str,
    /// What we send: one of [`CODECS`].
    pub codec: &'static str,
    /// The rate of what we send (Hz): one of [`RATES`].
    pub sampling_rate: u32,
    /// Who hears what we send: one of [`TARGET_LEGS`].
    pub target_legs: &'static str,
    /// What is sent to us: one of [`STREAM_CODECS`]; `None`: nothing is said.
    pub stream_codec: Option<&'static str>,
    /// Send these fields and no other, not even a `command_id`.
    pub bare: bool,
}

impl Stream {
    /// The body of the request, without a `command_id`.
    #[must_use]
    pub fn body(&self, url: &str) -> Body {
        Body {
            stream_url: url.to_owned(),
            stream_track: self.track,
            stream_bidirectional_mode: self.mode,
            stream_bidirectional_codec: self.codec,
            stream_bidirectional_sampling_rate: self.sampling_rate,
            stream_bidirectional_target_legs: self.target_legs,
            stream_codec: self.stream_codec,
            bare: self.bare,
        }
    }
}

/// The body of `streaming_start`.
#[derive(Clone, Debug, Serialize)]
pub struct Body {
    stream_url: String,
    stream_track: &'static str,
    stream_bidirectional_mode: &'static str,
    stream_bidirectional_codec: &'static str,
    stream_bidirectional_sampling_rate: u32,
    stream_bidirectional_target_legs: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_codec: Option<&'static str>,
    #[serde(skip)]
    pub(super) bare: bool,
}

/// What the profiles are called, and what they ask for; the first is the default.
///
/// PCMU is what the telephone network has, needs no rate and no byte order to be agreed on, and so always works. Telnyx's
/// pages name L16 at 16 kHz only, its libraries up to 48 kHz. The last is what bridges of the field send, word for word:
/// with both tracks the agent's own voice comes back too, which the line leaves out.
pub const PROFILES: [(&str, Stream); 3] = [
    (
        "telnyx-pcmu-8k",
        Stream {
            track: "inbound_track",
            mode: "rtp",
            codec: "PCMU",
            sampling_rate: 8000,
            target_legs: "self",
            stream_codec: Some("PCMU"),
            bare: false,
        },
    ),
    (
        "telnyx-l16-16k",
        Stream {
            track: "inbound_track",
            mode: "rtp",
            codec: "L16",
            sampling_rate: 16_000,
            target_legs: "self",
            stream_codec: Some("L16"),
            bare: false,
        },
    ),
    (
        "telnyx-l16-24k",
        Stream {
            track: "both_tracks",
            mode: "rtp",
            codec: "L16",
            sampling_rate: 24_000,
            target_legs: "opposite",
            stream_codec: None,
            bare: true,
        },
    ),
];

/// What `stream_track` may be.
pub const TRACKS: &[&str] = &["inbound_track", "outbound_track", "both_tracks"];
/// What `stream_bidirectional_mode` may be. Telnyx has `mp3` too, which would take files and not speech as it comes.
pub const MODES: &[&str] = &["rtp"];
/// What `stream_bidirectional_codec` may be, as far as we speak it. Upper and lower case count.
pub const CODECS: &[&str] = &["PCMU", "PCMA", "L16"];
/// What `stream_bidirectional_sampling_rate` may be, as far as we have it (Hz).
pub const RATES: &[u32] = &[8000, 16_000, 24_000, 48_000];
/// What `stream_bidirectional_target_legs` may be.
pub const TARGET_LEGS: &[&str] = &["self", "opposite", "both"];
/// What `stream_codec` may be, as far as we understand it; `default` is the call's own.
pub const STREAM_CODECS: &[&str] = &["PCMU", "PCMA", "L16", "default"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn body_of(profile: &str) -> String {
        let (_, stream) = PROFILES.iter().find(|(name, _)| *name == profile).unwrap();
        serde_json::to_string(&stream.body("wss://voice.example.com/media-stream-ws?call_id=v3:a")).unwrap()
    }

    #[test]
    fn the_profile_of_24_khz_sends_these_six_fields_and_no_other() {
        assert_eq!(
            body_of("telnyx-l16-24k"),
            r#"{"stream_url":"wss://voice.example.com/media-stream-ws?call_id=v3:a","stream_track":"both_tracks","stream_bidirectional_mode":"rtp","stream_bidirectional_codec":"L16","stream_bidirectional_sampling_rate":24000,"stream_bidirectional_target_legs":"opposite"}"#
        );
    }

    #[test]
    fn the_other_profiles_say_what_is_to_come_and_take_the_caller_alone() {
        for (profile, codec, rate) in [("telnyx-pcmu-8k", "PCMU", 8000), ("telnyx-l16-16k", "L16", 16_000)] {
            let body: serde_json::Value = serde_json::from_str(&body_of(profile)).unwrap();
            assert_eq!((&body["stream_codec"], &body["stream_bidirectional_codec"]), (&codec.into(), &codec.into()));
            assert_eq!(body["stream_bidirectional_sampling_rate"], rate);
            assert_eq!(
                (&body["stream_track"], &body["stream_bidirectional_target_legs"]),
                (&"inbound_track".into(), &"self".into())
            );
        }
    }

    #[test]
    fn no_profile_asks_for_what_the_config_would_refuse() {
        for (name, stream) in PROFILES {
            assert!(TRACKS.contains(&stream.track) && MODES.contains(&stream.mode), "{name}");
            assert!(CODECS.contains(&stream.codec) && RATES.contains(&stream.sampling_rate), "{name}");
            assert!(TARGET_LEGS.contains(&stream.target_legs), "{name}");
            assert!(stream.stream_codec.is_none_or(|codec| STREAM_CODECS.contains(&codec)), "{name}");
        }
    }
}
