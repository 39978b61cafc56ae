//! One message being written, into bytes that the leg lends.
//!
//! Audio is spelled here, not by serde: element by element that is three times the work. Control messages, a few a
//! call, go through `serde_json_core`, whose escapes are right.

use base64_simd::{AsOut, STANDARD};

use crate::dialect::Full;
use crate::media::g711::Law;

/// A text message, unless [`set_binary`](Self::set_binary) says otherwise. What does not fit leaves it as it was.
#[derive(Debug)]
pub struct Message<'b> {
    space: &'b mut [u8],
    len: usize,
    binary: bool,
}

impl<'b> Message<'b> {
    /// An empty message that can become as long as `space`.
    #[must_use]
    pub const fn new(space: &'b mut [u8]) -> Self {
        Self { space, len: 0, binary: false }
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.space[..self.len]
    }

    /// How much was written (bytes).
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it goes as a binary message.
    #[must_use]
    pub const fn is_binary(&self) -> bool {
        self.binary
    }

    /// Makes it a binary message.
    pub const fn set_binary(&mut self) {
        self.binary = true;
    }

    /// Makes it an empty text message again.
    pub const fn clear(&mut self) {
        self.len = 0;
        self.binary = false;
    }

    /// Appends bytes as they are.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.space[self.len..].get_mut(..bytes.len()).ok_or(Full)?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Appends a JSON string, quotes included.
    ///
    /// # Errors
    /// [`Full`] when it does not fit.
    pub fn json_str(&mut self, text: &str) -> Result<(), Full> {
        self.or_nothing(|message| {
            message.raw(b"\"")?;
            for run in text.as_bytes().split_inclusive(|&byte| needs_escape(byte)) {
                match run.split_last() {
                    Some((&last, plain)) if needs_escape(last) => {
                        message.raw(plain)?;
                        message.escape(last)?;
                    }
                    _ => message.raw(run)?,
                }
            }
            message.raw(b"\"")
        })
    }

    /// Appends a number.
    ///
    /// # Errors
    /// [`Full`] when it does not fit.
    pub fn uint(&mut self, value: u64) -> Result<(), Full> {
        let mut digits = [0; 20];
        let mut left = value;
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return self.raw(&digits[at..]);
            }
        }
    }

    /// Appends samples as decimals with commas between them, without brackets.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn decimals(&mut self, samples: &[i16]) -> Result<(), Full> {
        let Some((&last, samples)) = samples.split_last() else { return Ok(()) };
        self.or_nothing(|message| {
            let mut at = message.len;
            for &sample in samples {
                let (word, len) = spell(sample);
                // Eight bytes are written where up to seven count; the next ones go over the rest.
                if let Some(place) = message.space.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
                    *place = word;
                    at += len + 1;
                } else {
                    message.len = at;
                    message.raw(word.get(..=len).unwrap_or_default())?;
                    at = message.len;
                }
            }
            message.len = at;
            let (word, len) = spell(last);
            message.raw(word.get(..len).unwrap_or_default())
        })
    }

    /// Appends samples as base64 of signed 16-bit values, least significant byte first, without quotes.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn base64_pcm16le(&mut self, samples: &[i16]) -> Result<(), Full> {
        self.base64_pcm16(samples, to_le)
    }

    /// Appends samples as base64 of signed 16-bit values, most significant byte first, without quotes.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn base64_pcm16be(&mut self, samples: &[i16]) -> Result<(), Full> {
        self.base64_pcm16(samples, to_be)
    }

    /// Appends samples as base64 of G.711, without quotes.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn base64_g711(&mut self, law: Law, samples: &[i16]) -> Result<(), Full> {
        self.or_nothing(|message| {
            let mut block = [0; BLOCK];
            for samples in samples.chunks(BLOCK) {
                let bytes = &mut block[..samples.len()];
                bytes.iter_mut().zip(samples).for_each(|(byte, &sample)| *byte = law.encode(sample));
                message.base64(bytes)?;
            }
            Ok(())
        })
    }

    /// Appends samples as they are, signed 16-bit, least significant byte first.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn raw_pcm16le(&mut self, samples: &[i16]) -> Result<(), Full> {
        let len = samples.len().checked_mul(2).ok_or(Full)?;
        to_le(samples, self.space[self.len..].get_mut(..len).ok_or(Full)?);
        self.len += len;
        Ok(())
    }

    /// Appends samples as they are, in G.711.
    ///
    /// # Errors
    /// [`Full`] when they do not fit.
    pub fn raw_g711(&mut self, law: Law, samples: &[i16]) -> Result<(), Full> {
        let place = self.space[self.len..].get_mut(..samples.len()).ok_or(Full)?;
        place.iter_mut().zip(samples).for_each(|(byte, &sample)| *byte = law.encode(sample));
        self.len += samples.len();
        Ok(())
    }

    /// Appends a value as JSON.
    ///
    /// # Errors
    /// [`Full`] when it does not fit.
    pub fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Full> {
        self.len += serde_json_core::to_slice(value, &mut self.space[self.len..]).map_err(|_| Full)?;
        Ok(())
    }

    /// Appends what `write` does, or takes it all back.
    fn or_nothing(&mut self, write: impl FnOnce(&mut Self) -> Result<(), Full>) -> Result<(), Full> {
        let len = self.len;
        write(self).inspect_err(|_| self.len = len)
    }

    fn base64_pcm16(&mut self, samples: &[i16], spell: impl Fn(&[i16], &mut [u8])) -> Result<(), Full> {
        self.or_nothing(|message| {
            let mut block = [0; BLOCK];
            for samples in samples.chunks(BLOCK / 2) {
                let bytes = &mut block[..samples.len() * 2];
                spell(samples, bytes);
                message.base64(bytes)?;
            }
            Ok(())
        })
    }

    fn base64(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let place = self.space[self.len..].get_mut(..STANDARD.encoded_length(bytes.len())).ok_or(Full)?;
        self.len += STANDARD.encode(bytes, place.as_out()).len();
        Ok(())
    }

    fn escape(&mut self, byte: u8) -> Result<(), Full> {
        match byte {
            b'"' | b'\\' => self.raw(&[b'\\', byte]),
            b'\n' => self.raw(b"\\n"),
            b'\r' => self.raw(b"\\r"),
            b'\t' => self.raw(b"\\t"),
            _ => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
                self.raw(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)])
            }
        }
    }
}

