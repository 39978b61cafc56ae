//! One side of a call: the line leg has the caller, the trunk leg has the agent.

pub mod audiosocket;
pub mod pipe;
pub mod rtp;
pub mod sip;
pub mod sound;
pub mod websocket;
