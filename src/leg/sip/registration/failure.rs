//! Why we are not registered, and whose it is to mend.

use core::fmt;

use crate::leg::sip::{Response, digest::Unanswerable};

/// Why we are not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The registrar has another password.
    WrongPassword,
    /// It asks for a password, and the config has none.
    NoPassword,
    /// It asks for what we cannot give.
    Unanswerable(Unanswerable),
    /// It calls each nonce of its own stale.
    AlwaysStale,
    /// It took us for no time at all, or takes us for at least that long (s) only.
    Expiry(u32),
    /// It answered otherwise than with 200.
    Status {
        /// Its status.
        status: u16,
        /// What it says to that.
        reason: String,
    },
    /// It did not answer.
    NoAnswer,
    /// It cannot be reached, and why.
    Unreachable(String),
}

impl Failure {
    /// What an answer says that is neither a success nor a challenge.
    pub(super) fn of(response: &Response) -> Self {
        let reason = response.reason.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect();
        Self::Status { status: response.status, reason }
    }

    /// It is the operator's to mend, here or at the PBX, and nothing changes until then. What else fails passes.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::WrongPassword | Self::NoPassword | Self::Unanswerable(_) | Self::Expiry(_) => true,
            Self::Status { status, .. } => !matches!(status, 408 | 429 | 480 | 491 | 500..=599),
            Self::AlwaysStale | Self::NoAnswer | Self::Unreachable(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongPassword => f.write_str(
                "it does not take the password; are `user`, `auth-user` and `password` those of the extension?",
            ),
            Self::NoPassword => f.write_str("it asks for a password; set `password`"),
            Self::Unanswerable(why) => why.fmt(f),
            Self::AlwaysStale => f.write_str("it calls each of its own nonces stale"),
            Self::Expiry(0) => f.write_str("it took us for 0 s, which is not at all"),
            Self::Expiry(seconds) => write!(f, "it takes us for {seconds} s or longer only"),
            Self::Status { status: 403, reason } => {
                write!(f, "it answered 403 {reason}; may this extension register from here?")
            }
            Self::Status { status: 404, reason } => {
                write!(
                    f,
                    "it answered 404 {reason}; is there such an extension, and is the host of `registrar` its domain?"
                )
            }
            Self::Status { status, reason } => write!(f, "it answered {status} {reason}"),
            Self::NoAnswer => f.write_str("it did not answer"),
            Self::Unreachable(why) => f.write_str(why),
        }
    }
}

/// What is longer is no sentence.
const LONGEST_REASON: usize = 80;