/// RFC 8259 section 7: these cannot stand in a string as they are.
const fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// A decimal and a comma, and the length without the comma. The same steps for every value: which digits a sample of
/// speech has, no branch predictor can know.
fn spell(sample: i16) -> ([u8; 8], usize) {
    let magnitude = sample.unsigned_abs();
    let fours = magnitude % 10_000;
    let head = u64::from(b'0') + u64::from(magnitude / 10_000);
    let middle = u64::from(PAIRS[usize::from(fours / 100)]);
    let tail = u64::from(PAIRS[usize::from(fours % 100)]);
    let digits = 1
        + u32::from(magnitude >= 10)
        + u32::from(magnitude >= 100)
        + u32::from(magnitude >= 1000)
        + u32::from(magnitude >= 10_000);
    // Five digits in the order of memory, less the leading zeros, and the comma behind.
    let word = ((head | (middle << 8) | (tail << 24)) >> (8 * (5 - digits))) | (u64::from(b',') << (8 * digits));
    let minus = u32::from(sample < 0);
    let word = (word << (8 * minus)) | (u64::from(b'-') * u64::from(minus));
    (word.to_le_bytes(), (digits + minus) as usize)
}

fn to_le(samples: &[i16], bytes: &mut [u8]) {
    let (pairs, _) = bytes.as_chunks_mut::<2>();
    pairs.iter_mut().zip(samples).for_each(|(pair, sample)| *pair = sample.to_le_bytes());
}

fn to_be(samples: &[i16], bytes: &mut [u8]) {
    let (pairs, _) = bytes.as_chunks_mut::<2>();
    pairs.iter_mut().zip(samples).for_each(|(pair, sample)| *pair = sample.to_be_bytes());
}

/// Bytes that are turned into base64 at once: whole groups and whole samples.
const BLOCK: usize = 768;

