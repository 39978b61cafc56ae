//! The one clock of the shells.

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::media::Now;

static STARTED: OnceLock<Timespec> = OnceLock::new();

/// Time since the process first asked, by CLOCK_MONOTONIC: no jump of the wall clock reaches it.
#[must_use]
pub fn now() -> Now {
    let present = clock_gettime(ClockId::Monotonic);
    let started = STARTED.get_or_init(|| present);
    since(present, *started)
}

/// The same moment as the kernel's timers want it.
#[must_use]
pub fn timespec(at: Now) -> Timespec {
    let started = STARTED.get_or_init(|| clock_gettime(ClockId::Monotonic));
    let nanos = started.tv_nsec + i64::from(at.subsec_nanos());
    Timespec { tv_sec: started.tv_sec + at.as_secs() as i64 + nanos / NANOS, tv_nsec: nanos % NANOS }
}

/// Milliseconds since 1970, UTC, by the wall clock.
#[must_use]
pub fn epoch_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn since(present: Timespec, started: Timespec) -> Now {
    let nanos = (present.tv_sec - started.tv_sec) * NANOS + present.tv_nsec - started.tv_nsec;
    Now::from_nanos(nanos.max(0) as u64)
}

const NANOS: i64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_way_to_the_kernel_and_back() {
        let started = timespec(Now::ZERO);
        for ms in [0, 1, 999, 1000, 123_456_789] {
            assert_eq!(since(timespec(Now::from_millis(ms)), started), Now::from_millis(ms));
        }
    }

    #[test]
    fn time_does_not_run_backwards() {
        let first = now();
        assert!(now() >= first);
    }
}
