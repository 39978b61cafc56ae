//! Samples and time: no clock, no log, and nothing allocated once a call is open.
//!
//! Everything here works on slices and storage that the caller lends. Only a jitter buffer brings its own: its size is the
//! codec's, so it is boxed when it is opened, and kept. PCM is signed 16-bit, mono.
//! `tests/no_std` builds this folder without the standard library to prove it.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros))]

pub mod card;
pub mod clock;
pub mod codec;
pub mod conceal;
pub mod debt;
pub mod drift;
pub mod elastic;
pub mod frame;
pub mod g711;
pub mod g722;
pub mod histogram;
pub mod jitter;
pub mod lateness;
pub mod level;
pub mod marks;
pub mod overlap;
pub mod pacer;
pub mod playout;
pub mod pool;
pub mod resample;
pub mod ring;
pub mod sequence;
pub mod talk;
pub mod tone;
pub mod vad;

pub use self::{clock::Now, frame::Rate};
