//! When a sink that took nothing is asked again: after a second, and twice as long each time, up to five minutes.

use core::time::Duration;

/// How often it took nothing.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It took nothing once more. `dice` spreads those who all failed at once; the sink may have said how long to wait.
    pub(super) fn on_failed(&mut self, dice: u8, asked: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        // Between three and five quarters of it.
        let spread = whole * 3 / 4 + whole * u32::from(dice) / 512;
        asked.map_or(spread, |asked| asked.clamp(FIRST, LONGEST))
    }

    /// It took something.
    pub(super) const fn on_taken(&mut self) {
        self.failures = 0;
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes_and_begin_anew_when_something_was_taken() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..11).map(|_| backoff.on_failed(128, None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.on_failed(0, None), LONGEST * 3 / 4);
        backoff.on_taken();
        assert_eq!(backoff.on_failed(128, None), FIRST);
    }

    #[test]
    fn a_sink_may_say_when_within_reason() {
        let mut backoff = Backoff::default();
        let wait = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(backoff.on_failed(0, wait(30)).as_secs(), 30);
        assert_eq!(backoff.on_failed(0, wait(0)), FIRST);
        assert_eq!(backoff.on_failed(0, wait(86_400)), LONGEST);
    }
}
