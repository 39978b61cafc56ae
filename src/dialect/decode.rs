//! Audio as it stands in a message, turned into samples.
//!
//! The bytes may come in pieces of any size and the samples may leave in pieces of any size: a number, a group of
//! base64 or a sample that is cut in two is carried over. Two fast ways cover what peers really send; whatever they
//! do not know falls through to a slow one that reads byte by byte and knows everything.

use base64_simd::{AsOut, STANDARD_NO_PAD};

use crate::dialect::{Carrier, Coding, Format, Malformed, json::Number};
use crate::media::g711::Law;

/// Samples that [`Decoder::finish`] can have left: the three bytes of a base64 group, one G.711 sample each.
pub const MOST_LEFT: usize = 3;

/// No more samples than this come of so many bytes, [`Decoder::finish`] and what was carried over included.
#[must_use]
pub const fn most_samples(format: Format, bytes: usize) -> usize {
    match (format.carrier, format.coding) {
        // A digit and a comma each.
        (Carrier::Array, _) => bytes.div_ceil(2) + 1,
        // A group is three bytes; one may be carried in and one be unfinished.
        (Carrier::Base64, Coding::Mulaw | Coding::Alaw) => bytes.div_ceil(4) * 3 + 5,
        (Carrier::Base64, Coding::Decimal | Coding::Pcm16Le | Coding::Pcm16Be) => bytes.div_ceil(8) * 3 + 3,
        (Carrier::Raw, Coding::Mulaw | Coding::Alaw) => bytes,
        (Carrier::Raw, Coding::Decimal | Coding::Pcm16Le | Coding::Pcm16Be) => bytes.div_ceil(2),
    }
}

/// Decodes the audio of one message.
#[derive(Clone, Debug)]
pub struct Decoder {
    format: Format,
    source: Source,
    bytes: Bytes,
}

impl Decoder {
    /// At the head of the audio. An array is always of decimals; decimals anywhere else are taken for
    /// [`Coding::Pcm16Le`].
    #[must_use]
    pub fn new(format: Format) -> Self {
        let law = match format.coding {
            Coding::Mulaw => Some(Law::Mu),
            Coding::Alaw => Some(Law::A),
            Coding::Decimal | Coding::Pcm16Le | Coding::Pcm16Be => None,
        };
        let big_endian = format.coding == Coding::Pcm16Be;
        let source = match format.carrier {
            Carrier::Array => Source::Array(Numbers::default()),
            Carrier::Base64 => Source::Base64(Groups::default()),
            Carrier::Raw => Source::Raw,
        };
        Self { format, source, bytes: Bytes { law, big_endian, first: None, odd: 0 } }
    }

    /// What the audio is decoded as.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// PCM from here on stands the other way round.
    pub fn swap_byte_order(&mut self) {
        self.format.coding = match self.format.coding {
            Coding::Pcm16Le => Coding::Pcm16Be,
            Coding::Pcm16Be => Coding::Pcm16Le,
            Coding::Decimal | Coding::Mulaw | Coding::Alaw => return,
        };
        self.bytes.big_endian = !self.bytes.big_endian;
    }

    /// Reads the head of `bytes` and writes the head of `out`, until one of them is used up. Gives how many bytes
    /// were read and how many samples were written.
    ///
    /// # Errors
    /// [`Malformed::Samples`] or [`Malformed::Base64`]. What was written before is void then.
    pub fn decode(&mut self, bytes: &[u8], out: &mut [i16]) -> Result<(usize, usize), Malformed> {
        match &mut self.source {
            Source::Array(numbers) => numbers.decode(bytes, out),
            Source::Base64(groups) => groups.decode(&mut self.bytes, bytes, out),
            Source::Raw => {
                let n = self.bytes.most(out.len()).min(bytes.len());
                Ok((n, self.bytes.take(&bytes[..n], out)))
            }
        }
    }

