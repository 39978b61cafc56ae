//! One side of a call: the line leg has the caller, the trunk leg has the agent.

pub mod audiosocket;
pub mod pipe;
pub mod sip;
pub mod websocket;
