//! Watching and steering, never in the way of audio.
//!
//! ```text
//!   Prometheus, a PBX's dialplan --- TCP ------> http    --+
//!                                                          +--> Desk (the daemon)
//!   trunkline status, drain ... ---- Unix socket -> socket-+
//! ```

pub mod call_info;
pub mod desk;
mod entry;
pub mod http;
pub mod journal;
pub mod local;
pub mod messages;
pub mod metrics;
pub(crate) mod server;
pub mod socket;
pub mod systemd;
