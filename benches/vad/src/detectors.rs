//! The detectors that are compared, all behind the same gate.

use webrtc_vad::{SampleRate, VadMode};

use crate::media::{
    Rate,
    level::level_dbov,
    resample::Resampler,
    vad::{Change, Gate, HANG_OVER, Vad},
};

/// What is compared.
pub const NAMES: &[&str] = &["trunkline", "network 0.5", "webrtc 3", "gmm", "level"];

type Predict = fn(&mut earshot_0_1::VoiceActivityDetector, &[i16]) -> Result<bool, earshot_0_1::Error>;

/// One of them.
pub enum Detector {
    /// The daemon's own.
    Ours(Box<Vad>),
    /// The network of ours with no more around it, at a threshold.
    Earshot(Box<Earshot>, f32),
    /// WebRTC's, frames of 20 ms.
    WebRtc(webrtc_vad::Vad, Gate),
    /// The pure Rust port of the same, which was earshot before it became a network; frames of 20 ms.
    Gmm(Box<earshot_0_1::VoiceActivityDetector>, Predict, Gate),
    /// The level above an adaptive floor, frames of 20 ms.
    Level(Level, Gate),
}

impl Detector {
    /// A detector for samples of this rate.
    pub fn open(name: &str, rate: Rate) -> Option<Self> {
        let gate = Gate::new(rate, 20, HANG_OVER);
        let webrtc = |mode| {
            let rate = match rate {
                Rate::Hz8000 => SampleRate::Rate8kHz,
                Rate::Hz16000 => SampleRate::Rate16kHz,
                Rate::Hz24000 => return None,
                Rate::Hz48000 => SampleRate::Rate48kHz,
            };
            Some(Self::WebRtc(webrtc_vad::Vad::new_with_rate_and_mode(rate, mode), gate.clone()))
        };
        let earshot = |threshold| {
            let resampler = Resampler::new(rate, Rate::Hz16000);
            let gate = Gate::new(rate, 16, HANG_OVER);
            let network = earshot::Detector::const_default();
            Some(Self::Earshot(Box::new(Earshot { network, resampler, held: Vec::new(), gate }), threshold))
        };
        match name {
            "trunkline" => Some(Self::Ours(Box::new(Vad::new(rate, HANG_OVER)))),
            "network 0.5" => earshot(0.5),
            "webrtc 3" => webrtc(VadMode::VeryAggressive),
            "gmm" => {
                let profile = earshot_0_1::VoiceActivityProfile::VERY_AGGRESSIVE;
                let predict = match rate {
                    Rate::Hz8000 => earshot_0_1::VoiceActivityDetector::predict_8khz,
                    Rate::Hz16000 => earshot_0_1::VoiceActivityDetector::predict_16khz,
                    Rate::Hz48000 => earshot_0_1::VoiceActivityDetector::predict_48khz,
                    Rate::Hz24000 => return None,
                };
                Some(Self::Gmm(Box::new(earshot_0_1::VoiceActivityDetector::new(profile)), predict, gate))
            }
            "level" => Some(Self::Level(Level { levels: [0; 75], next: 0 }, gate)),
            _ => None,
        }
    }

    /// Listens to 20 ms.
    pub fn push(&mut self, frame: &[i16]) -> Option<Change> {
        match self {
            Self::Ours(vad) => vad.push(frame),
            Self::Earshot(this, threshold) => this.push(frame, *threshold),
            Self::WebRtc(vad, gate) => gate.push(vad.is_voice_segment(frame).unwrap_or(false)),
            Self::Gmm(vad, predict, gate) => gate.push(predict(vad, frame).unwrap_or(false)),
            Self::Level(level, gate) => gate.push(level.is_voiced(frame)),
        }
    }

    /// Whether somebody speaks.
    pub fn is_speech(&self) -> bool {
        match self {
            Self::Ours(vad) => vad.is_speech(),
            Self::Earshot(this, _) => this.gate.is_speech(),
            Self::WebRtc(_, gate) | Self::Gmm(_, _, gate) | Self::Level(_, gate) => gate.is_speech(),
        }
    }

    /// Where the last speech ended (samples).
    pub fn spoken_until(&self) -> u64 {
        match self {
            Self::Ours(vad) => vad.spoken_until(),
            Self::Earshot(this, _) => this.gate.until(),
            Self::WebRtc(_, gate) | Self::Gmm(_, _, gate) | Self::Level(_, gate) => gate.until(),
        }
    }
}

/// The network, fed.
pub struct Earshot {
    network: earshot::Detector,
    resampler: Resampler,
    held: Vec<i16>,
    gate: Gate,
}

impl Earshot {
    fn push(&mut self, frame: &[i16], threshold: f32) -> Option<Change> {
        let mut wide = [0; 1024];
        let produced = self.resampler.process(frame, &mut wide).produced;
        self.held.extend_from_slice(&wide[..produced]);
        let mut change = None;
        while self.held.len() >= 256 {
            let voiced = self.network.predict_i16(&self.held[..256]) >= threshold;
            self.held.drain(..256);
            change = self.gate.push(voiced).or(change);
        }
        change
    }
}

/// Voice is what stands 9 dB above the least of the last 1.5 s.
pub struct Level {
    levels: [i8; 75],
    next: usize,
}

impl Level {
    fn is_voiced(&mut self, frame: &[i16]) -> bool {
        let level = level_dbov(frame);
        self.levels[self.next] = level;
        self.next = (self.next + 1) % self.levels.len();
        let floor = self.levels.iter().copied().min().unwrap_or(0).max(-65);
        level >= floor.saturating_add(9)
    }
}
