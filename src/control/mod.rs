//! Watching and steering, never in the way of audio.

pub mod call_info;
pub mod desk;
mod entry;
pub mod http;
pub mod journal;
pub mod messages;
pub mod metrics;
pub mod socket;
pub mod systemd;
