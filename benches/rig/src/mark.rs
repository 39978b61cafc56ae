//! The number of a frame, written into its audio.
//!
//! The first six samples of a frame say whose it is. Relays may cut and join the stream as they like: a mark is found
//! at any offset. A sample that a relay alters or drops inside of a mark makes that frame count as lost.

use crate::line::FRAME;

/// Samples in a mark.
pub const LEN: usize = 6;

/// Two values that the filling never reaches.
const OPENING: [i16; 2] = [32_001, -32_002];
/// A frame's number is written in two digits of this base.
const BASE: u32 = 8_192;
const CHECK: i16 = 0x0155;

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
    /// Fills a frame and marks it with the number `frame` of the call `call` (both below 2^13 and 2^26).
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
        let (call, high, low) = (call as i16, (frame / BASE) as i16, (frame % BASE) as i16);
        let mark = [OPENING[0], OPENING[1], call, high, low, call ^ high ^ low ^ CHECK];
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
        let [.., call, high, low, check] = self.body;
        if check != call ^ high ^ low ^ CHECK {
            return None;
        }
        let number = |sample: i16| usize::try_from(sample).ok();
        Some((number(call)?, number(high)? * BASE as usize + number(low)?))
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
            frame[place] ^= 1;
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
