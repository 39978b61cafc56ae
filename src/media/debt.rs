//! How much delay is owed to the listener, by two kinds of evidence.
//!
//! Audio that waits in the downlink is usually speech that the agent sent ahead on purpose, and then every sample of it
//! is played. Sometimes it is a delay that something caused, and then it is given back:
//!
//! - **Our own lateness.** Ticks were missed (the process was stopped, the machine was busy) while a live stream was
//!   playing: what piles up shortly after, up to the time we missed, is owed and may be taken out of any frame.
//! - **A standing queue.** A stream that arrives in real time has, for a whole second, never let the queue come near
//!   what it was in the utterance's first second: the excess is owed, but taken out of quiet frames only.
//!
//! In doubt nothing is owed.

use crate::media::{clock::Now, frame::Rate};

/// What may be taken out of the queue now, in samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// From any frame.
    pub any: usize,
    /// From quiet frames only (includes `any`).
    pub quiet: usize,
}

/// The evidence of one call.
#[derive(Clone, Debug)]
pub struct Debt {
    rate: Rate,
    credit: usize,
    credit_until: Now,
    /// The most of the credit that was seen in the queue while it counted, less what was repaid.
    piled_up: usize,
    buckets: [Bucket; BUCKETS],
    bucket: usize,
    bucket_ends: Now,
    utterance_started: Option<Now>,
    base: usize,
    last_arrival: Option<(Now, usize)>,
    /// Mean deviation of arrivals from the sample clock, as RFC 3550 6.4.1 smooths it (samples, times 16).
    jitter_x16: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Least fill right after a frame was taken; `usize::MAX` when none was.
    least: usize,
    /// Samples that arrived.
    arrived: usize,
}

