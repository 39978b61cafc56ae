//! When the agent's audio goes out on a line whose far side has a queue of its own: a vendor's WebSocket.
//!
//! Nobody tells how full that queue is, so it is reckoned: what was sent is played at real time from the moment it was
//! sent, or from the end of what was sent before. It is kept filled up to the *lead*, and no further: what lies there
//! only the far side can flush.
//!
//! A stream that comes at real time would keep that queue at nothing, and every millisecond of jitter would be a gap. So
//! an utterance begins with a cushion: its first message waits a moment, and longer after a gap within an utterance.
//!
//! ```text
//!   now                    busy_until
//!    |--- ahead <= lead ------|          send one more chunk while ahead + chunk <= lead
//! ```

use crate::media::{
    clock::{Now, PTIME},
    frame::Rate,
    playout::Weather,
};

/// The pacing of one call's downlink.
#[derive(Debug)]
pub struct Pacer {
    rate: Rate,
    lead: Now,
    /// How long an utterance's first samples wait at least, unless as much is there at once.
    cushion: Now,
    least_cushion: Now,
    /// The first samples of an utterance came then and wait.
    waits_since: Option<Now>,
    last_trouble: Now,
    /// When the far side will have played all that was sent.
    busy_until: Now,
    /// Something was sent since the last clear.
    spoke: bool,
    last_arrival: Now,
    weather: Weather,
}

impl Pacer {
    /// A far side that has nothing, to be kept at most `lead` ahead, with this least cushion.
    #[must_use]
    pub fn new(rate: Rate, lead: Now, cushion: Now) -> Self {
        Self {
            rate,
            lead,
            cushion,
            least_cushion: cushion,
            waits_since: None,
            last_trouble: Now::ZERO,
            busy_until: Now::ZERO,
            spoke: false,
            last_arrival: Now::ZERO,
            weather: Weather::default(),
        }
    }

    /// What was met so far. A frame is 20 ms that were sent.
    #[must_use]
    pub const fn weather(&self) -> Weather {
        self.weather
    }

    /// Samples came to be sent.
    pub fn on_arrival(&mut self, now: Now) {
        let dry_for = now.saturating_sub(self.busy_until);
        if self.waits_since.is_none() && !dry_for.is_zero() {
            if self.spoke && dry_for < SAME_UTTERANCE {
                self.weather.underruns += 1;
                self.cushion = (self.cushion + CUSHION_STEP).min(CUSHION_MOST).max(self.least_cushion);
                self.last_trouble = now;
            } else if now.saturating_sub(self.last_trouble) > CALM {
                self.cushion = self.cushion.saturating_sub(CUSHION_STEP).max(self.least_cushion);
                self.last_trouble = now;
            }
            self.waits_since = Some(now);
        }
        self.last_arrival = now;
    }

    /// How many of the `waiting` samples to send now as one message: a whole `chunk`, or the rest when no more came for
    /// a while, or none.
    #[must_use]
    pub fn due(&self, now: Now, waiting: usize, chunk: usize) -> usize {
        let length = self.rate.duration(chunk);
        // A burst is its own cushion.
        let is_thin = self.rate.duration(waiting) < length + self.cushion;
        if is_thin && self.waits_since.is_some_and(|since| now.saturating_sub(since) < self.cushion) {
            return 0;
        }
        if waiting == 0 || self.ahead(now) + length > self.lead.max(length + PTIME) {
            return 0;
        }
        if waiting >= chunk {
            chunk
        } else if now.saturating_sub(self.last_arrival) >= REST {
            waiting
        } else {
            0
        }
    }

    /// A message with so many samples of the agent went out, filled up to `whole` with silence.
    pub fn on_sent(&mut self, now: Now, samples: usize, whole: usize) {
        self.busy_until = self.busy_until.max(now) + self.rate.duration(whole);
        self.waits_since = None;
        self.spoke = true;
        self.weather.heard += samples as u64;
        self.weather.frames += whole.div_ceil(self.rate.frame()) as u64;
    }

    /// How long the far side can go on with what it has.
    #[must_use]
    pub fn ahead(&self, now: Now) -> Now {
        self.busy_until.saturating_sub(now)
    }

    /// When the far side will have played all that was sent.
    #[must_use]
    pub const fn busy_until(&self) -> Now {
        self.busy_until
    }

    /// So many samples were thrown away on our side and, where the far side `obeys`, all that it has too. Says how many
    /// of the agent's samples will never be heard.
    pub fn clear(&mut self, now: Now, flushed: usize, obeys: bool) -> usize {
        let mut unheard = flushed;
        if obeys {
            let ahead = self.ahead(now).as_micros() as u64 * u64::from(self.rate.hz()) / 1_000_000;
            let lost = ahead.min(self.weather.heard);
            self.weather.heard -= lost;
            unheard += lost as usize;
            self.busy_until = self.busy_until.min(now);
            (self.spoke, self.waits_since) = (false, None);
        }
        self.weather.flushed += unheard as u64;
        unheard
    }

