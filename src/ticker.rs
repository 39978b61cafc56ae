//! The playout clock of a media thread: an absolute periodic timer of the kernel.
//!
//! tokio's own timers round up to whole milliseconds and were measured 1 to 2 ms late; a timerfd says by itself how
//! many ticks have passed, so lateness is known and never guessed.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::{
    clock,
    media::{Now, clock::TICK},
};

/// The timer; ticks every 10 ms while it is armed.
#[derive(Debug)]
pub struct Ticker {
    fd: OwnedFd,
    armed_at: Cell<Now>,
}

impl Ticker {
    /// A timer that does not run yet.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { fd, armed_at: Cell::new(Now::ZERO) })
    }

    /// Ticks from one tick after `at` on.
    pub fn arm(&self, at: Now) {
        self.armed_at.set(at);
        let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        self.set(&Itimerspec { it_interval: interval, it_value: clock::timespec(at + TICK) });
    }

    /// Stops.
    pub fn disarm(&self) {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.set(&Itimerspec { it_interval: never, it_value: never });
    }

    /// When it was armed: tick `n` is due at this plus `n` times 10 ms.
    #[must_use]
    pub fn armed_at(&self) -> Now {
        self.armed_at.get()
    }

    /// Ticks since it was last asked.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there was none.
    pub fn expirations(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        rustix::io::read(&self.fd, &mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    fn set(&self, spec: &Itimerspec) {
        // Fails only for a bad descriptor or a bad time, and both are ours.
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, spec).expect("an own timer with a sane time");
    }
}

impl AsRawFd for Ticker {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