    /// Ends the audio: gives what was carried over, at most [`MOST_LEFT`] samples. Where `out` is shorter, call again
    /// until nothing comes.
    ///
    /// # Errors
    /// [`Malformed`] when the audio may not end here.
    pub fn finish(&mut self, out: &mut [i16]) -> Result<usize, Malformed> {
        match &mut self.source {
            Source::Array(numbers) => numbers.finish(out),
            Source::Base64(groups) => groups.finish(&mut self.bytes, out),
            Source::Raw => {
                self.bytes.finish();
                Ok(0)
            }
        }
    }

    /// How many values did not fit 16 bits and were cut to the nearest that does.
    #[must_use]
    pub const fn clamped(&self) -> u32 {
        match &self.source {
            Source::Array(numbers) => numbers.clamped,
            Source::Base64(_) | Source::Raw => 0,
        }
    }

    /// How many bytes of PCM at the end had no second half (0 or 1), known after [`finish`](Self::finish).
    #[must_use]
    pub const fn odd_bytes(&self) -> u32 {
        self.bytes.odd
    }
}

#[derive(Clone, Debug)]
enum Source {
    Array(Numbers),
    Base64(Groups),
    Raw,
}

/// Decimals between commas.
#[derive(Clone, Debug, Default)]
struct Numbers {
    number: Number,
    gap: Gap,
    clamped: u32,
}

/// What stands before the next byte of an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gap {
    /// Nothing yet.
    #[default]
    Empty,
    /// A comma.
    Comma,
    /// Part of a number.
    Number,
    /// A number and white space.
    Behind,
}

impl Numbers {
    fn decode(&mut self, bytes: &[u8], out: &mut [i16]) -> Result<(usize, usize), Malformed> {
        let mut at = 0;
        let mut made = 0;
        loop {
            if matches!(self.gap, Gap::Empty | Gap::Comma) {
                let (read, written) = self.plain(&bytes[at..], &mut out[made..]);
                at += read;
                made += written;
            }
            let Some(&byte) = bytes.get(at) else { break };
            match (byte, self.gap) {
                (b',', Gap::Number | Gap::Behind) => {
                    let Some(slot) = out.get_mut(made) else { break };
                    *slot = self.sample()?;
                    made += 1;
                    self.gap = Gap::Comma;
                }
                (b' ' | b'\t' | b'\n' | b'\r', Gap::Number) => self.gap = Gap::Behind,
                (b' ' | b'\t' | b'\n' | b'\r', _) => {}
                (_, Gap::Behind) => return Err(Malformed::Samples),
                _ if self.number.push(byte) => self.gap = Gap::Number,
                _ => return Err(Malformed::Samples),
            }
            at += 1;
        }
        Ok((at, made))
    }

    /// As many samples as there are in the one shape that every sender uses: an optional minus, one to five digits, a
    /// comma. Eight bytes are looked at as one word, which costs the same for every length of number; a loop over
    /// the digits costs a mispredicted branch for almost every sample of speech.
    fn plain(&mut self, bytes: &[u8], out: &mut [i16]) -> (usize, usize) {
        let mut rest = bytes;
        let mut made = 0;
        for slot in out.iter_mut() {
            let Some(head) = rest.first_chunk::<8>() else { break };
            let mut word = u64::from_le_bytes(*head);
            let minus = usize::from(word as u8 == b'-');
            word >>= 8 * minus;
            // Digits become 0 to 9; the first byte that is more, counted in bits, ends the number.
            let values = word ^ 0x3030_3030_3030_3030;
            let over = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
            let bits = over.trailing_zeros() & 0x78;
            if !(8..=40).contains(&bits) || (word >> bits) as u8 != b',' {
                break;
            }
            // The digits to the top, zeros before them; then neighbours are added up to pairs, fours and all eight.
            let digits = values << (64 - bits);
            let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
            let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
            let magnitude = (fours.wrapping_mul(10_000 << 32 | 1) >> 32) as i32;
            let value = if minus == 1 { -magnitude } else { magnitude };
            *slot = clamp(value, &mut self.clamped);
            rest = rest.get(minus + bits as usize / 8 + 1..).unwrap_or_default();
            made += 1;
        }
        if made > 0 {
            self.gap = Gap::Comma;
        }
        (bytes.len() - rest.len(), made)
    }