    /// So many samples that waited will never be heard: the call is over.
    pub const fn count_flushed(&mut self, samples: usize) {
        self.weather.flushed += samples as u64;
    }
}

/// What makes no whole message waits so long for more.
const REST: Now = Now::from_millis(60);
/// The cushion grows by this after a gap, up to the second, and falls again after the third without one.
const CUSHION_STEP: Now = Now::from_millis(10);
const CUSHION_MOST: Now = Now::from_millis(60);
const CALM: Now = Now::from_secs(30);
/// Who goes on within so long was interrupted by us, not by the agent.
const SAME_UTTERANCE: Now = Now::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Now {
        Now::from_millis(ms)
    }

    /// Sends what is due; the lengths of the messages.
    fn sent(pacer: &mut Pacer, now: Now, waiting: &mut usize, chunk: usize) -> usize {
        let mut messages = 0;
        loop {
            let n = pacer.due(now, *waiting, chunk);
            if n == 0 {
                return messages;
            }
            *waiting -= n;
            pacer.on_sent(now, n, n.next_multiple_of(160));
            messages += 1;
        }
    }

    #[test]
    fn a_burst_goes_out_at_real_time_and_never_more_than_the_lead_ahead() {
        // Exotel at 8 kHz: messages of 200 ms, 400 ms ahead.
        let mut pacer = Pacer::new(Rate::Hz8000, at(400), at(10));
        let mut waiting = 16_000;
        pacer.on_arrival(at(1000));
        assert_eq!(sent(&mut pacer, at(1000), &mut waiting, 1600), 2);
        let mut messages = 2;
        for tick in 1..100 {
            let now = at(1000 + tick * 20);
            messages += sent(&mut pacer, now, &mut waiting, 1600);
            assert!(pacer.ahead(now) <= at(400), "{:?}", pacer.ahead(now));
            let last = waiting == 0;
            assert!(last || pacer.ahead(now) >= at(180), "{:?}", pacer.ahead(now));
        }
        assert_eq!((messages, waiting), (10, 0));
        assert_eq!(pacer.busy_until(), at(3000));
        assert_eq!(pacer.weather().underruns, 0);
    }

    #[test]
    fn a_rest_goes_out_when_nothing_came_for_60_ms() {
        let mut pacer = Pacer::new(Rate::Hz8000, at(60), at(10));
        let mut waiting = 200;
        pacer.on_arrival(at(0));
        assert_eq!(sent(&mut pacer, at(0), &mut waiting, 160), 1);
        assert_eq!(sent(&mut pacer, at(59), &mut waiting, 160), 0);
        assert_eq!(sent(&mut pacer, at(60), &mut waiting, 160), 1);
        assert_eq!((waiting, pacer.busy_until()), (0, at(80)));
        assert_eq!((pacer.weather().heard, pacer.weather().frames), (200, 2));
    }

    #[test]
    fn a_clear_counts_what_the_far_side_will_not_play() {
        let mut pacer = Pacer::new(Rate::Hz8000, at(400), at(10));
        pacer.on_sent(at(0), 1600, 1600);
        pacer.on_sent(at(0), 1600, 1600);
        assert_eq!(pacer.clear(at(100), 800, true), 800 + 2400);
        assert_eq!((pacer.weather().heard, pacer.weather().flushed), (800, 3200));
        assert_eq!(pacer.ahead(at(100)), Now::ZERO);
        // A far side that knows no such word plays on.
        pacer.on_sent(at(100), 1600, 1600);
        assert_eq!(pacer.clear(at(150), 0, false), 0);
        assert_eq!(pacer.ahead(at(150)), at(150));
    }

    #[test]
    fn a_gap_within_an_utterance_is_an_underrun_and_a_pause_is_none() {
        let mut pacer = Pacer::new(Rate::Hz8000, at(60), at(10));
        pacer.on_arrival(at(0));
        pacer.on_sent(at(0), 160, 160);
        pacer.on_arrival(at(50));
        assert_eq!(pacer.weather().underruns, 1);
        pacer.on_sent(at(50), 160, 160);
        pacer.on_arrival(at(500));
        assert_eq!(pacer.weather().underruns, 1);
    }

    #[test]
    fn a_live_stream_with_jitter_has_no_gap_once_its_cushion_is_there() {
        let mut pacer = Pacer::new(Rate::Hz8000, at(60), at(10));
        let mut waiting = 0;
        let mut due = 1000;
        for frame in 0..1500_u64 {
            // Up to 8 ms late, as on a busy network.
            let arrives = 1000 + frame * 20 + (frame * 7919) % 9;
            while due < arrives {
                sent(&mut pacer, at(due), &mut waiting, 160);
                due += 5;
            }
            waiting += 160;
            pacer.on_arrival(at(arrives));
            sent(&mut pacer, at(arrives), &mut waiting, 160);
        }
        assert_eq!(pacer.weather().underruns, 0);
    }

    #[test]
    fn a_message_longer_than_the_lead_still_goes_out() {
        let pacer = Pacer::new(Rate::Hz8000, at(60), at(10));
        assert_eq!(pacer.due(at(10), 2400, 2400), 2400);
    }
}
