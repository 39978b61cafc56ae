//! Trunkline puts a PBX, a phone line or a sound card on a cloud voice agent.
//!
//! ```text
//!   PBX or pipe            trunkline                                    cloud
//!   +-----------+    +------------------------------------+    +---------------------+
//!   | Asterisk  |    |  line leg           trunk leg      |    |  wss voice agent    |
//!   | a WAV     |<-->|   |  uplink ring  ->  |            |<-->|  Ozonetel, Exotel,  |
//!   +-----------+    |   |  <- downlink ring |            |    |  bare PCM           |
//!                    |            call                    |    +---------------------+
//!                    +------------------------------------+
//! ```
//!
//! A call is two legs, two rings, one state machine. The map:
//!

#![forbid(unsafe_code)]

pub mod config;
pub mod dialect;
pub mod media;
