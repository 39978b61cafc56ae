//! Which numbers may be called, and whom callers may be transferred to.
//!
//! A call out costs somebody money, and whoever can talk an agent into one would like it to be a premium number abroad.
//! So nothing may be called unless a pattern says so, and what leaves here was put together anew from what was
//! understood: nothing of the text that was asked for is passed on.

use core::fmt;

/// Which numbers may be called. An empty plan allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialPlan {
    patterns: Vec<Pattern>,
    domains: Vec<String>,
}

impl DialPlan {
    /// A plan of these patterns; `domains` are the hosts, in lower case and with a port where it is not the scheme's
    /// own, that a `sip:` URI may name.
    #[must_use]
    pub fn new(patterns: Vec<Pattern>, domains: Vec<String>) -> Self {
        Self { patterns, domains }
    }

    /// Whether nothing may be called.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Its patterns.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// The hosts that a URI may name.
    #[must_use]
    pub fn domains(&self) -> &[String] {
        &self.domains
    }

    /// What is to be called when this is asked for: a number, which may be written with blanks, dashes and parentheses
    /// and begin with `tel:`, or `sip:NUMBER@HOST`.
    ///
    /// # Errors
    /// [`Refusal`] says why it may not be called.
    pub fn target(&self, asked: &str) -> Result<Target, Refusal> {
        let asked = asked.trim();
        let (scheme, rest) = match asked.split_once(':') {
            None => ("", asked),
            Some((scheme, rest)) => (scheme, rest),
        };
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        let secure = is("sips");
        let (number, domain) = match scheme {
            "" => (rest, None),
            _ if is("tel") => (rest, None),
            _ if secure || is("sip") => {
                // Headers and parameters of a URI would travel into the request (RFC 3261 19.1.5).
                if rest.contains([';', '?', '<', '>', ',']) {
                    return Err(Refusal::UriParts);
                }
                let (user, host) = rest.split_once('@').ok_or(Refusal::NotANumber)?;
                let host = host.to_ascii_lowercase();
                let own = if secure { ":5061" } else { ":5060" };
                let host = host.strip_suffix(own).unwrap_or(&host);
                let domain = self.domains.iter().find(|domain| *domain == host).ok_or(Refusal::ForeignHost)?;
                (user, Some(domain.clone()))
            }
            _ => return Err(Refusal::NotANumber),
        };
        let number = normalised(number).ok_or(Refusal::NotANumber)?;
        if number.len() > MAX_LENGTH {
            return Err(Refusal::TooLong);
        }
        if !self.patterns.iter().any(|pattern| pattern.matches(&number)) {
            return Err(Refusal::NotInPlan);
        }
        Ok(Target { number, domain, secure })
    }
}

/// Somebody who may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Digits, `*` and `#`, and perhaps a `+` in front: the user part of the URI. In a URI, `#` has to be escaped
    /// (RFC 3261 25.1).
    pub number: String,
    /// The host, and a port where it is not the scheme's own; `None`: the line's proxy.
    pub domain: Option<String>,
    /// `sips:` was asked for.
    pub secure: bool,
}

/// Numbers that may be called: digits, `+`, `#` and `*` for themselves, `?` for any one digit, and a `*` at the end for
/// any digits, or none.
///
/// A `*` anywhere else is the key of that name, as in `*98`: who means it otherwise allows too little, not too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    fixed: String,
    /// Any digits may follow.
    open: bool,
}

