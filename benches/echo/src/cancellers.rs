//! The cancellers that are compared.

use aec3::{
    api::{config::EchoCanceller3Config, control::EchoControl},
    audio_processing::{aec3::echo_canceller3::EchoCanceller3, audio_buffer::AudioBuffer},
};
use sonora::{
    AudioProcessing, Config, StreamConfig,
    config::{EchoCanceller, MaxProcessingRate, Pipeline},
};

use crate::{echo::Canceller as Ours, media::Rate};

/// What is compared.
pub const NAMES: &[&str] = &["trunkline", "aec3", "sonora"];

/// One of them, or none.
pub enum Canceller {
    /// The daemon's own.
    Ours(Box<Ours>),
    /// The crate below it as it comes: 16 and 48 kHz only.
    Aec3(Box<EchoCanceller3>, AudioBuffer, AudioBuffer),
    /// The other port, as it comes but for its high-pass filter, which shifts what is compared.
    Sonora(Box<AudioProcessing>, Vec<i16>),
    /// The echo stays.
    Nothing,
}

impl Canceller {
    /// A canceller for pieces of 10 ms at this rate.
    pub fn open(name: &str, rate: Rate) -> Option<Self> {
        let hz = rate.hz() as usize;
        match name {
            "trunkline" => Some(Self::Ours(Box::new(Ours::new(rate)))),
            "aec3" if matches!(rate, Rate::Hz16000 | Rate::Hz48000) => {
                let buffer = || AudioBuffer::from_sample_rates(hz, 1, hz, 1, hz);
                let aec = EchoCanceller3::new(EchoCanceller3Config::default(), hz as i32, 1, 1);
                Some(Self::Aec3(Box::new(aec), buffer(), buffer()))
            }
            "sonora" if rate != Rate::Hz24000 => {
                let config = Config {
                    echo_canceller: Some(EchoCanceller { enforce_high_pass_filtering: false, ..Default::default() }),
                    pipeline: Pipeline {
                        maximum_internal_processing_rate: MaxProcessingRate::Rate48kHz,
                        ..Default::default()
                    },
                    ..Default::default()
                };
                let stream = || StreamConfig::new(rate.hz(), 1);
                let apm = AudioProcessing::builder().config(config).capture_config(stream()).render_config(stream());
                Some(Self::Sonora(Box::new(apm.build()), vec![0; rate.samples(10)]))
            }
            "nothing" => Some(Self::Nothing),
            _ => None,
        }
    }

    /// 10 ms to the loudspeaker, and 10 ms from the microphone, in place.
    pub fn process(&mut self, played: &[i16], heard: &mut [i16]) {
        match self {
            Self::Ours(ours) => {
                ours.played(played);
                ours.clean(heard);
            }
            Self::Aec3(aec, loudspeaker, microphone) => {
                fill(loudspeaker, played);
                split(loudspeaker);
                aec.analyze_render(loudspeaker);
                fill(microphone, heard);
                aec.analyze_capture(microphone);
                split(microphone);
                aec.process_capture(microphone, false);
                if microphone.num_bands() > 1 {
                    microphone.merge_frequency_bands();
                }
                for (sample, float) in heard.iter_mut().zip(microphone.channel(0)) {
                    *sample = float.round() as i16;
                }
            }
            Self::Sonora(apm, output) => {
                apm.process_render_i16(played, output).expect("10 ms of one channel");
                apm.process_capture_i16(heard, output).expect("10 ms of one channel");
                heard.copy_from_slice(output);
            }
            Self::Nothing => {}
        }
    }
}

fn fill(buffer: &mut AudioBuffer, samples: &[i16]) {
    for (float, sample) in buffer.channel_mut(0).iter_mut().zip(samples) {
        *float = f32::from(*sample);
    }
}

fn split(buffer: &mut AudioBuffer) {
    if buffer.num_bands() > 1 {
        buffer.split_into_frequency_bands();
    }
}
