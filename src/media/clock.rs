//! The time that cores are told.

/// Time since the process started, by CLOCK_MONOTONIC. Cores take it as an argument and never ask for it; an
/// `Instant` stays in the shells, so a whole call can run in a test in virtual time.
pub type Now = core::time::Duration;

/// The playout tick of a media thread. Calls take turns: each is served on every second tick.
pub const TICK: Now = Now::from_millis(10);

/// Packet time of one frame.
pub const PTIME: Now = Now::from_millis(20);

/// Packet time of one frame in milliseconds, for sizes.
pub const PTIME_MS: usize = 20;