    fn finish(&mut self, out: &mut [i16]) -> Result<usize, Malformed> {
        match (self.gap, out) {
            (Gap::Empty, _) => Ok(0),
            (Gap::Comma, _) => Err(Malformed::Samples),
            (Gap::Number | Gap::Behind, []) => Ok(0),
            (Gap::Number | Gap::Behind, [slot, ..]) => {
                *slot = self.sample()?;
                self.gap = Gap::Empty;
                Ok(1)
            }
        }
    }

    /// The number that has just ended.
    fn sample(&mut self) -> Result<i16, Malformed> {
        let number = core::mem::take(&mut self.number);
        if !number.is_complete() {
            return Err(Malformed::Samples);
        }
        let magnitude = i32::try_from(number.magnitude()).unwrap_or(i32::MAX);
        Ok(clamp(if number.is_negative() { -magnitude } else { magnitude }, &mut self.clamped))
    }
}

fn clamp(value: i32, clamped: &mut u32) -> i16 {
    i16::try_from(value).unwrap_or_else(|_| {
        *clamped = clamped.saturating_add(1);
        if value < 0 { i16::MIN } else { i16::MAX }
    })
}

/// Base64 in a JSON string. RFC 4648 section 4; padding may be missing, white space and JSON's escapes may be there.
#[derive(Clone, Debug, Default)]
struct Groups {
    /// The sextets of a group, the latest lowest.
    group: u32,
    sextets: u8,
    pads: u8,
    escape: Escape,
    /// Bytes that are decoded and wait for room, the next one first.
    ready: [u8; 3],
    waiting: u8,
}

/// How much of an escape was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Backslash,
    /// `\u` and so many hexadecimal digits.
    Unicode {
        digits: u8,
        code: u32,
    },
}

impl Groups {
    fn decode(&mut self, sink: &mut Bytes, bytes: &[u8], out: &mut [i16]) -> Result<(usize, usize), Malformed> {
        let mut at = 0;
        let mut made = 0;
        // Up to here the fast way is known to fail.
        let mut slow = 0;
        loop {
            made += self.hand_over(sink, &mut out[made..]);
            let rest = &bytes[at..];
            let [byte, ..] = rest else { break };
            if self.waiting > 0 {
                break;
            }
            if at >= slow && self.is_between() {
                let room = sink.most(out.len() - made) / 3 * 4;
                let mut n = rest.len().min(BLOCK).min(room) & !3;
                if n > 0 && rest[n - 1] == b'=' {
                    n -= 4;
                }
                if n > 0 {
                    let (read, written) = block(&rest[..n], sink, &mut out[made..]);
                    at += read;
                    made += written;
                    if read == n {
                        continue;
                    }
                    // What follows is an escape, white space or no base64 at all.
                    slow = at + plain_run(&bytes[at..]) + 1;
                    continue;
                }
            }
            self.push(*byte)?;
            at += 1;
        }
        Ok((at, made))
    }

    /// Whether the next byte begins a group.
    fn is_between(&self) -> bool {
        self.sextets == 0 && self.pads == 0 && self.escape == Escape::None
    }

    /// Takes one byte of the string as it stands.
    fn push(&mut self, byte: u8) -> Result<(), Malformed> {
        match self.escape {
            Escape::None if byte == b'\\' => self.escape = Escape::Backslash,
            Escape::None => return self.push_plain(byte),
            Escape::Backslash => {
                self.escape = Escape::None;
                match byte {
                    b'/' => return self.push_plain(b'/'),
                    b'n' | b'r' | b't' => {}
                    b'u' => self.escape = Escape::Unicode { digits: 0, code: 0 },
                    _ => return Err(Malformed::Base64),
                }
            }
            Escape::Unicode { digits, code } => {
                let code = code << 4 | char::from(byte).to_digit(16).ok_or(Malformed::Base64)?;
                self.escape = Escape::Unicode { digits: digits + 1, code };
                if digits == 3 {
                    self.escape = Escape::None;
                    return self.push_plain(u8::try_from(code).map_err(|_| Malformed::Base64)?);
                }
            }
        }
        Ok(())
    }

