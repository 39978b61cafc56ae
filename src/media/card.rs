//! The formats of sound cards: to PCM16 mono and back.
//!
//! For audio callbacks: sample by sample, nothing kept, nothing taken of the heap. Sound goes by iterators, because the
//! rings beside a callback take and give it so, in two pieces where they wrap.

/// A sample as a card has it.
pub trait CardSample: Copy {
    /// Rounded to 16 bits. What is out of range is clipped, what is not a number is silence.
    #[must_use]
    fn to_pcm(self) -> i16;

    /// The same, as this card wants it.
    #[must_use]
    fn from_pcm(sample: i16) -> Self;
}

impl CardSample for i16 {
    fn to_pcm(self) -> i16 {
        self
    }

    fn from_pcm(sample: i16) -> Self {
        sample
    }
}

impl CardSample for i32 {
    fn to_pcm(self) -> i16 {
        (self.saturating_add(1 << 15) >> 16) as i16
    }

    fn from_pcm(sample: i16) -> Self {
        Self::from(sample) << 16
    }
}

/// From -1 to 1, where 1 itself is just out of range.
impl CardSample for f32 {
    fn to_pcm(self) -> i16 {
        let scaled = self * 32_768.0;
        // Such a cast saturates, and makes 0 of what is not a number.
        (scaled + 0.5_f32.copysign(scaled)) as i16
    }

    fn from_pcm(sample: i16) -> Self {
        Self::from(sample) / 32_768.0
    }
}

/// What a card heard, as one sample for each of its frames: the mean of the first two of its channels. A microphone
/// often has both alike, and what lies beyond two is no microphone (a loopback, a reference). A frame that is cut off
/// is left out.
pub fn to_mono<S: CardSample>(card: &[S], channels: usize) -> impl ExactSizeIterator<Item = i16> + '_ {
    card.chunks_exact(channels.max(1)).map(|frame| match *frame {
        [left, right, ..] => ((i32::from(left.to_pcm()) + i32::from(right.to_pcm())) >> 1) as i16,
        [only] => only.to_pcm(),
        [] => 0,
    })
}

/// Fills what a card plays, the same in all of its channels, and answers how many of its frames had sound: where that
/// ends too early, silence follows. What the card has no room for is not taken.
pub fn from_mono<S: CardSample>(mono: impl IntoIterator<Item = i16>, channels: usize, card: &mut [S]) -> usize {
    let mut frames = card.chunks_exact_mut(channels.max(1));
    // Room first: the other way round a sample would be taken, and lost, when there is no more.
    let filled = frames.by_ref().zip(mono).map(|(frame, sample)| frame.fill(S::from_pcm(sample))).count();
    card[filled * channels.max(1)..].fill(S::from_pcm(0));
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_carries_all_16_bits_there_and_back() {
        for sample in i16::MIN..=i16::MAX {
            assert_eq!(i16::from_pcm(sample).to_pcm(), sample);
            assert_eq!(i32::from_pcm(sample).to_pcm(), sample);
            assert_eq!(f32::from_pcm(sample).to_pcm(), sample);
        }
    }

    #[test]
    fn values_of_real_cards_are_what_they_should_be() {
        // S32_LE of a 24-bit codec: the upper 24 bits, rounded and not cut.
        assert_eq!(
            [0x1234_5600_i32, 0x1234_8000, -0x100, -0x1_0000, i32::MAX, i32::MIN].map(i32::to_pcm),
            [0x1234, 0x1235, 0, -1, i16::MAX, i16::MIN]
        );
        // FLOAT_LE: a mixer may go over full scale.
        assert_eq!(
            [0.0_f32, 0.5, -0.5, 1.0, -1.0, 1.7, -3.0, 0.000_02, -0.000_02].map(f32::to_pcm),
            [0, 16_384, -16_384, i16::MAX, i16::MIN, i16::MAX, i16::MIN, 1, -1]
        );
        assert_eq!([f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(f32::to_pcm), [0, i16::MAX, i16::MIN]);
        assert_eq!([f32::from_pcm(i16::MIN), f32::from_pcm(16_384)], [-1.0, 0.5]);
    }

    #[test]
    fn the_first_two_channels_are_the_microphone() {
        let heard = |channels| to_mono(&[100_i16, 300, -50, -51, i16::MAX, i16::MAX, 7], channels).collect::<Vec<_>>();
        assert_eq!(heard(1), [100, 300, -50, -51, i16::MAX, i16::MAX, 7]);
        assert_eq!(heard(2), [200, -51, i16::MAX]);
        assert_eq!(heard(3), [200, 16_358]);
        assert_eq!(heard(0), heard(1));
        assert_eq!(to_mono(&[i32::MIN, i32::MIN], 2).collect::<Vec<_>>(), [i16::MIN]);
        // One broken channel does not take the other one along.
        assert_eq!(to_mono(&[f32::NAN, 0.5], 2).collect::<Vec<_>>(), [8_192]);
        assert_eq!(to_mono(&[0.0_f32; 426], 2).len(), 213);
    }

    #[test]
    fn all_channels_play_the_same_and_silence_follows() {
        let mut card = [1.0_f32; 7];
        assert_eq!(from_mono([16_384, -16_384], 2, &mut card), 2);
        assert_eq!(card, [0.5, 0.5, -0.5, -0.5, 0.0, 0.0, 0.0]);
        let mut card = [7_i32; 3];
        assert_eq!(from_mono([], 1, &mut card), 0);
        assert_eq!(card, [0; 3]);
        let mut card = [0_i16; 8];
        assert_eq!(from_mono([1, 2], 4, &mut card), 2);
        assert_eq!(card, [1, 1, 1, 1, 2, 2, 2, 2]);
    }

    #[test]
    fn what_a_card_has_no_room_for_is_not_taken() {
        let mut ring = [1, 2, 3, 4, 5].into_iter();
        let mut card = [0_i32; 6];
        assert_eq!(from_mono(ring.by_ref(), 2, &mut card), 3);
        assert_eq!(card.map(i32::to_pcm), [1, 1, 2, 2, 3, 3]);
        assert_eq!(ring.collect::<Vec<_>>(), [4, 5]);
    }
}
