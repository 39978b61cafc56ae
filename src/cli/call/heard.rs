//! What was sent and what was heard in a call, with the times of both.

use std::{
    fs::File,
    io::{self, BufWriter},
    time::{Duration, Instant},
};

use crate::{leg::audiosocket::message, media::Rate};

/// What was played, and when.
pub(super) struct Sent {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// When each frame of the score was sent; silence after it is not in here.
    pub(super) at: Vec<Instant>,
    /// The latest that a frame was sent after it was due.
    pub(super) late: Duration,
    /// Digits that were not sent.
    pub(super) unsent: usize,
    pub(super) stopped: Stopped,
}

pub(super) enum Stopped {
    TimeIsUp,
    Interrupted,
    /// The listener saw the end.
    Over,
    Stuck(io::Error),
}

/// Audio from the server at one rate.
pub(super) struct Stretch {
    pub(super) rate: Rate,
    pub(super) samples: Vec<i16>,
    /// When the samples from this place on arrived.
    pub(super) arrivals: Vec<(usize, Instant)>,
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

pub(super) enum End {
    Hangup,
    Closed { mid_message: bool },
    Broken(io::Error),
    Garbled(message::Violation),
}

/// What came from the server, in the order of its arrival.
pub(super) struct Heard {
    pub(super) stretches: Vec<Stretch>,
    pub(super) first: Option<Instant>,
    /// When the first sample came that is not silence.
    pub(super) first_voice: Option<Instant>,
    pub(super) last: Option<Instant>,
    pub(super) max_gap: Duration,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) end: End,
}

impl Heard {
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
