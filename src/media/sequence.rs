//! Which packets of an RTP stream came, and which came before.
//!
//! A sequence number has 16 bits and wraps; the newest one and the 127 before it are remembered, a bit each.

/// What a sequence number says of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is the newest so far.
    Newer,
    /// It was overtaken.
    Older,
    /// It was here before, or is too old to tell.
    Repeated,
    /// It is far from all that came before, and may be a stray: not to be believed until its successor comes.
    Stray,
    /// It is the successor of a stray: the stream goes on from here.
    Jumped,
}

/// The numbers of one stream.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    newest: Option<u16>,
    /// Bit i: `newest - i` was here.
    seen: u128,
    /// The number that would confirm a jump.
    believed_with: Option<u16>,
    /// Packets that there should have been, and those that there were, each once.
    expected: u64,
    came: u64,
}

impl Sequence {
    /// Takes the number of a packet.
    pub fn on_packet(&mut self, sequence: u16) -> Arrival {
        let Some(newest) = self.newest else {
            self.start(sequence);
            return Arrival::Newer;
        };
        let ahead = sequence.wrapping_sub(newest).cast_signed();
        if i32::from(ahead).abs() > i32::from(FARTHEST) {
            // RFC 3550 A.1: two in a row, so that one stray does not take the stream along.
            if self.believed_with == Some(sequence) {
                self.start(sequence);
                return Arrival::Jumped;
            }
            self.believed_with = Some(sequence.wrapping_add(1));
            return Arrival::Stray;
        }
        self.believed_with = None;
        if ahead > 0 {
            self.newest = Some(sequence);
            self.seen = self.seen << ahead | 1;
            self.expected += ahead.unsigned_abs() as u64;
            self.came += 1;
            return Arrival::Newer;
        }
        let bit = 1 << ahead.unsigned_abs();
        if self.seen & bit != 0 {
            return Arrival::Repeated;
        }
        self.seen |= bit;
        self.came += 1;
        Arrival::Older
    }

    /// Whether every packet between these two was here.
    #[must_use]
    pub fn is_whole(&self, after: u16, before: u16) -> bool {
        let Some(newest) = self.newest else { return false };
        let between = before.wrapping_sub(after).wrapping_sub(1);
        let back = newest.wrapping_sub(before);
        // `before` itself is bit `back`, and what is between lies above it.
        between <= FARTHEST.unsigned_abs() && back <= FARTHEST.unsigned_abs() && {
            let wanted = (1_u128 << between) - 1;
            u32::from(back) + 1 + u32::from(between) <= u128::BITS && self.seen >> back >> 1 & wanted == wanted
        }
    }

    /// Packets that never came so far. One that is still on its way is among them (RFC 3550 A.3).
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.came)
    }

    /// Another stream begins; the counters go on.
    pub const fn restart(&mut self) {
        self.newest = None;
        self.believed_with = None;
    }

    const fn start(&mut self, sequence: u16) {
        self.newest = Some(sequence);
        // What came before the first packet is neither expected nor lost: should it come, it is one more.
        self.seen = 1;
        self.believed_with = None;
        self.expected += 1;
        self.came += 1;
    }
}

/// A packet this far ahead or behind is of another stream. Two seconds of 20 ms: MAX_MISORDER of RFC 3550 A.1, which is
/// used in both directions because after two seconds there is nothing left to be reordered with.
const FARTHEST: i16 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use Arrival::{Jumped, Newer, Older, Repeated, Stray};

    fn arrivals<const N: usize>(sequence: &mut Sequence, numbers: [u16; N]) -> [Arrival; N] {
        numbers.map(|number| sequence.on_packet(number))
    }

    #[test]
    fn numbers_wrap_and_what_is_missing_is_lost_until_it_comes() {
        let mut sequence = Sequence::default();
        assert_eq!(arrivals(&mut sequence, [65_534, 65_535, 1, 2]), [Newer; 4]);
        assert_eq!(sequence.lost(), 1);
        assert_eq!(arrivals(&mut sequence, [0, 0, 2, 65_534]), [Older, Repeated, Repeated, Repeated]);
        assert_eq!(sequence.lost(), 0);
    }

    #[test]
    fn a_gap_is_whole_only_when_all_of_it_came() {
        let mut sequence = Sequence::default();
        arrivals(&mut sequence, [65_533, 65_534, 0, 1, 2]);
        assert!(sequence.is_whole(65_533, 65_534));
        assert!(sequence.is_whole(65_533, 65_534) && sequence.is_whole(0, 2));
        assert!(!sequence.is_whole(65_534, 1));
        sequence.on_packet(65_535);
        assert!(sequence.is_whole(65_533, 2));
        assert!(!sequence.is_whole(2, 1) && !sequence.is_whole(2, 2) && !sequence.is_whole(30_000, 2));
    }

    #[test]
    fn one_number_from_elsewhere_is_a_stray_and_two_in_a_row_are_a_jump() {
        let mut sequence = Sequence::default();
        assert_eq!(arrivals(&mut sequence, [10, 20_000, 11, 20_001]), [Newer, Stray, Newer, Stray]);
        assert_eq!(arrivals(&mut sequence, [20_002, 20_003, 20_003]), [Jumped, Newer, Repeated]);
        assert_eq!(arrivals(&mut sequence, [11, 12]), [Stray, Jumped]);
        assert_eq!(sequence.lost(), 0);
    }

    #[test]
    fn a_hundred_lost_in_a_row_are_lost_and_not_a_jump() {
        let mut sequence = Sequence::default();
        assert_eq!(arrivals(&mut sequence, [0, 100, 201]), [Newer, Newer, Stray]);
        assert_eq!(sequence.lost(), 99);
    }
}
