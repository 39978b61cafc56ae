//! How long things took, in buckets that double: cheap to add to, and fit to be summed over calls.

use crate::media::clock::Now;

/// Counts of durations by bucket.
///
/// Bucket 0 holds up to [`FIRST_US`] microseconds, each following one twice as much as the one before, and the last one
/// everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell into each bucket.
    pub counts: [u32; BUCKETS],
    /// All of them together (microseconds).
    pub sum_us: u64,
    /// The longest (microseconds).
    pub most_us: u64,
}

impl Histogram {
    /// Adds a duration.
    pub fn record(&mut self, took: Now) {
        self.record_many(took, 1);
    }

    /// Adds so many of the same duration.
    pub fn record_many(&mut self, took: Now, count: u32) {
        let us = took.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(took.subsec_micros()));
        let of_bucket = &mut self.counts[bucket(us)];
        *of_bucket = of_bucket.saturating_add(count);
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(count.into()));
        self.most_us = self.most_us.max(if count > 0 { us } else { 0 });
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// What so many of a thousand did not exceed (microseconds): the upper bound of their bucket, and never more than
    /// the longest. `None`: there is nothing.
    #[must_use]
    pub fn permille_us(&self, permille: u64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(upper_us(index).map_or(self.most_us, |upper| upper.min(self.most_us)));
            }
        }
        Some(self.most_us)
    }
}

/// The upper bound of a bucket (microseconds); the last one has none.
#[must_use]
pub const fn upper_us(index: usize) -> Option<u64> {
    if index + 1 < BUCKETS { Some(FIRST_US << index) } else { None }
}

const fn bucket(us: u64) -> usize {
    // 0 for up to FIRST_US, then one more for each doubling.
    let doublings = (u64::BITS - (us.saturating_sub(1) / FIRST_US).leading_zeros()) as usize;
    if doublings < BUCKETS { doublings } else { BUCKETS - 1 }
}

/// The first bucket's upper bound: a frame that is relayed at once is below it.
pub const FIRST_US: u64 = 64;
/// Buckets: up to 64 us, 128 us ... 16.8 s, and longer.
pub const BUCKETS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_ends_where_its_bound_says() {
        for index in 0..BUCKETS - 1 {
            let upper = upper_us(index).expect("all but the last have one");
            assert_eq!((bucket(upper), bucket(upper + 1)), (index, index + 1), "{upper} us");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn the_median_and_the_tail_are_told_apart() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.permille_us(500), None);
        histogram.record_many(Now::from_micros(50), 98);
        histogram.record(Now::from_millis(3));
        histogram.record(Now::from_secs(70));
        assert_eq!(histogram.permille_us(500), Some(64));
        assert_eq!(histogram.permille_us(990), Some(4096));
        assert_eq!(histogram.permille_us(1000), Some(70_000_000));
        assert_eq!((histogram.count(), histogram.most_us), (100, 70_000_000));
    }

    #[test]
    fn a_lone_short_one_is_not_made_longer_than_it_was() {
        let mut histogram = Histogram::default();
        histogram.record(Now::from_micros(700));
        assert_eq!(histogram.permille_us(500), Some(700));
    }
}
