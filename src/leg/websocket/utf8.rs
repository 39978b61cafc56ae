//! UTF-8 checked across pieces.
//!
//! A text message may be cut anywhere, in the middle of a character too (RFC 6455 5.6, 8.1). Between pieces only the
//! begun character is kept: at most three bytes.

/// Whether the pieces pushed so far are, one after the other, UTF-8.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Check {
    /// The begun character.
    begun: [u8; 4],
    begun_len: usize,
    bad: bool,
}

impl Utf8Check {
    /// A check that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { begun: [0; 4], begun_len: 0, bad: false }
    }

    /// Takes the next piece. `false`: the text cannot become UTF-8 any more, whatever follows.
    #[must_use]
    pub fn push(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while self.begun_len > 0 && !self.bad {
            let Some((&byte, tail)) = rest.split_first() else { return true };
            rest = tail;
            self.on_begun(byte);
        }
        if !self.bad
            && let Err(error) = core::str::from_utf8(rest)
        {
            let tail = &rest[error.valid_up_to()..];
            match error.error_len() {
                Some(_) => self.bad = true,
                // Valid as far as it goes, which is three bytes at most.
                None => {
                    self.begun[..tail.len()].copy_from_slice(tail);
                    self.begun_len = tail.len();
                }
            }
        }
        !self.bad
    }

    /// Whether the text may end here: no character is left half said.
    #[must_use]
    pub const fn finish(&self) -> bool {
        !self.bad && self.begun_len == 0
    }

    /// One more byte of the begun character. A begun one has at most three bytes and four are always a verdict, so
    /// the array suffices.
    fn on_begun(&mut self, byte: u8) {
        self.begun[self.begun_len] = byte;
        self.begun_len += 1;
        match core::str::from_utf8(&self.begun[..self.begun_len]) {
            Ok(_) => self.begun_len = 0,
            Err(error) => self.bad = error.error_len().is_some(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The verdict on a text that is cut at these two places.
    fn verdict(text: &[u8], first: usize, second: usize) -> bool {
        let mut check = Utf8Check::new();
        let mut good = check.push(&text[..first]);
        good &= check.push(&text[first..second]);
        good &= check.push(&text[second..]);
        assert!(good || !check.finish(), "a bad text never finishes");
        check.finish()
    }

    #[test]
    fn a_text_is_judged_alike_wherever_it_is_cut() {
        let texts: &[&[u8]] = &[
            b"",
            b"plain",
            "κόσμε".as_bytes(),
            "नमस्ते, कैसे हैं?".as_bytes(),
            "a\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}z".as_bytes(),
            b"\x80",                     // a continuation byte alone
            b"a\xbfb",                   // the same inside
            b"\xc0\x80",                 // overlong NUL
            b"\xc1\xbf",                 // overlong 0x7f
            b"\xe0\x9f\xbf",             // overlong 0x7ff
            b"\xf0\x8f\xbf\xbf",         // overlong 0xffff
            b"\xed\xa0\x80",             // a high surrogate
            b"\xed\xa0\x80\xed\xb0\x80", // a pair of surrogates
            b"\xf4\x90\x80\x80",         // beyond 0x10ffff
            b"\xf5\x80\x80\x80",         // no such lead byte
            b"\xff",
            b"\xfe\xff",
            b"abc\xc3", // cut short after one, two, three
            b"abc\xe2\x82",
            b"abc\xf0\x9f\x98",
            b"\xe2\x28\xa1", // the second byte is no continuation
            b"\xe2\x82\x28", // nor the third
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        ];
        for text in texts {
            let wanted = core::str::from_utf8(text).is_ok();
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    assert_eq!(verdict(text, first, second), wanted, "{text:02x?} cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn every_sequence_of_two_bytes_and_every_lead_is_judged_as_std_does() {
        for lead in 0..=255u8 {
            for next in 0..=255u8 {
                for tail in [&b""[..], b"\x80", b"\x80\x80", b"a"] {
                    let mut text = vec![lead, next];
                    text.extend_from_slice(tail);
                    let mut check = Utf8Check::new();
                    for byte in &text {
                        let _ = check.push(core::slice::from_ref(byte));
                    }
                    assert_eq!(check.finish(), core::str::from_utf8(&text).is_ok(), "{text:02x?}");
                }
            }
        }
    }

    #[test]
    fn a_hopeless_character_is_refused_at_the_byte_that_ruins_it() {
        let mut check = Utf8Check::new();
        assert!(check.push(b"\xf4"));
        assert!(!check.push(b"\x90"), "0x110000 and above do not exist");
        assert!(!check.push(b"then plain text"), "and nothing mends it");
        assert!(!check.finish());
    }
}
