//! Watching and steering, never in the way of audio.
//!
//! ```text
//!   Prometheus, a PBX's dialplan --- TCP ------> http    --+
//!                                                          +--> Desk (the daemon)
//!   trunkline status, drain ... ---- Unix socket -> socket-+
//! ```

pub mod call_info;
pub mod desk;
pub mod http;
pub mod metrics;
mod server;
pub mod socket;