impl Debt {
    /// Nothing is owed.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self {
            rate,
            credit: 0,
            credit_until: Now::ZERO,
            piled_up: 0,
            buckets: [EMPTY; BUCKETS],
            bucket: 0,
            bucket_ends: Now::ZERO,
            utterance_started: None,
            base: usize::MAX,
            last_arrival: None,
            jitter_x16: 0,
        }
    }

    /// Frames worth `missed` samples were not played because we were late. `fill` is what the queue held before, after
    /// its last frame; `round_trip` the trunk's last ping time.
    pub fn on_missed(&mut self, now: Now, missed: usize, fill: usize, cushion: usize, round_trip: Now) {
        self.expire(now);
        if fill <= cushion + self.rate.frame() {
            self.credit += missed;
            self.credit_until = now + CREDIT_LASTS + round_trip;
        }
    }

    /// Samples were published.
    pub fn on_arrival(&mut self, now: Now, samples: usize) {
        self.turn(now);
        self.buckets[self.bucket].arrived += samples;
        if let Some((then, before)) = self.last_arrival {
            // What lies between two arrivals should be as long as the first of them.
            let gap =
                (now.saturating_sub(then).as_micros() as usize).saturating_mul(self.rate.hz() as usize) / 1_000_000;
            let deviation = gap.abs_diff(before).min(self.rate.hz() as usize);
            self.jitter_x16 = self.jitter_x16 + deviation - self.jitter_x16 / 16;
        }
        self.last_arrival = Some((now, samples));
    }

    /// A new utterance begins: what its first second keeps in the queue is the agent's own lead.
    pub const fn on_utterance(&mut self, now: Now) {
        self.utterance_started = Some(now);
        self.base = usize::MAX;
    }

    /// The queue ran dry within the utterance: whatever stands in it from now on is no lead of the agent's.
    pub const fn on_underrun(&mut self) {
        self.base = 0;
    }

    /// What is owed now. `fill` is what the queue holds right after a frame was taken; both in samples.
    pub fn owed(&mut self, now: Now, fill: usize, cushion: usize) -> Owed {
        self.turn(now);
        let bucket = &mut self.buckets[self.bucket];
        bucket.least = bucket.least.min(fill);

        let before = self.buckets[(self.bucket + BUCKETS - 1) % BUCKETS].least;
        let recent = if before == usize::MAX { 0 } else { before.min(self.buckets[self.bucket].least) };
        let excess = recent.saturating_sub(cushion);
        self.expire(now);
        if now <= self.credit_until {
            self.piled_up = self.piled_up.max(excess.min(self.credit));
        }
        let any = self.credit.min(excess);
        Owed { any, quiet: any.max(self.standing(now, fill, cushion)) }
    }

    /// This many samples were taken out.
    pub const fn on_repaid(&mut self, samples: usize) {
        self.piled_up = self.piled_up.saturating_sub(samples);
        self.credit = self.credit.saturating_sub(samples);
    }

    /// Measured arrival jitter (samples).
    #[must_use]
    pub const fn jitter(&self) -> usize {
        self.jitter_x16 / 16
    }

    /// What had not piled up when the credit ran out is not the stall's doing; and in the end all of it is too late.
    fn expire(&mut self, now: Now) {
        if now > self.credit_until + PAID_BY {
            (self.credit, self.piled_up) = (0, 0);
        } else if now > self.credit_until {
            self.credit = self.credit.min(self.piled_up);
        }
    }

    fn standing(&mut self, now: Now, fill: usize, cushion: usize) -> usize {
        let Some(started) = self.utterance_started else { return 0 };
        if now.saturating_sub(started) < SECOND {
            self.base = self.base.min(fill);
            return 0;
        }
        let second = self.rate.hz() as usize;
        let arrived: usize = self.buckets.iter().map(|bucket| bucket.arrived).sum();
        // Less is a pause, more is speech sent ahead on purpose: neither is a live stream.
        if arrived < second * 8 / 10 || arrived > second * 12 / 10 {
            return 0;
        }
        let least = self.buckets.iter().map(|bucket| bucket.least).min().unwrap_or(0);
        let base = cushion.max(self.base);
        if least == usize::MAX || least <= base.saturating_add(self.rate.frame()) {
            return 0;
        }
        least.saturating_sub(base.max(2 * self.jitter()))
    }

    fn turn(&mut self, now: Now) {
        let mut turns = 0;
        while now >= self.bucket_ends {
            self.bucket = (self.bucket + 1) % BUCKETS;
            self.buckets[self.bucket] = EMPTY;
            self.bucket_ends += BUCKET;
            turns += 1;
            if turns > BUCKETS {
                self.bucket_ends = now + BUCKET;
            }
        }
    }
}

const EMPTY: Bucket = Bucket { least: usize::MAX, arrived: 0 };
const BUCKETS: usize = 10;
const BUCKET: Now = Now::from_millis(100);
const SECOND: Now = Now::from_secs(1);

/// How long what piles up after a stall is taken for the stall's doing, beside one round trip.
const CREDIT_LASTS: Now = Now::from_secs(2);

