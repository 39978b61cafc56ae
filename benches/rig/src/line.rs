//! AudioSocket: one byte of kind, two of length (most significant first), then the payload.
//!
//! The layout is that of Asterisk's `res_audiosocket.c`.

/// The call is over.
pub const KIND_HANG_UP: u8 = 0x00;
/// The call's UUID, the first message.
pub const KIND_UUID: u8 = 0x01;
/// PCM16 mono at 8 kHz, least significant byte first.
pub const KIND_AUDIO: u8 = 0x10;
/// Kind and length.
pub const HEADER: usize = 3;
/// Samples in one frame of 20 ms.
pub const FRAME: usize = 160;

/// Cuts a message off the front of `bytes`: its kind, its payload and its length on the wire.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk::<HEADER>()?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    Some((kind, rest.get(..len)?, HEADER + len))
}

/// Appends a message of audio.
pub fn write_audio(samples: &[i16], out: &mut Vec<u8>) {
    let len = u16::try_from(samples.len() * 2).unwrap_or(u16::MAX);
    out.push(KIND_AUDIO);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend(samples.iter().take(usize::from(len) / 2).flat_map(|sample| sample.to_le_bytes()));
}

/// The samples of a payload.
pub fn samples(payload: &[u8]) -> impl Iterator<Item = i16> + '_ {
    payload.as_chunks::<2>().0.iter().map(|&pair| i16::from_le_bytes(pair))
}
