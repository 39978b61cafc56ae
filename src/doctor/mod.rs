//! Why a site does not work, for somebody who has just set it up: what was found of each thing, and what mends it.
//!
//! ```text
//!   the shell asks: names, peers, ports, files --> facts --> one judgement a folder of facts --> Finding --> text, JSON
//! ```
//!
//! Pure: whoever calls brings what was found and the time. A finding never holds a secret, since its words come from
//! names, addresses and answers only.

use core::fmt;

use serde::Serialize;

pub mod account;
pub mod call;
pub mod certificate;
pub mod clock;
pub mod disk;
pub mod name;
pub mod pbx;
pub mod port;
pub mod sound;

/// What is looked at. The ids are for scripts, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The config file.
    Config,
    /// Whether the daemon runs.
    Daemon,
    /// This machine's clock.
    Clock,
    /// Names of others.
    Dns,
    /// A peer's certificate, and all of its handshake.
    Tls,
    /// A certificate of ours.
    Certificate,
    /// A trunk takes a connection.
    Trunk,
    /// A trunk takes a call.
    Call,
    /// A sink takes a connection.
    Sink,
    /// A PBX answers.
    SipOptions,
    /// A PBX takes our credentials.
    SipRegister,
    /// What a line offers and what its trunks can do with it.
    Codecs,
    /// A port that we listen on.
    Port,
    /// The ports of RTP.
    RtpPorts,
    /// A sound card, and the right to open it.
    Sound,
    /// The right to run before others.
    Realtime,
    /// A folder that is written to.
    Disk,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It could not be looked at, or need not be.
    Skip,
    /// It works now; somebody should look at it.
    Warn,
    /// Calls will not work.
    Fail,
}

impl Status {
    /// As it stands in front of a line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skip => "skip",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it stands.
    pub status: Status,
    /// Which thing it is, by its place in the config where it has one.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: Check, subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, subject: subject.into(), found: found.into(), fix: None }
    }

    /// Not looked at, and why.
    pub fn skip(check: Check, subject: impl Into<String>, why: impl Into<String>) -> Self {
        Self { status: Status::Skip, ..Self::ok(check, subject, why) }
    }

    /// It works now.
    pub fn warn(check: Check, subject: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Warn, fix: Some(fix.into()), ..Self::ok(check, subject, found) }
    }

    /// It does not work.
    pub fn fail(check: Check, subject: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(check, subject, found, fix) }
    }

    /// It does not work, in words of our own that may have what mends it behind a semicolon.
    pub fn fail_in_words(check: Check, subject: impl Into<String>, words: &str, otherwise: impl Into<String>) -> Self {
        match words.split_once("; ") {
            Some((found, fix)) => Self::fail(check, subject, found, fix),
            None => Self::fail(check, subject, words, otherwise),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", line(&self.found))?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, ". Next: {}", line(fix)))
    }
}

/// How it stands as a whole: the worst of all.
#[must_use]
pub fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
}

/// Words of others stay in their line and do not move the cursor.
#[must_use]
pub fn line(words: &str) -> String {
    let mut text = String::with_capacity(words.len());
    for character in words.chars() {
        if character.is_control() { text.extend(character.escape_default()) } else { text.push(character) }
    }
    text
}

/// A day, as people write it.
#[must_use]
pub(crate) fn day(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "a time beyond all calendars".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_a_peer_has_said() {
        let finding = Finding::fail(Check::Trunk, "[trunk.agent]", "it said \"no\r\n\x1b[2J\"", "look\nthere");
        assert_eq!(finding.to_string(), "it said \"no\\r\\n\\u{1b}[2J\". Next: look\\nthere");
    }

    #[test]
    fn the_worst_decides_and_what_was_not_looked_at_is_no_failure() {
        let of = |status| Finding { status, ..Finding::ok(Check::Clock, "clock", "") };
        assert_eq!(worst(&[]), Status::Ok);
        assert_eq!(worst(&[of(Status::Ok), of(Status::Skip)]), Status::Skip);
        assert_eq!(worst(&[of(Status::Warn), of(Status::Fail), of(Status::Skip)]), Status::Fail);
    }

    #[test]
    fn what_mends_it_stands_behind_the_semicolon() {
        let finding = Finding::fail_in_words(Check::Tls, "x", "it has expired; renew it", "-");
        assert_eq!((finding.found.as_str(), finding.fix.as_deref()), ("it has expired", Some("renew it")));
        let finding = Finding::fail_in_words(Check::Tls, "x", "it has expired", "ask");
        assert_eq!(finding.fix.as_deref(), Some("ask"));
    }

    #[test]
    fn ids_are_as_scripts_know_them() {
        let finding = Finding::skip(Check::SipRegister, "[line.pbx]", "why");
        let text = serde_json::to_string(&finding).unwrap_or_default();
        let wanted = r#"{"check":"sip-register","status":"skip","subject":"[line.pbx]","found":"why"}"#;
        assert_eq!(text, wanted);
    }
}