/// How long after that it may still be repaid.
const PAID_BY: Now = Now::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const CUSHION: usize = 80;

    fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    /// Plays a stream of 20 ms frames in real time with this fill, from `from` ms on, for `n` frames; gives the last word.
    fn stream(debt: &mut Debt, from: u64, n: u64, fill: usize) -> Owed {
        let mut owed = Owed::default();
        for i in 0..n {
            debt.on_arrival(at(from + 20 * i), 160);
            owed = debt.owed(at(from + 20 * i), fill, CUSHION);
        }
        owed
    }

    #[test]
    fn a_stall_of_a_live_stream_is_owed_as_far_as_it_piled_up() {
        let mut debt = Debt::new(Rate::Hz8000);
        stream(&mut debt, 0, 100, 160);
        debt.on_missed(at(2500), 4000, 160, CUSHION, Now::ZERO);
        let owed = stream(&mut debt, 2500, 15, 3000);
        assert_eq!(owed.any, 3000 - CUSHION);
        debt.on_repaid(1000);
        assert_eq!(stream(&mut debt, 2800, 15, 2000).any, 2000 - CUSHION);
    }

    #[test]
    fn a_moments_dip_does_not_forgive_the_debt() {
        let mut debt = Debt::new(Rate::Hz8000);
        stream(&mut debt, 0, 100, 0);
        debt.on_missed(at(2500), 4000, 0, CUSHION, Now::ZERO);
        stream(&mut debt, 2500, 15, 1000);
        stream(&mut debt, 4600, 1, 0);
        assert_eq!(stream(&mut debt, 4620, 20, 1000).any, 1000 - CUSHION);
        assert_eq!(stream(&mut debt, 6600, 20, 1000).any, 0, "but at last it is too late");
    }

    #[test]
    fn credit_that_ran_out_does_not_come_back_with_the_next_stall() {
        let mut debt = Debt::new(Rate::Hz8000);
        for minute in 0..60 {
            debt.on_missed(at(60_000 * minute), 160, 0, CUSHION, Now::ZERO);
        }
        assert!(stream(&mut debt, 60_000 * 59 + 20, 20, 4000).any <= 160);
    }

    #[test]
    fn a_stall_during_a_burst_is_not_owed() {
        let mut debt = Debt::new(Rate::Hz8000);
        stream(&mut debt, 0, 10, 40_000);
        debt.on_missed(at(700), 4000, 40_000, CUSHION, Now::ZERO);
        assert_eq!(stream(&mut debt, 700, 10, 39_000).any, 0);
    }

    #[test]
    fn what_arrives_long_after_a_stall_is_not_its_doing() {
        let mut debt = Debt::new(Rate::Hz8000);
        stream(&mut debt, 0, 10, 0);
        debt.on_missed(at(700), 4000, 0, CUSHION, at(100));
        assert_eq!(stream(&mut debt, 700, 10, 0).any, 0);
        assert_eq!(stream(&mut debt, 3000, 20, 8000).any, 0);
    }

    #[test]
    fn a_queue_that_stands_on_a_live_stream_is_owed_in_quiet_frames_only() {
        let mut debt = Debt::new(Rate::Hz8000);
        debt.on_utterance(at(0));
        stream(&mut debt, 0, 60, 100);
        let owed = stream(&mut debt, 1200, 60, 1000);
        assert_eq!(owed.any, 0);
        assert!((700..=900).contains(&owed.quiet), "{owed:?}");
    }

    #[test]
    fn a_lead_that_was_there_from_the_start_is_the_agents_own() {
        let mut debt = Debt::new(Rate::Hz8000);
        debt.on_utterance(at(0));
        assert_eq!(stream(&mut debt, 0, 200, 1600), Owed::default());
    }

    #[test]
    fn what_stands_after_the_queue_once_ran_dry_is_no_lead() {
        let mut debt = Debt::new(Rate::Hz8000);
        debt.on_utterance(at(0));
        stream(&mut debt, 0, 10, 1600);
        debt.on_underrun();
        let owed = stream(&mut debt, 200, 100, 1600);
        assert_eq!((owed.any, owed.quiet), (0, 1600 - CUSHION.max(2 * debt.jitter())));
    }

    #[test]
    fn speech_that_arrives_faster_than_it_is_played_is_never_owed() {
        let mut debt = Debt::new(Rate::Hz8000);
        debt.on_utterance(at(0));
        let mut owed = Owed::default();
        for i in 0..300 {
            debt.on_arrival(at(20 * i), 320);
            owed = debt.owed(at(20 * i), 160 * i as usize, CUSHION);
        }
        assert_eq!(owed, Owed::default());
    }

    #[test]
    fn a_pause_after_a_burst_is_not_a_standing_queue() {
        let mut debt = Debt::new(Rate::Hz8000);
        debt.on_utterance(at(0));
        stream(&mut debt, 0, 60, 100);
        debt.on_arrival(at(1200), 80_000);
        for i in 0..100 {
            assert_eq!(debt.owed(at(1200 + 20 * i), 80_000 - 160 * i as usize, CUSHION), Owed::default());
        }
    }
}
