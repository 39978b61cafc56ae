//! Watching and steering, never in the way of audio.

mod entry;
pub mod http;
pub mod journal;
pub mod messages;
pub mod metrics;
pub mod systemd;
