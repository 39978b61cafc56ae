//! SIP: signalling, pure.

pub mod sdp;
