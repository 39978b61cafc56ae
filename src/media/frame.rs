//! One packet time of PCM16 mono, and the rates it can have.
//!
//! A frame never grows. It is an array and a length, so it can be filled, written and dropped without touching the
//! heap.

use core::fmt;

use crate::media::clock::PTIME_MS;

/// 20 ms at 48 kHz, the largest frame a leg produces (samples).
pub const MAX_SAMPLES: usize = 960;

/// The sample rates that Trunkline moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rate {
    /// 8 kHz, the telephone's own.
    Hz8000,
    /// 16 kHz, wideband telephony.
    Hz16000,
    /// 24 kHz, what speech models speak.
    Hz24000,
    /// 48 kHz, what sound cards run at.
    Hz48000,
}

impl Rate {
    /// Every rate, lowest first.
    pub const ALL: [Self; 4] = [Self::Hz8000, Self::Hz16000, Self::Hz24000, Self::Hz48000];

    /// The rate of this many samples a second, if it is one of ours.
    #[must_use]
    pub const fn from_hz(hz: u32) -> Option<Self> {
        match hz {
            8_000 => Some(Self::Hz8000),
            16_000 => Some(Self::Hz16000),
            24_000 => Some(Self::Hz24000),
            48_000 => Some(Self::Hz48000),
            _ => None,
        }
    }

    /// Samples a second.
    #[must_use]
    pub const fn hz(self) -> u32 {
        match self {
            Self::Hz8000 => 8_000,
            Self::Hz16000 => 16_000,
            Self::Hz24000 => 24_000,
            Self::Hz48000 => 48_000,
        }
    }

    /// Samples in this many milliseconds.
    #[must_use]
    pub const fn samples(self, ms: usize) -> usize {
        self.hz() as usize / 1000 * ms
    }

    /// Samples in one 20 ms frame.
    #[must_use]
    pub const fn frame(self) -> usize {
        self.samples(PTIME_MS)
    }

    /// How long this many samples last.
    #[must_use]
    pub const fn duration(self, samples: usize) -> core::time::Duration {
        let (samples, hz) = (samples as u64, self.hz() as u64);
        // Apart, or days of samples would be more nanoseconds than fit.
        core::time::Duration::new(samples / hz, (samples % hz * 1_000_000_000 / hz) as u32)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Hz", self.hz())
    }
}

/// Up to 20 ms of samples.
#[derive(Clone)]
pub struct Frame {
    samples: [i16; MAX_SAMPLES],
    len: usize,
}

impl Frame {
    /// A frame of silence of this rate's length.
    #[must_use]
    pub const fn silence(rate: Rate) -> Self {
        Self { samples: [0; MAX_SAMPLES], len: rate.frame() }
    }
}

impl core::ops::Deref for Frame {
    type Target = [i16];

    fn deref(&self) -> &[i16] {
        &self.samples[..self.len]
    }
}

impl core::ops::DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [i16] {
        &mut self.samples[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_twenty_milliseconds_at_every_rate() {
        for rate in Rate::ALL {
            assert_eq!(Frame::silence(rate).len() as u32 * 50, rate.hz());
            assert_eq!(rate.duration(rate.frame()), crate::media::clock::PTIME);
        }
        assert_eq!(Rate::from_hz(44_100), None);
    }

    #[test]
    fn the_largest_frame_fits() {
        assert_eq!(Rate::Hz48000.frame(), MAX_SAMPLES);
    }
}