impl Pattern {
    /// Reads a pattern, which may be written with blanks, dashes and parentheses as a number may.
    ///
    /// # Errors
    /// Says what would do instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text: String = text.chars().filter(|c| !SEPARATORS.contains(c)).collect();
        if text.is_empty() {
            return Err("an empty pattern allows nothing; leave it out");
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'*' | b'#' | b'?')) {
            return Err(
                "a pattern is digits, `+`, `*` and `#`, with `?` for a digit and a `*` at the end for the rest",
            );
        }
        if text.get(1..).is_some_and(|rest| rest.contains('+')) {
            return Err("a `+` is at the beginning of a number, or nowhere");
        }
        if text.len() > MAX_LENGTH {
            return Err("a number has at most 32 characters");
        }
        let (fixed, open) = text.strip_suffix('*').map_or((text.as_str(), false), |fixed| (fixed, true));
        Ok(Self { fixed: fixed.to_owned(), open })
    }

    /// Whether it allows numbers wherever in the world they are: no digit but zeros, which lead abroad, is fixed.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.open && self.fixed.bytes().all(|byte| matches!(byte, b'+' | b'0' | b'?'))
    }

    fn matches(&self, number: &str) -> bool {
        let number = number.as_bytes();
        let Some((head, rest)) = number.split_at_checked(self.fixed.len()) else { return false };
        let is_digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
        head.iter().zip(self.fixed.bytes()).all(|(byte, fixed)| match fixed {
            b'?' => byte.is_ascii_digit(),
            _ => *byte == fixed,
        }) && if self.open { is_digits(rest) } else { rest.is_empty() }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fixed)?;
        f.write_str(if self.open { "*" } else { "" })
    }
}

/// Why somebody may not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is something else than digits, `+`, `*` and `#` in it.
    NotANumber,
    /// It has too many digits.
    TooLong,
    /// A URI with parameters or headers.
    UriParts,
    /// A URI whose host is not listed.
    ForeignHost,
    /// No pattern allows it.
    NotInPlan,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotANumber => "it is not a number of digits, `+`, `*` and `#`",
            Self::TooLong => "the number is too long",
            Self::UriParts => "a URI to be called has no parameters and no headers",
            Self::ForeignHost => "the dial plan does not list the host of this URI",
            Self::NotInPlan => "the dial plan does not allow this number",
        })
    }
}

impl core::error::Error for Refusal {}

/// A number without what people put between its digits; `None`: it is none.
fn normalised(text: &str) -> Option<String> {
    let number: String = text.chars().filter(|c| !SEPARATORS.contains(c)).collect();
    let digits = number.strip_prefix('+').unwrap_or(&number);
    let is_number =
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'*' | b'#'));
    is_number.then_some(number)
}

/// What people put between digits (RFC 3966 5.1.1, without the dot, which is a letter's place in some dial plans).
const SEPARATORS: &[char] = &[' ', '-', '(', ')'];

