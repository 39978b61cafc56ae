//! Whether somebody talks, by how loud it is: 9 dB over the quietest of the last seconds.
//!
//! It costs a fiftieth of [`vad`](super::vad) and takes any noise that swells for speech, so it is good for figures and not
//! for deeds: what a call's record says of turns may be off by a cough, but no agent is silenced by one.

use crate::media::{
    Now,
    clock::PTIME_MS,
    frame::Rate,
    level::{SILENCE_DBOV, energy_of, level_of},
    vad::{Change, Gate},
};

/// Listens for talk in one direction of a call.
#[derive(Clone, Debug)]
pub struct Talk {
    frame: usize,
    /// The energy of the frame that is being gathered, and its samples.
    energy: u64,
    len: usize,
    /// The levels of the last frames, oldest at `next` (dBov).
    levels: [i8; WINDOW],
    next: usize,
    /// The quietest of them.
    quietest: i8,
    gate: Gate,
}

impl Talk {
    /// For samples of this rate; talk ends when there was none for `hang_over`.
    #[must_use]
    pub const fn new(rate: Rate, hang_over: Now) -> Self {
        Self {
            frame: rate.frame(),
            energy: 0,
            len: 0,
            levels: [0; WINDOW],
            next: 0,
            quietest: 0,
            gate: Gate::new(rate, PTIME_MS, hang_over),
        }
    }

    /// Listens to any number of samples and answers what changed; of several changes in one push the last is told.
    pub fn push(&mut self, samples: &[i16]) -> Option<Change> {
        let mut change = None;
        let mut rest = samples;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(self.frame - self.len));
            self.energy += energy_of(piece);
            self.len += piece.len();
            rest = after;
            if self.len == self.frame {
                let level = level_of(self.energy, self.len);
                (self.energy, self.len) = (0, 0);
                let voiced = self.is_talk(level);
                change = self.gate.push(voiced).or(change);
            }
        }
        change
    }

    /// Whether somebody talks; during the hang-over somebody does.
    #[must_use]
    pub const fn is_speech(&self) -> bool {
        self.gate.is_speech()
    }

    /// Where the talk that goes on, or else the last one, began (samples since [`new`](Self::new)).
    #[must_use]
    pub const fn spoken_from(&self) -> u64 {
        self.gate.from()
    }

    /// Where it was last heard (samples since [`new`](Self::new)).
    #[must_use]
    pub const fn spoken_until(&self) -> u64 {
        self.gate.until()
    }

    fn is_talk(&mut self, level: i8) -> bool {
        let gone = core::mem::replace(&mut self.levels[self.next], level);
        self.next = (self.next + 1) % WINDOW;
        if level <= self.quietest {
            self.quietest = level;
        } else if gone == self.quietest {
            // It may have been the only one.
            self.quietest = self.levels.iter().copied().fold(0, i8::min);
        }
        level > SILENCE_DBOV && level >= self.quietest.max(LEAST_FLOOR_DBOV) + OVER_FLOOR_DB
    }
}

/// Frames that are looked back on: 1.5 s, longer than anybody talks without a gap between two words.
const WINDOW: usize = 75;
/// A floor under this is none: comfort noise and silence are the same.
const LEAST_FLOOR_DBOV: i8 = -65;
/// So much louder than the floor is talk. Measured in benches/RESULTS.md.
const OVER_FLOOR_DB: i8 = 9;

#[cfg(test)]
#[allow(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
mod tests {
    use super::*;

    fn tone(ms: usize, loudness: f64) -> Vec<i16> {
        let hum = |n: usize| 8.0 * (n as f64 * 0.9).sin();
        (0..ms * 8).map(|n| ((n as f64 * 0.3).sin() * loudness + hum(n)) as i16).collect()
    }

    #[test]
    fn talk_begins_and_ends_where_it_was_however_it_is_cut() {
        let heard = [tone(1000, 0.0), tone(800, 4000.0), tone(1000, 0.0)].concat();
        for piece in [1, 80, 160, 333, 1600] {
            let mut talk = Talk::new(Rate::Hz8000, Now::from_millis(500));
            let told: Vec<_> = heard.chunks(piece).filter_map(|samples| talk.push(samples)).collect();
            assert_eq!(told, [Change::Started, Change::Stopped], "{piece}");
            assert_eq!((talk.spoken_from(), talk.spoken_until()), (8000, 14_400), "{piece}");
            assert!(!talk.is_speech());
        }
    }

    #[test]
    fn the_floor_is_the_quietest_of_the_last_second_and_a_half() {
        let mut talk = Talk::new(Rate::Hz8000, Now::from_millis(500));
        let mut last = std::collections::VecDeque::from([0_i8; WINDOW]);
        let mut noise = 7_u32;
        for round in 0..5000 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // It swells and sinks, so that the floor leaves the window, alone and in company.
            let level = -((noise >> 27) as i8) - if round / 300 % 2 == 0 { 0 } else { 40 };
            last.pop_front();
            last.push_back(level);
            let floor = last.iter().copied().fold(0, i8::min);
            assert_eq!(talk.is_talk(level), level >= floor.max(LEAST_FLOOR_DBOV) + OVER_FLOOR_DB, "{round}");
        }
    }

    #[test]
    fn silence_and_steady_noise_are_no_talk() {
        let mut talk = Talk::new(Rate::Hz8000, Now::from_millis(500));
        assert_eq!(talk.push(&tone(5000, 0.0)), None);
        assert_eq!(talk.push(&[0; 16_000]), None);
        let mut talk = Talk::new(Rate::Hz8000, Now::from_millis(500));
        assert_eq!(talk.push(&tone(5000, 3000.0)), None, "loud from the start and never changing");
    }
}
