//! The microphone is shut while the agent is heard: no echo, at no cost, and no word in between either.
//!
//! ```text
//!  played  ____/''''''\______________   louder than the floor
//!  gate    ~~~~\______________/~~~~~~   shut until the room has been quiet for the hang-over
//! ```

use crate::media::{
    frame::Rate,
    level::{fade_in, fade_out, level_dbov},
};

/// Shuts a microphone while its loudspeaker plays.
///
/// For each 10 ms, first [`played`](Self::played), then [`gate`](Self::gate).
#[derive(Clone, Debug)]
pub struct HalfDuplex {
    /// Samples of a fade.
    fade: usize,
    /// Pieces that it stays shut after the last that was heard.
    hang_over: u32,
    /// So many more pieces the microphone stays shut.
    left: u32,
    /// Whether it was shut in the piece before.
    was_shut: bool,
}

impl HalfDuplex {
    /// An open microphone of this rate.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { fade: rate.samples(FADE_MS), hang_over: HANG_OVER_MS / 10, left: 0, was_shut: false }
    }

    /// So long (ms) what goes to the loudspeaker is under way until the room is quiet again.
    pub const fn set_hang_over(&mut self, ms: u32) {
        self.hang_over = ms.div_ceil(10);
    }

    /// Takes what goes to the loudspeaker, 10 ms of it. Where nothing goes there this need not be called.
    pub fn played(&mut self, samples: &[i16]) {
        if level_dbov(samples) > FLOOR_DBOV {
            self.left = 1 + self.hang_over;
        }
    }

    /// Takes 10 ms of what the microphone hears and silences them while it is shut.
    pub fn gate(&mut self, samples: &mut [i16]) {
        let shut = self.left > 0;
        self.left = self.left.saturating_sub(1);
        let (edge, rest) = samples.split_at_mut(self.fade.min(samples.len()));
        match (self.was_shut, shut) {
            (false, false) => {}
            (false, true) => {
                fade_out(edge);
                rest.fill(0);
            }
            (true, true) => samples.fill(0),
            (true, false) => fade_in(edge),
        }
        self.was_shut = shut;
    }
}

/// What is louder counts as heard (dBov). Noise of a line and what silence is encoded as lie below, speech above.
const FLOOR_DBOV: i8 = -50;

/// How long the microphone stays shut after the last that was heard, unless told otherwise: what is still under way to the
/// loudspeaker, and the room's tail (ms).
const HANG_OVER_MS: u32 = 200;

/// A microphone that is cut off on the sample clicks.
const FADE_MS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const LOUD: [i16; 160] = [3000; 160];
    const HEARD: [i16; 160] = [1000; 160];

    /// What is left of one piece of the microphone.
    fn gated(duplex: &mut HalfDuplex) -> [i16; 160] {
        let mut samples = HEARD;
        duplex.gate(&mut samples);
        samples
    }

    #[test]
    fn a_microphone_is_open_until_the_agent_speaks() {
        let mut duplex = HalfDuplex::new(Rate::Hz16000);
        for _ in 0..10 {
            duplex.played(&[0; 160]);
            assert_eq!(gated(&mut duplex), HEARD);
        }
        duplex.played(&LOUD);
        assert!(duplex.left > 0);
        gated(&mut duplex);
        assert_eq!(gated(&mut duplex), [0; 160]);
    }

    #[test]
    fn it_opens_200_ms_after_the_last_word() {
        let mut duplex = HalfDuplex::new(Rate::Hz16000);
        for _ in 0..50 {
            duplex.played(&LOUD);
            gated(&mut duplex);
        }
        for piece in 0..20 {
            duplex.played(&[0; 160]);
            assert_eq!(gated(&mut duplex), [0; 160], "after {piece} pieces");
        }
        assert!(duplex.left == 0);
        assert_eq!(gated(&mut duplex)[80..], HEARD[80..]);
        assert_eq!(gated(&mut duplex), HEARD);
    }

    #[test]
    fn it_opens_when_nothing_is_played_any_more_at_all() {
        let mut duplex = HalfDuplex::new(Rate::Hz16000);
        duplex.played(&LOUD);
        for _ in 0..21 {
            assert!(duplex.left > 0);
            gated(&mut duplex);
        }
        assert!(duplex.left == 0);
    }

    #[test]
    fn a_pause_between_words_does_not_open_it() {
        let mut duplex = HalfDuplex::new(Rate::Hz16000);
        let mut heard = 0;
        for piece in 0..100 {
            duplex.played(if piece % 20 == 0 { &LOUD } else { &[0; 160] });
            heard += usize::from(gated(&mut duplex) != [0; 160]);
        }
        assert_eq!(heard, 1, "only the fade at its begin");
    }

    #[test]
    fn noise_of_the_line_does_not_shut_it() {
        let mut duplex = HalfDuplex::new(Rate::Hz16000);
        duplex.played(&[100; 160]);
        assert_eq!(level_dbov(&[100; 160]), FLOOR_DBOV);
        assert!(duplex.left == 0);
    }

    #[test]
    fn neither_edge_clicks_at_any_rate() {
        for rate in Rate::ALL {
            let mut duplex = HalfDuplex::new(rate);
            let mut all = Vec::new();
            for piece in 0..40 {
                if piece == 5 {
                    duplex.played(&vec![3000; rate.samples(10)]);
                }
                let mut samples = vec![1000; rate.samples(10)];
                duplex.gate(&mut samples);
                all.extend(samples);
            }
            let steepest = all.windows(2).map(|pair| (pair[1] - pair[0]).abs()).max();
            assert!(steepest <= Some(1000 / rate.samples(FADE_MS) as i16 + 1), "{rate}: {steepest:?}");
            assert!(all.contains(&0));
        }
    }
}
