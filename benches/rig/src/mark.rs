//! The number of a frame, written into its audio.
//!
//! The first eight samples of a frame say whose it is. Relays may cut and join the stream as they like: a mark is found
//! at any offset. A sample that a relay alters or drops inside of a mark makes that frame count as lost. G.711's mu-law
//! alters none: a mark is made of values that it has.

use crate::line::FRAME;

/// Samples in a mark.
pub const LEN: usize = 8;

/// Two values that the filling never reaches: the loudest of mu-law.
const OPENING: [i16; 2] = [32_124, -32_124];
/// Numbers are written in digits of this base: a call's in two, a frame's in three, and one to check them.
const BASE: u32 = 64;
const CHECK: u32 = 0x15;

/// A digit as the sample that stands for it: mu-law's softest 64, from zero up.
const fn sample_of(digit: u32) -> i16 {
    (((digit % 16 * 8 + 132) << (digit / 16 % 4)) - 132) as i16
}

fn digit_of(sample: i16) -> Option<u32> {
    (0..BASE).find(|&digit| sample_of(digit) == sample)
}

/// The audio of frames: a voice-like level, so that its decimal text is as long as that of speech.
#[derive(Debug)]
pub struct Filling {
    noise: u32,
    phase: u32,
}

impl Default for Filling {
    fn default() -> Self {
        Self { noise: 0x9e37_79b9, phase: 0 }
    }
}

impl Filling {
    /// Fills a frame and marks it with the number `frame` of the call `call` (below 2^12 and 2^18).
    pub fn write(&mut self, call: u16, frame: u32, out: &mut [i16; FRAME]) {
        for sample in out.iter_mut() {
            // xorshift32, Marsaglia 2003
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 17;
            self.noise ^= self.noise << 5;
            self.phase = (self.phase + 1) % 64;
            let triangle = 250 * (i32::try_from(self.phase.abs_diff(32)).unwrap_or(0) - 16);
            let hiss = (self.noise >> 20) as i32 - 2_048;
            *sample = (triangle + hiss) as i16; // at most 6,048
        }
        let digits =
            [u32::from(call) / BASE, u32::from(call), frame / BASE / BASE, frame / BASE, frame].map(|n| n % BASE);
        let check = digits.iter().fold(CHECK, |check, digit| check ^ digit);
        let mut mark = [OPENING[0], OPENING[1], 0, 0, 0, 0, 0, sample_of(check)];
        for (sample, &digit) in mark[2..].iter_mut().zip(&digits) {
            *sample = sample_of(digit);
        }
        out[..LEN].copy_from_slice(&mark);
    }
}

/// Finds marks in a stream of samples.
#[derive(Debug, Default)]
pub struct Finder {
    seen: usize,
    body: [i16; LEN],
}

impl Finder {
    /// Takes the next sample. `Some((call, frame))`: it was the last one of a mark.
    pub fn push(&mut self, sample: i16) -> Option<(usize, usize)> {
        if self.seen == 0 && sample != OPENING[0] {
            return None;
        }
        if self.seen == 1 && sample != OPENING[1] {
            self.seen = usize::from(sample == OPENING[0]);
            return None;
        }
        self.body[self.seen] = sample;
        self.seen += 1;
        if self.seen < LEN {
            return None;
        }
        self.seen = 0;
        let mut digits = [0; LEN - 2];
        for (digit, &sample) in digits.iter_mut().zip(&self.body[2..]) {
            *digit = digit_of(sample)?;
        }
        if digits.iter().fold(CHECK, |check, digit| check ^ digit) != 0 {
            return None;
        }
        let number = |digits: &[u32]| digits.iter().fold(0, |number, &digit| number * BASE + digit) as usize;
        Some((number(&digits[..2]), number(&digits[2..LEN - 3])))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(samples: impl IntoIterator<Item = i16>) -> Vec<(usize, usize)> {
        let mut finder = Finder::default();
        samples.into_iter().filter_map(|sample| finder.push(sample)).collect()
    }

    #[test]
    fn a_mark_is_found_at_any_offset_and_only_there() {
        let (mut filling, mut frame) = (Filling::default(), [0; FRAME]);
        for offset in 0..FRAME {
            let mut stream = vec![0; offset];
            for number in [12, 8_191, 8_192, 30_000] {
                filling.write(199, number, &mut frame);
                stream.extend(frame);
            }
            assert_eq!(found(stream), [(199, 12), (199, 8_191), (199, 8_192), (199, 30_000)]);
        }
    }

    #[test]
    fn an_altered_mark_is_no_mark() {
        let (mut filling, mut frame) = (Filling::default(), [0; FRAME]);
        for place in 0..LEN {
            filling.write(3, 77, &mut frame);
            frame[place] ^= 4;
            assert_eq!(found(frame), []);
        }
    }

    #[test]
    fn an_opening_that_stutters_is_still_seen() {
        let (mut filling, mut frame) = (Filling::default(), [0; FRAME]);
        filling.write(0, 12, &mut frame);
        assert_eq!(found([OPENING[0], OPENING[0]].into_iter().chain(frame)), [(0, 12)]);
    }
}
