//! Trunkline puts a PBX, a cloud's phone line or a sound card on a cloud voice agent.
//!
//! ```text
//!   PBX, vendor, pipe      trunkline                                    cloud
//!   +-----------+    +------------------------------------+    +---------------------+
//!   | Asterisk  |    |  line leg           trunk leg      |    |  wss voice agent    |
//!   | a cloud   |<-->|   |  uplink ring  ->  |            |<-->|  in any dialect of  |
//!   | a WAV     |    |   |  <- downlink ring |            |    |  dialect::NAMES     |
//!   +-----------+    |            call                    |    +---------------------+
//!                    +----+-------------------------------+
//!                         +--> records, notes, sinks
//! ```
//!
//! A call is two legs, two rings, one state machine. The map:
//!
//! - [`media`]: samples and time. Frames, rings and their pool, playout, delay given back, resampling, G.711, G.722, jitter
//!   buffer. Pure: no clock, no log, nothing allocated once a call is open.
//! - [`dialect`]: what is said over a WebSocket, one file a grammar, both roles. Pure.
//! - [`leg`]: one side of a call: AudioSocket, pipe, WebSocket, SIP with its RTP; and the door at which clouds bring
//!   calls. [`leg::sip`] and [`leg::rtp`] are pure but for the sockets in [`leg::sip::transport`].
//! - [`call`]: the only place that knows both legs. [`call::bridge`] is pure and runs in tests in virtual time;
//!   [`call::shard`] is the media thread around it.
//! - [`telnyx`]: call control at Telnyx, whose webhooks tell of calls and whose streams a line takes.
//! - [`config`]: read once, checked once, never re-checked.
//! - [`control`]: watching and steering, never in the way of audio.
//! - [`records`]: what is kept of calls, on a thread of its own, because a disk may hang.
//! - [`notes`]: what live calls tell of themselves: the event log, files of calls, recordings. On a thread of its own too.
//! - [`sinks`]: who is told of calls: webhooks and Redis, with a spool on disk in front of each.
//! - [`explain`]: what became of one call, from what was kept of it: a story, the leg at fault, the likely cause. Pure.
//! - [`doctor`]: why a site does not work: judgements of what was found, each with what mends it. Pure.
//! - [`daemon`]: the control thread. [`cli`]: the commands, with the stand-ins `agent` and `call`.

#![forbid(unsafe_code)]

pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dialect;
pub mod doctor;
pub mod exit;
pub mod explain;
pub mod leg;
pub mod media;
pub mod notes;
pub mod records;
pub mod sinks;
pub mod telnyx;
pub mod ticker;
pub mod told;