/// E.164 has 15 digits; a PBX's prefixes and a feature code come on top of it.
const MAX_LENGTH: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(patterns: &[&str]) -> DialPlan {
        let patterns = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        DialPlan::new(patterns, vec!["pbx.example.com".to_owned(), "192.0.2.10:5080".to_owned()])
    }

    #[test]
    fn without_a_plan_nothing_may_be_called() {
        for asked in ["201", "112", "+4930123456", "sip:201@pbx.example.com", ""] {
            assert!(DialPlan::default().target(asked).is_err(), "{asked}");
        }
        let domains_alone = DialPlan::new(Vec::new(), vec!["pbx.example.com".to_owned()]);
        assert_eq!(domains_alone.target("sip:201@pbx.example.com"), Err(Refusal::NotInPlan));
    }

    #[test]
    fn a_pattern_allows_what_it_says_and_nothing_longer() {
        for (pattern, asked, allowed) in [
            ("201", "201", true),
            ("201", "2010", false),
            ("201", "20", false),
            ("201", "+201", false),
            ("2??", "299", true),
            ("2??", "29", false),
            ("2??", "2999", false),
            ("2??", "2*9", false),
            ("2??", "29#", false),
            ("+49*", "+4930123456", true),
            ("+49*", "+49", true),
            ("+49*", "+4830123456", false),
            ("+49*", "004930123456", false),
            ("+49*", "4930123456", false),
            // What follows is digits alone: no feature code rides behind an allowed beginning.
            ("2*", "2*72", false),
            ("2*", "2#", false),
            ("*", "201", true),
            ("*", "+4930123456", false),
            ("*", "*98", false),
            // Before the end, a star is the key of that name.
            ("*98", "*98", true),
            ("*98", "1298", false),
            ("*72*", "*72201", true),
            ("*72*", "*72", true),
            ("#31#", "#31#", true),
            ("+1 (900) 5??", "+19005", false),
            ("+1 (800) ???-????", "+18005550100", true),
        ] {
            assert_eq!(plan(&[pattern]).target(asked).is_ok(), allowed, "{pattern} {asked}");
        }
        let two = plan(&["2??", "+49*"]);
        assert!(two.target("222").is_ok() && two.target("+491").is_ok() && two.target("322").is_err());
    }

    #[test]
    fn a_number_may_be_written_as_people_write_it() {
        let plan = plan(&["+49*"]);
        for asked in ["+49 (30) 123-456", " +4930123456 ", "tel:+49-30-123456", "TEL:+4930123456"] {
            let target = plan.target(asked).unwrap();
            assert_eq!((target.number.as_str(), target.domain, target.secure), ("+4930123456", None, false), "{asked}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused_whatever_the_plan_says() {
        let plan = plan(&["*", "+*", "2??"]);
        for asked in [
            "",
            "+",
            "+-",
            "alice",
            "201a",
            "2O1",
            "201,,900",
            "201w900",
            "201.5",
            "20+1",
            "++201",
            "201\r\nX-Evil: 1",
            "20\t1",
            "201\0",
            "201%40evil",
            "201/9",
            "201&X",
            "tel:201;phone-context=evil",
            "http:201",
            "\u{0662}\u{0660}\u{0661}",
            "2\u{a0}01",
        ] {
            assert_eq!(plan.target(asked), Err(Refusal::NotANumber), "{asked:?}");
        }
        assert_eq!(plan.target(&"1".repeat(33)), Err(Refusal::TooLong));
        assert!(plan.target(&"1".repeat(32)).is_ok());
    }

    #[test]
    fn a_uri_goes_to_a_listed_host_only_and_by_the_same_plan() {
        let plan = plan(&["2??", "+49*"]);
        let target = plan.target("sip:201@PBX.example.com").unwrap();
        assert_eq!((target.number.as_str(), target.domain.as_deref()), ("201", Some("pbx.example.com")));
        assert!(!target.secure);
        assert!(plan.target("sips:+49-30-1@pbx.example.com:5061").unwrap().secure);
        assert_eq!(plan.target("sip:201@pbx.example.com:5060").unwrap().domain.as_deref(), Some("pbx.example.com"));
        assert_eq!(plan.target("sip:201@192.0.2.10:5080").unwrap().domain.as_deref(), Some("192.0.2.10:5080"));
        for (asked, refusal) in [
            ("sip:201@evil.example", Refusal::ForeignHost),
            ("sip:201@pbx.example.com.evil.example", Refusal::ForeignHost),
            ("sip:201@192.0.2.10", Refusal::ForeignHost),
            ("sip:201@pbx.example.com:5061", Refusal::ForeignHost),
            ("sip:201@evil.example@pbx.example.com", Refusal::ForeignHost),
            ("sip:+19005550100@pbx.example.com", Refusal::NotInPlan),
            ("sip:alice@pbx.example.com", Refusal::NotANumber),
            ("sip:201:secret@pbx.example.com", Refusal::NotANumber),
            ("sip:%32%30%31@pbx.example.com", Refusal::NotANumber),
            ("sip:pbx.example.com", Refusal::NotANumber),
            ("sip:201@pbx.example.com;maddr=evil.example", Refusal::UriParts),
            ("sip:201;phone-context=evil@pbx.example.com", Refusal::UriParts),
            ("sip:201@pbx.example.com?Replaces=1", Refusal::UriParts),
            ("<sip:201@pbx.example.com>", Refusal::NotANumber),
            ("sip:201@pbx.example.com>,<sip:900@evil.example", Refusal::UriParts),
        ] {
            assert_eq!(plan.target(asked), Err(refusal), "{asked}");
        }
    }

    #[test]
    fn a_pattern_that_could_mislead_is_refused_and_a_wide_one_is_known() {
        for bad in ["", " ", "2xx", "+49...", "2+", "++4", "sip:201@pbx", "2[0-9]", "201,202", &"1".repeat(33)] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        for (text, wide) in
            [("*", true), ("+*", true), ("00*", true), ("0?*", true), ("+49*", false), ("9*", false), ("000", false)]
        {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!((pattern.is_wide(), pattern.to_string().as_str()), (wide, text));
        }
    }
}
