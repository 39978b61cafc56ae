//! SIP: signalling, pure.

pub mod digest;
pub mod sdp;
pub mod session_timer;
