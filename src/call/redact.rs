//! Phone numbers, as they may stand in a log or a record that others read.

use core::fmt;

/// A number of which only the last two digits are shown: `***34`. One with fewer than three digits shows none.
#[derive(Clone, Copy)]
pub struct Redacted<'a>(pub &'a str);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("***")?;
        let mut from_the_end = self.0.bytes().rev().filter(u8::is_ascii_digit);
        if let (Some(last), Some(before), Some(_)) = (from_the_end.next(), from_the_end.next(), from_the_end.next()) {
            write!(f, "{}{}", char::from(before), char::from(last))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How much of phone numbers a record keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// The last two digits.
    Redacted,
    /// All of it.
    Full,
}

impl Numbers {
    /// What is kept of this number; `None` when there is none.
    #[must_use]
    pub fn keep(self, number: &str) -> Option<String> {
        if number.is_empty() {
            return None;
        }
        Some(match self {
            Self::Redacted => Redacted(number).to_string(),
            Self::Full => number.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_left_of_a_number() {
        for (number, shown) in [
            ("+4930123456", "***56"),
            ("sip:+4930123456@pbx", "***56"),
            ("101", "***01"),
            ("12", "***"),
            ("alice", "***"),
            ("", ""),
        ] {
            assert_eq!(Redacted(number).to_string(), shown, "{number}");
            assert_eq!(format!("{:?}", Redacted(number)), shown, "{number}");
        }
    }

    #[test]
    fn a_number_is_kept_whole_only_when_asked_to() {
        assert_eq!(Numbers::Redacted.keep("+4930123456").as_deref(), Some("***56"));
        assert_eq!(Numbers::Full.keep("+4930123456").as_deref(), Some("+4930123456"));
        assert_eq!(Numbers::Full.keep(""), None);
    }
}
