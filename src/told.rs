//! What happens often and is told seldom.

use crate::media::Now;

/// How often it happened since it was last told, and when that was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    since: u64,
    last: Option<Now>,
}

impl Told {
    /// It happened once more; gives how often since it was last told, once a minute.
    pub fn count(&mut self, now: Now) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.saturating_sub(last) < TELL_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(core::mem::take(&mut self.since))
    }
}

const TELL_EVERY: Now = Now::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_once_a_minute_with_how_often_it_was() {
        let mut told = Told::default();
        let at = Now::from_secs;
        assert_eq!(told.count(at(5)), Some(1));
        assert_eq!((told.count(at(6)), told.count(at(64))), (None, None));
        assert_eq!(told.count(at(65)), Some(3));
    }
}
