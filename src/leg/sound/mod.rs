//! A line that is a sound card: a microphone and a speaker in a room.
//!
//! ```text
//!  microphone --> ring --> resampled to the line's rate, echo cancelled, muted under a tone --> uplink
//!  speaker    <-- ring <-- resampled to the card's rate <----- a tone, or the agent <---------- downlink
//! ```

pub mod start;
pub mod tones;