/// "00" to "99" in the order of memory: 200 bytes, which any cache has room for.
static PAIRS: [u16; 100] = {
    let mut pairs = [0; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = u16::from_le_bytes([b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
        value += 1;
    }
    pairs
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dialect::{Carrier, Coding, Format, decode::Decoder};
    use crate::media::Rate;

    /// What `write` writes. Also that it does so with exactly as much room, and with less leaves the message alone.
    fn written(write: impl Fn(&mut Message<'_>) -> Result<(), Full>) -> String {
        let mut space = vec![b'#'; 1 << 20];
        let mut message = Message::new(&mut space);
        message.raw(b"<").unwrap();
        write(&mut message).unwrap();
        let text = String::from_utf8(message.bytes().to_vec()).unwrap();
        let shorter = if text.len() < 3000 { 1..text.len() } else { text.len() - 20..text.len() };
        for len in shorter.chain([text.len()]) {
            let mut space = vec![b'#'; len];
            let mut message = Message::new(&mut space);
            message.raw(b"<").unwrap();
            let fits = write(&mut message).is_ok();
            assert_eq!(fits, len == text.len(), "{len}");
            assert_eq!(message.bytes(), if fits { text.as_bytes() } else { b"<" });
        }
        text[1..].to_owned()
    }

    fn decoded(carrier: Carrier, coding: Coding, text: &str) -> Vec<i16> {
        let mut decoder = Decoder::new(Format { carrier, coding, rate: Rate::Hz8000 });
        let mut samples = vec![0; text.len() + 2];
        let (_, made) = decoder.decode(text.as_bytes(), &mut samples).unwrap();
        let rest = decoder.finish(&mut samples[made..]).unwrap();
        samples.truncate(made + rest);
        samples
    }

    #[test]
    fn every_sample_value_is_spelled_as_a_decimal_and_read_back() {
        let all: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let text = written(|message| message.decimals(&all));
        assert_eq!(text, all.iter().map(i16::to_string).collect::<Vec<_>>().join(","));
        assert_eq!(decoded(Carrier::Array, Coding::Decimal, &text), all);
    }

    #[test]
    fn decimals_fill_a_message_to_its_last_byte() {
        assert_eq!(written(|message| message.decimals(&[1, -2, 300, -32768, 0, 7])), "1,-2,300,-32768,0,7");
        assert_eq!(written(|message| message.decimals(&[-32768])), "-32768");
        let mut none = Message::new(&mut []);
        assert_eq!((none.decimals(&[]), none.decimals(&[1]), none.is_empty()), (Ok(()), Err(Full), true));
    }

    #[test]
    fn base64_is_written_in_blocks_that_join() {
        let samples: Vec<i16> = (0..2000).map(|n: i32| (n * 7919) as i16).collect();
        for len in [0, 1, 2, 3, 80, 160, 383, 384, 385, 768, 769, 1000, 2000] {
            let text = written(|message| message.base64_pcm16le(&samples[..len]));
            let bytes: Vec<u8> = samples[..len].iter().flat_map(|sample| sample.to_le_bytes()).collect();
            assert_eq!(text, STANDARD.encode_to_string(bytes));
            assert_eq!(decoded(Carrier::Base64, Coding::Pcm16Le, &text), samples[..len]);
            for law in [Law::Mu, Law::A] {
                let bytes: Vec<u8> = samples[..len].iter().map(|&sample| law.encode(sample)).collect();
                assert_eq!(
                    written(|message| message.base64_g711(law, &samples[..len])),
                    STANDARD.encode_to_string(bytes)
                );
            }
        }
    }

    #[test]
    fn raw_samples_are_little_endian_and_the_kind_of_message_is_cleared_with_it() {
        let mut space = [0; 5];
        let mut message = Message::new(&mut space);
        message.set_binary();
        message.raw_pcm16le(&[1, -2]).unwrap();
        assert_eq!((message.bytes(), message.is_binary()), (&[1, 0, 0xfe, 0xff][..], true));
        assert_eq!(message.raw_pcm16le(&[3]), Err(Full));
        assert_eq!(message.len(), 4);
        message.clear();
        assert!(message.is_empty() && !message.is_binary());
    }

    #[test]
    fn strings_and_numbers_are_json() {
        let text = "a\"b\\c\n\r\t\u{0}\u{1b}\u{e9}\u{1f600}/";
        let expected = "\"a\\\"b\\\\c\\n\\r\\t\\u0000\\u001b\u{e9}\u{1f600}/\"";
        assert_eq!(written(|message| message.json_str(text)), expected);
        assert_eq!(written(|message| message.json_str("")), "\"\"");
        for value in [0, 9, 10, 1_700_000_000_000, u64::MAX] {
            assert_eq!(written(|message| message.uint(value)), value.to_string());
        }
    }

    #[test]
    fn control_messages_are_written_by_serde() {
        #[derive(serde::Serialize)]
        struct Clear<'a> {
            event: &'a str,
            stream_sid: &'a str,
        }
        let clear = Clear { event: "clear", stream_sid: "a\"b" };
        assert_eq!(written(|message| message.json(&clear)), r#"{"event":"clear","stream_sid":"a\"b"}"#);
    }
}
