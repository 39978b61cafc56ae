//! A PBX that speaks AudioSocket: it dials us over TCP and each call is one connection.
//!
//! A message is a kind, a length and that many bytes of payload; the first one names the call, nearly all others are
//! 20 ms of audio. Samples are signed 16-bit, least significant byte first (Asterisk copies the order of its host).
//!
//! ```text
//!   +------+-----------------+-------------------------+
//!   | kind | length (2, BE)  | payload (0 to 65535)    |
//!   +------+-----------------+-------------------------+
//!     Asterisk -> us: uuid, then audio and digits        us -> Asterisk: audio, at the end hangup
//! ```
//!
//! Asterisk gives the rest of a message 5 ms from its header and older releases misplace a header that comes in
//! pieces, so [`message`] writes header and payload as one buffer, to be sent in one write. Anything but audio and
//! hangup is fatal for the call when it comes from us, and so is audio without samples.
//! (Asterisk, `res/res_audiosocket.c` and `include/asterisk/res_audiosocket.h`.)

use core::{fmt, str::FromStr};

use crate::media::Rate;

pub mod format;
pub mod line;
pub mod message;

/// The kinds of message (`enum ast_audiosocket_msg_kind`).
pub mod kind {
    /// The call is over. Empty.
    pub const HANGUP: u8 = 0x00;
    /// The name of the call, 16 bytes. Always the first message of a PBX.
    pub const UUID: u8 = 0x01;
    /// Silence, from old client libraries only; never sent.
    pub const SILENCE: u8 = 0x02;
    /// One digit in ASCII, when its key was let go.
    pub const DTMF: u8 = 0x03;
    /// Audio at 8 kHz, or whatever an older Asterisk has: see [`super::format`].
    pub const AUDIO_8000: u8 = 0x10;
    /// Audio at 12 kHz.
    pub const AUDIO_12000: u8 = 0x11;
    /// Audio at 16 kHz.
    pub const AUDIO_16000: u8 = 0x12;
    /// Audio at 24 kHz.
    pub const AUDIO_24000: u8 = 0x13;
    /// Audio at 32 kHz.
    pub const AUDIO_32000: u8 = 0x14;
    /// Audio at 44.1 kHz.
    pub const AUDIO_44100: u8 = 0x15;
    /// Audio at 48 kHz.
    pub const AUDIO_48000: u8 = 0x16;
    /// Audio at 96 kHz.
    pub const AUDIO_96000: u8 = 0x17;
    /// Audio at 192 kHz.
    pub const AUDIO_192000: u8 = 0x18;
    /// Something failed at the other side. An optional code.
    pub const ERROR: u8 = 0xff;
}

/// The PBX's name for a call: what `AudioSocket(UUID,HOST:PORT)` was given in the dialplan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            if matches!(n, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = NotAUuid;

    /// 32 hexadecimal digits, with hyphens or without.
    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        let mut digits = text.bytes().filter(|&byte| byte != b'-').map(|byte| char::from(byte).to_digit(16));
        let mut uuid = [0; 16];
        for byte in &mut uuid {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else { return Err(NotAUuid) };
            *byte = (high << 4 | low) as u8;
        }
        if digits.next().is_some() { Err(NotAUuid) } else { Ok(Self(uuid)) }
    }
}

/// This text is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAUuid;

impl fmt::Display for NotAUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID, which is 32 hexadecimal digits as in 40325ec2-5efd-4bd3-805f-53576e581d13")
    }
}

impl core::error::Error for NotAUuid {}

/// The rate that a kind of audio names, if it is one of ours. Under [`kind::AUDIO_8000`] it may be a lie.
#[must_use]
pub const fn rate_of(kind: u8) -> Option<Rate> {
    match kind {
        kind::AUDIO_8000 => Some(Rate::Hz8000),
        kind::AUDIO_16000 => Some(Rate::Hz16000),
        kind::AUDIO_24000 => Some(Rate::Hz24000),
        kind::AUDIO_48000 => Some(Rate::Hz48000),
        _ => None,
    }
}

/// The kind that names this rate.
#[must_use]
pub const fn kind_of(rate: Rate) -> u8 {
    match rate {
        Rate::Hz8000 => kind::AUDIO_8000,
        Rate::Hz16000 => kind::AUDIO_16000,
        Rate::Hz24000 => kind::AUDIO_24000,
        Rate::Hz48000 => kind::AUDIO_48000,
    }
}

/// Is this one of the digits that a telephone has?
#[must_use]
pub const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_has_one_kind_and_every_other_kind_has_none() {
        for rate in Rate::ALL {
            assert_eq!(rate_of(kind_of(rate)), Some(rate));
        }
        assert_eq!((0..=u8::MAX).filter(|&kind| rate_of(kind).is_some()).count(), Rate::ALL.len());
    }

    #[test]
    fn a_uuid_reads_as_it_is_written() {
        let text = "40325ec2-5efd-4bd3-805f-53576e581d13";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.0[..4], [0x40, 0x32, 0x5e, 0xc2]);
        assert_eq!(uuid.to_string(), text);
        assert_eq!(text.replace('-', "").to_uppercase().parse(), Ok(uuid));
        for wrong in ["", "40325ec2", &text[1..], &format!("{text}0"), &text.replace('4', "g"), "é"] {
            assert_eq!(wrong.parse::<Uuid>(), Err(NotAUuid), "{wrong}");
        }
    }

    #[test]
    fn the_digits_are_those_of_a_telephone() {
        let digits: String = (0..=u8::MAX).filter(|&byte| is_digit(byte)).map(char::from).collect();
        assert_eq!(digits, "#*0123456789ABCD");
    }
}
