//! Watching and steering, never in the way of audio.

pub mod http;
pub mod metrics;
