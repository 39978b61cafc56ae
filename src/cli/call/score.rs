//! What is to be played: a WAV, how often, and marks in it that can be found again.

use std::time::Duration;

use crate::{
    cli::{
        call::{CallArgs, CallError},
        wav::read_wav,
    },
    media::{Rate, clock::PTIME, frame::MAX_SAMPLES},
};

/// What is to be played: the samples, and how long.
pub(super) struct Score {
    pub(super) rate: Rate,
    pub(super) samples: Vec<i16>,
    pub(super) repeat: usize,
    pub(super) marks: bool,
    /// Frames of the WAV, marked ones if there are marks; silence after that.
    pub(super) frames: usize,
    /// Frames until the hang-up.
    pub(super) end: u64,
}

impl Score {
    pub(super) fn open(args: &CallArgs) -> Result<Self, CallError> {
        let (rate, samples) =
            read_wav(&args.play).map_err(|problem| CallError::Play(args.play.clone(), problem.to_string()))?;
        let repeat = args.repeat as usize;
        let mut frames = samples.len().saturating_mul(repeat).div_ceil(rate.frame());
        let ptime = PTIME.as_millis() as u64;
        let end = match args.hangup_after {
            Some(ms) => ms.div_ceil(ptime),
            None => LEAD_IN + frames as u64 + REST.as_millis() as u64 / ptime,
        };
        let rest = if args.marks { (IN_FLIGHT.as_millis() / PTIME.as_millis()) as u64 } else { 0 };
        frames = frames.min(usize::try_from(end.saturating_sub(LEAD_IN + rest)).unwrap_or(usize::MAX));
        Ok(Self { rate, samples, repeat, marks: args.marks, frames, end })
    }

    /// Frame `n`, marked if that is wanted; silence after the last one.
    pub(super) fn frame<'b>(&self, n: usize, out: &'b mut [i16; MAX_SAMPLES]) -> &'b [i16] {
        let out = &mut out[..self.rate.frame()];
        out.fill(0);
        if n >= self.frames {
            return out;
        }
        let all = self.samples.len().saturating_mul(self.repeat);
        for (place, sample) in (n * out.len()..all).zip(&mut *out) {
            *sample = self.samples[place % self.samples.len()];
        }
        if self.marks {
            out[..MARK].copy_from_slice(&mark(n as u32));
        }
        out
    }
}

/// Frame `n`'s mark: four samples that speech does not hold side by side, around the number and its complement.
pub(super) fn mark(n: u32) -> [i16; MARK] {
    let (low, high) = (n as u16 as i16, (n >> 16) as u16 as i16);
    let [a, b, c, d] = SIGN;
    [a, b, low, high, !low, !high, c, d]
}

/// Frames of silence before the WAV. A server that has to find out what is meant by kind 0x10 looks at the first ten
/// and cannot pass them on; nobody speaks in the first quarter of a second of a call.
pub(super) const LEAD_IN: u64 = 12;

/// Samples at the head of a marked frame.
pub(super) const MARK: usize = 8;

/// The fixed samples of a mark. At -11 dB or so: loud enough to be no noise, not so loud as to clip.
pub(super) const SIGN: [i16; 4] = [9173, -8117, 7741, -9421];

/// The silence after the WAV, in which the agent may finish.
pub(super) const REST: Duration = Duration::from_secs(2);

/// What was sent within this time of the end need not have come back.
pub(super) const IN_FLIGHT: Duration = Duration::from_secs(1);
