//! What the benchmark runs beside the daemon.
//!
//! ```text
//!   rig: N phones ---- AudioSocket ----> system under test ---- ws or wss ----> rig: N agents, echoing
//!     frame n sent                                                              samples of n arrived: uplink
//!     samples of n heard: round trip  <----------------------------------------
//! ```
//!
//! The phones may also call by SIP ([`sip`]). Both ends are one process, so both delays are read off one clock. [`load`] plays them, [`mark`] numbers the
//! frames inside the audio, [`process`] watches the system under test, [`report`] turns many runs into a table. The
//! bare relay (`bin/relay`) shares the wire code and does nothing but carry.

pub mod args;
pub mod dialect;
pub mod line;
pub mod load;
pub mod mark;
pub mod process;
pub mod report;
pub mod sip;
pub mod tls;
pub mod websocket;