    /// Takes one character of the base64.
    fn push_plain(&mut self, byte: u8) -> Result<(), Malformed> {
        match (byte, SEXTETS[usize::from(byte)]) {
            (_, sextet @ 0..=63) if self.pads == 0 => {
                self.group = self.group << 6 | u32::from(sextet);
                self.sextets += 1;
            }
            (b' ' | b'\t' | b'\n' | b'\r', _) => return Ok(()),
            (b'=', _) if self.sextets >= 2 && self.sextets + self.pads < 4 => {
                self.pads += 1;
                return Ok(()); // the group is completed when nothing more comes, as without padding
            }
            _ => return Err(Malformed::Base64),
        }
        if self.sextets == 4 {
            self.complete();
        }
        Ok(())
    }

    /// Turns a group, whole or not, into bytes.
    fn complete(&mut self) {
        let [_, bytes @ ..] = (self.group << (6 * (4 - u32::from(self.sextets)))).to_be_bytes();
        self.ready = bytes;
        self.waiting = self.sextets.saturating_sub(1);
        self.group = 0;
        self.sextets = 0;
    }

    /// Gives what waits to the sink, as far as there is room.
    fn hand_over(&mut self, sink: &mut Bytes, out: &mut [i16]) -> usize {
        let n = usize::from(self.waiting).min(sink.most(out.len()));
        if n == 0 {
            return 0;
        }
        let made = sink.take(&self.ready[..n], out);
        self.ready.rotate_left(n);
        self.waiting -= n as u8;
        made
    }

    fn finish(&mut self, sink: &mut Bytes, out: &mut [i16]) -> Result<usize, Malformed> {
        if self.escape != Escape::None || self.sextets == 1 {
            return Err(Malformed::Base64);
        }
        let mut made = self.hand_over(sink, out);
        if self.waiting == 0 && self.sextets > 0 {
            self.complete();
            made += self.hand_over(sink, &mut out[made..]);
        }
        if self.waiting == 0 {
            sink.finish();
        }
        Ok(made)
    }
}

/// Decodes whole groups, all of them or up to the first that is not plain base64.
fn block(text: &[u8], sink: &mut Bytes, out: &mut [i16]) -> (usize, usize) {
    let mut space = [0; BLOCK / 4 * 3];
    let space = space.as_mut_slice();
    if let Ok(bytes) = STANDARD_NO_PAD.decode(text, space.as_out()) {
        return (text.len(), sink.take(bytes, out));
    }
    let clean = plain_run(text) & !3;
    match STANDARD_NO_PAD.decode(&text[..clean], space.as_out()) {
        Ok(bytes) => (clean, sink.take(bytes, out)),
        Err(_) => (0, 0),
    }
}

/// How many bytes of the alphabet there are before any other.
fn plain_run(text: &[u8]) -> usize {
    text.iter().position(|&byte| SEXTETS[usize::from(byte)] > 63).unwrap_or(text.len())
}

/// Bytes that are samples, or halves of them.
#[derive(Clone, Debug)]
struct Bytes {
    /// G.711; none is PCM.
    law: Option<Law>,
    /// PCM with its most significant byte first.
    big_endian: bool,
    /// The first half of a sample.
    first: Option<u8>,
    odd: u32,
}

impl Bytes {
    /// How many bytes can be taken where there is room for so many samples.
    fn most(&self, room: usize) -> usize {
        match self.law {
            Some(_) => room,
            None => room.saturating_mul(2).saturating_add(usize::from(self.first.is_none())),
        }
    }

    /// Turns at most [`most`](Self::most) bytes into samples.
    fn take(&mut self, bytes: &[u8], out: &mut [i16]) -> usize {
        if let Some(law) = self.law {
            out.iter_mut().zip(bytes).for_each(|(slot, &byte)| *slot = law.decode(byte));
            return bytes.len();
        }
        let (mut rest, mut made) = (bytes, 0);
        if let (Some(first), [second, bytes @ ..], [slot, ..]) = (self.first, rest, &mut *out) {
            *slot = i16::from_le_bytes([first, *second]);
            self.first = None;
            (rest, made) = (bytes, 1);
        }
        let (pairs, half) = rest.as_chunks::<2>();
        out[made..].iter_mut().zip(pairs).for_each(|(slot, &pair)| *slot = i16::from_le_bytes(pair));
        if let [first] = half {
            self.first = Some(*first);
        }
        if self.big_endian {
            out[..made + pairs.len()].iter_mut().for_each(|sample| *sample = sample.swap_bytes());
        }
        made + pairs.len()
    }

