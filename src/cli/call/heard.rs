//! What was sent and what was heard in a call, with the times of both.

use std::{fs::File, io::BufWriter, time::Duration};

use crate::{
    cli::call::Ending,
    media::{Now, Rate},
};

/// What was played, and when.
pub(super) struct Sent {
    pub(super) began: Now,
    pub(super) ended: Now,
    /// When each frame of the score was sent; silence after it is not in here.
    pub(super) at: Vec<Now>,
    /// The latest that a frame was sent after it was due.
    pub(super) late: Duration,
    /// Digits that were not sent.
    pub(super) unsent: usize,
}

/// What came of a call, whatever it went over.
pub(super) struct Outcome {
    pub(super) sent: Sent,
    pub(super) heard: Heard,
    pub(super) ended_by: Ending,
    /// What went wrong, in words.
    pub(super) trouble: Option<String>,
    /// Marks that the agent asked to be told of, and how many it was.
    pub(super) marks: (u64, u64),
    /// How often the agent took back what it had sent.
    pub(super) clears: u64,
    /// Nobody hears an agent on this line.
    pub(super) listen_only: bool,
}

/// Audio from the server at one rate.
pub(super) struct Stretch {
    pub(super) rate: Rate,
    pub(super) samples: Vec<i16>,
    /// When the samples from this place on arrived.
    pub(super) arrivals: Vec<(usize, Now)>,
}

impl Stretch {
    pub(super) fn duration(&self) -> Duration {
        self.rate.duration(self.samples.len())
    }

    pub(super) fn loud(&self) -> Duration {
        self.rate
            .duration(self.samples.chunks(self.rate.frame()).filter(|c| c.iter().any(|&s| s != 0)).flatten().count())
    }
}

/// What came from the server, in the order of its arrival.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) stretches: Vec<Stretch>,
    pub(super) first: Option<Now>,
    /// When the first sample came that is not silence.
    pub(super) first_voice: Option<Now>,
    pub(super) last: Option<Now>,
    pub(super) max_gap: Duration,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Heard {
    /// A message of audio came.
    pub(super) fn on_message(&mut self, now: Now) {
        self.first.get_or_insert(now);
        self.max_gap = self.max_gap.max(self.last.map_or(Duration::ZERO, |before| now - before));
        self.last = Some(now);
    }

    /// Samples are heard.
    pub(super) fn on_samples(&mut self, now: Now, rate: Rate, samples: impl Iterator<Item = i16>) {
        if self.stretches.last().is_none_or(|stretch| stretch.rate != rate) {
            self.stretches.push(Stretch { rate, samples: Vec::new(), arrivals: Vec::new() });
        }
        if let Some(stretch) = self.stretches.last_mut() {
            let before = stretch.samples.len();
            stretch.arrivals.push((before, now));
            stretch.samples.extend(samples);
            if self.first_voice.is_none() && stretch.samples[before..].iter().any(|&sample| sample != 0) {
                self.first_voice = Some(now);
            }
        }
    }

    /// The rate of most of it. Not of the first message: a server that has not yet heard us sends silence at 8 kHz.
    pub(super) fn rate(&self) -> Rate {
        let lasts =
            |rate: Rate| self.stretches.iter().filter(|s| s.rate == rate).map(Stretch::duration).sum::<Duration>();
        Rate::ALL.into_iter().rev().max_by_key(|&rate| lasts(rate)).unwrap_or(Rate::Hz8000)
    }

    /// All of it at this rate. What had another one is stretched without finesse, to keep its time.
    pub(super) fn recording(&self, rate: Rate) -> impl Iterator<Item = i16> {
        self.stretches.iter().flat_map(move |stretch| {
            let (from, to) = (stretch.rate.hz() as usize, rate.hz() as usize);
            (0..stretch.samples.len() * to / from).map(move |n| stretch.samples[n * from / to])
        })
    }
}

pub(super) fn write_wav(file: File, rate: Rate, samples: impl Iterator<Item = i16>) -> hound::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate.hz(),
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::new(BufWriter::new(file), spec)?;
    for sample in samples {
        wav.write_sample(sample)?;
    }
    wav.finalize()
}