    /// Drops a sample that never got its second half.
    fn finish(&mut self) {
        self.odd += u32::from(self.first.take().is_some());
    }
}

/// Base64 that is decoded at once (bytes): 384 samples of PCM, two frames at 8 kHz and some.
const BLOCK: usize = 1024;

/// What each byte stands for; 255: nothing. RFC 4648 table 1.
const SEXTETS: [u8; 256] = {
    let mut sextets = [255; 256];
    let mut value = 0;
    while value < 64 {
        sextets[b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[value] as usize] = value as u8;
        value += 1;
    }
    sextets
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::media::Rate;

    const fn format(carrier: Carrier, coding: Coding) -> Format {
        Format { carrier, coding, rate: Rate::Hz8000 }
    }

    const ARRAY: Format = format(Carrier::Array, Coding::Decimal);
    const BASE64: Format = format(Carrier::Base64, Coding::Pcm16Le);

    /// Decodes pieces into lots of at most `room` samples: the samples, the clamped values and the odd bytes.
    fn decode(format: Format, pieces: &[&[u8]], room: usize) -> Result<(Vec<i16>, u32, u32), Malformed> {
        let mut decoder = Decoder::new(format);
        let mut samples = Vec::new();
        let mut lot = vec![0; room];
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (read, made) = decoder.decode(rest, &mut lot)?;
                assert!(read > 0 || made > 0, "no progress");
                assert!(read == rest.len() || made == room, "stopped without need");
                assert!(made <= most_samples(format, rest.len()));
                samples.extend_from_slice(&lot[..made]);
                rest = &rest[read..];
            }
        }
        loop {
            let made = decoder.finish(&mut lot)?;
            samples.extend_from_slice(&lot[..made]);
            if made == 0 {
                return Ok((samples, decoder.clamped(), decoder.odd_bytes()));
            }
        }
    }

    fn whole(format: Format, text: &[u8]) -> Result<Vec<i16>, Malformed> {
        let most = most_samples(format, text.len());
        let (samples, ..) = decode(format, &[text], most + 1)?;
        assert!(samples.len() <= most);
        Ok(samples)
    }

    /// In one piece, in bytes, and cut in two anywhere; with room for everything and for one sample at a time.
    fn every_way(format: Format, text: &[u8]) -> Result<(Vec<i16>, u32, u32), Malformed> {
        let expected = decode(format, &[text], 4096);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        for room in [1, 2, 3, 4096] {
            assert_eq!(decode(format, &bytes, room), expected);
            assert_eq!(decode(format, &[text], room), expected);
        }
        for cut in 0..=text.len() {
            assert_eq!(decode(format, &[&text[..cut], &text[cut..]], 7), expected, "cut at {cut}");
        }
        expected
    }

    fn base64(bytes: &[u8]) -> String {
        base64_simd::STANDARD.encode_to_string(bytes)
    }

    fn pcm(bytes: &[u8]) -> Vec<i16> {
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn every_sample_value_is_read_from_decimals() {
        let all: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let text = all.iter().map(i16::to_string).collect::<Vec<_>>().join(",");
        assert_eq!(whole(ARRAY, text.as_bytes()).unwrap(), all);
        // The byte-by-byte way, which a comma behind white space takes.
        assert_eq!(whole(ARRAY, text.replace(',', " ,").as_bytes()).unwrap(), all);
    }

    #[test]
    fn numbers_are_read_in_every_spelling_and_cut_to_sixteen_bits() {
        let text = b" 1 ,\n-2.0,3e0\t,4.99,-0,-0.7,0.5e1,60E-1, 007 ,32768,-32769,65535,99999,-99999,1e300,-1e300,123456789012345678901234567890,0.0000000000000000000000000000012e31 ";
        let (samples, clamped, odd) = every_way(ARRAY, text).unwrap();
        let (min, max) = (i16::MIN, i16::MAX);
        assert_eq!(samples, [1, -2, 3, 4, 0, 0, 5, 6, 7, max, min, max, max, min, max, min, max, 12]);
        assert_eq!((clamped, odd), (8, 0));
        assert_eq!(every_way(ARRAY, b"-8,8,-32768,32767,0,12").unwrap().0, [-8, 8, min, max, 0, 12]);
        assert_eq!(every_way(ARRAY, b"").unwrap().0, [0_i16; 0]);
        assert_eq!(every_way(ARRAY, b" \r\n").unwrap().0, [0_i16; 0]);
        assert_eq!(every_way(ARRAY, b"7").unwrap().0, [7]);
    }

    #[test]
    fn an_array_of_anything_but_numbers_is_refused() {
        for text in [
            ",",
            "1,",
            "1,,2",
            ",1",
            "1 2",
            "-",
            "1,-,2",
            "--1",
            "+1",
            "1-2",
            "a",
            "1,null",
            "\"12\"",
            "1.",
            "1.,2",
            "1e",
            "1e+,2",
            ".5",
            "0x10",
            "1;2",
            "1,2,3,4,5,6,7,8,9]",
            "[1],2",
            "1,2,\0,4,5,6,7,8",
            "1,2:3,4,5,6,7,8",
            "12345/,12345,12345",
            "1\u{e9},2",
            "\u{b1}\u{b2},1,2,3,4,5,6",
            "NaN",
            "1 .5",
            "- 1",
        ] {
            assert_eq!(every_way(ARRAY, text.as_bytes()), Err(Malformed::Samples), "{text}");
        }
        // Each byte value once among good samples: only what JSON allows there passes.
        for byte in 0..=u8::MAX {
            let text = [b"11,22,", &[byte][..], b"33,44,55,66,77"].concat();
            let good = matches!(byte, b'0'..=b'9' | b'-' | b' ' | b'\t' | b'\n' | b'\r');
            assert_eq!(whole(ARRAY, &text).is_ok(), good, "{byte:#x}");
        }
    }

    #[test]
    fn base64_of_every_length_is_read_however_it_is_cut_and_padded() {
        let bytes: Vec<u8> = (0..100u32).map(|n| (n * 151 + 250) as u8).collect();
        for len in 0..=bytes.len() {
            let bytes = &bytes[..len];
            let padded = base64(bytes);
            let (samples, _, odd) = every_way(BASE64, padded.as_bytes()).unwrap();
            assert_eq!((samples, odd as usize), (pcm(bytes), len % 2), "{len}");
            assert_eq!(whole(BASE64, padded.trim_end_matches('=').as_bytes()).unwrap(), pcm(bytes));
            for (law, coding) in [(Law::Mu, Coding::Mulaw), (Law::A, Coding::Alaw)] {
                let expected: Vec<i16> = bytes.iter().map(|&byte| law.decode(byte)).collect();
                let format = format(Carrier::Base64, coding);
                assert_eq!(every_way(format, padded.as_bytes()).unwrap(), (expected.clone(), 0, 0));
                let raw = Format { carrier: Carrier::Raw, ..format };
                assert_eq!(every_way(raw, bytes).unwrap(), (expected, 0, 0));
            }
            let raw = format(Carrier::Raw, Coding::Pcm16Le);
            assert_eq!(every_way(raw, bytes).unwrap(), (pcm(bytes), 0, len as u32 % 2));
        }
    }

    #[test]
    fn long_base64_is_read_with_white_space_and_json_escapes_in_it() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| (n * n / 7) as u8 | 0xc3).collect(); // many a slash
        let text = base64(&bytes);
        assert!(text.contains('/') && text.contains('+') && text.ends_with('='));
        assert_eq!(whole(BASE64, text.as_bytes()).unwrap(), pcm(&bytes));
        let lines = text.as_bytes().chunks(76).map(|line| String::from_utf8(line.to_vec()).unwrap());
        let lines = lines.collect::<Vec<_>>();
        for variant in [
            text.replace('/', "\\/"),
            text.replace('+', "\\u002b").replace('=', "\\u003D"),
            lines.join("\r\n"),
            lines.join("\\r\\n"),
            format!(" \t{text}\\n"),
            text.replace('A', "\\u0041").replace('/', " /"),
        ] {
            assert_eq!(whole(BASE64, variant.as_bytes()).unwrap(), pcm(&bytes));
            let bytewise: Vec<&[u8]> = variant.as_bytes().chunks(1).collect();
            assert_eq!(decode(BASE64, &bytewise, 1).unwrap().0, pcm(&bytes));
            for size in [3, 5, 7, 64, 1021] {
                let pieces: Vec<&[u8]> = variant.as_bytes().chunks(size).collect();
                assert_eq!(decode(BASE64, &pieces, size).unwrap().0, pcm(&bytes));
            }
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in [
            "A",
            "AAAAA",
            "A===",
            "=",
            "AA=A",
            "AA==AAAA",
            "AAA=AA==",
            "AAA==",
            "AAAA=",
            "AA===",
            "AA-_",
            "AAA_",
            "AAAA\\",
            "AAAA\\x",
            "AA\\\"A",
            "AA\\\\A",
            "\\u00",
            "\\u00g1",
            "\\u0141AAA",
            "AAA\u{e9}",
            "AA\0A",
            "AA,A",
            "A\\u005fAA",
            "AAAAAAAAAAAAAAAA-AAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==AAAA",
        ] {
            assert_eq!(every_way(BASE64, text.as_bytes()), Err(Malformed::Base64), "{text}");
        }
        // Each byte value once among good ones, where the fast way goes: only the alphabet and white space pass.
        for byte in 0..=u8::MAX {
            let text = [&[b'A'; 21][..], &[byte], &[b'A'; 42]].concat();
            let good = SEXTETS[usize::from(byte)] <= 63 || matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            assert_eq!(whole(BASE64, &text).is_ok(), good, "{byte:#x}");
        }
    }

    #[test]
    fn without_room_nothing_is_lost() {
        let mut decoder = Decoder::new(BASE64);
        let (read, made) = decoder.decode(b"AQACAAMA", &mut []).unwrap();
        assert_eq!(made, 0);
        let mut out = [0; 8];
        let (more, made) = decoder.decode(&b"AQACAAMA"[read..], &mut out).unwrap();
        assert_eq!((read + more, &out[..made]), (8, &[1, 2, 3][..]));
        let mut decoder = Decoder::new(ARRAY);
        assert_eq!(decoder.decode(b"5,6", &mut []), Ok((1, 0)));
        assert_eq!(decoder.decode(b",6", &mut out), Ok((2, 1)));
        assert_eq!((decoder.finish(&mut []), decoder.finish(&mut out)), (Ok(0), Ok(1)));
        assert_eq!(out[0], 6);
    }

    #[test]
    fn damaged_audio_never_panics_and_is_judged_alike_whole_and_in_bytes() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        const BYTES: &[u8] = b",,--109.eE+ \n\\/u002b=\"]AZ_\xff\0";
        let numbers = (0..40).map(|n| (n * n * 37 - 30_000).to_string()).collect::<Vec<_>>().join(",");
        let text = base64(&(0..160u32).map(|n| (n * 151) as u8).collect::<Vec<_>>());
        let mut refused = 0;
        for round in 0..20_000 {
            let (format, good) = if round % 2 == 0 { (ARRAY, &numbers) } else { (BASE64, &text) };
            let mut bytes = good.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = BYTES[random(BYTES.len())],
                    1 => bytes.insert(at, BYTES[random(BYTES.len())]),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at.max(8)),
                }
            }
            let whole = decode(format, &[&bytes], 4096);
            let cut = random(bytes.len());
            assert_eq!(decode(format, &[&bytes[..cut], &bytes[cut..]], 1 + random(9)), whole);
            assert_eq!(decode(format, &bytes.chunks(1).collect::<Vec<_>>(), 1), whole);
            refused += u32::from(whole.is_err());
        }
        assert!((5_000..20_000).contains(&refused), "{refused}");
    }
}
