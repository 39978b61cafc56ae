//! A PBX: whether it answers at all, whether it takes our credentials, and what its calls sound like.

use super::{Check, Finding};
use crate::{
    leg::sip::registration::Failure,
    media::{Rate, codec::Codec},
};

/// What an OPTIONS came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It answered with this status, in so many milliseconds.
    Answered(u16, u64),
    /// It did not answer in so many seconds.
    Silent(u64),
    /// Nothing could be sent there, and why.
    Unreachable(String),
}

/// Judges it. `peer` is the URI of the config.
#[must_use]
pub fn judge_options(subject: impl Into<String>, peer: &str, asked: &Asked) -> Finding {
    match asked {
        // RFC 3261 11: whoever answers is there, whatever it thinks of the question.
        Asked::Answered(status @ 200..=299, ms) => {
            Finding::ok(Check::SipOptions, subject, format!("{peer} answered {status} in {ms} ms"))
        }
        Asked::Answered(status @ (500..=599), ms) => Finding::warn(
            Check::SipOptions,
            subject,
            format!("{peer} answered {status} in {ms} ms: it is there, and in trouble of its own"),
            "look into the PBX's log",
        ),
        Asked::Answered(status, ms) => Finding::ok(
            Check::SipOptions,
            subject,
            format!("{peer} answered {status} in {ms} ms: it is there, and does not say more to strangers"),
        ),
        Asked::Silent(seconds) => Finding::warn(
            Check::SipOptions,
            subject,
            format!("{peer} did not answer OPTIONS in {seconds} s"),
            "is it the PBX's address, port and transport? A firewall, fail2ban or an allow-list there may drop what \
             comes from this machine; `sudo tcpdump -ni any port 5060` (or its port) shows whether it leaves and comes back",
        ),
        Asked::Unreachable(why) => Finding::fail(
            Check::SipOptions,
            subject,
            format!("{peer} cannot be reached: {why}"),
            "check its address, its port and `transport=`, and that the PBX listens there (on it: `ss -lntup`)",
        ),
    }
}

/// What a REGISTER came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It took us, and was told that we are gone again.
    Taken,
    /// It did not.
    Refused(Failure),
    /// It was not asked, because the daemon does that. Its config may be an older one.
    ByDaemon {
        /// The daemon's line of this name.
        line: String,
        /// How its registration stands, as it says.
        state: String,
        /// It takes no more calls, and ends.
        drains: bool,
    },
    /// It was not asked, and why.
    NotAsked(String),
}

/// Judges it. `user` is the extension, `auth_user` who the digest is of.
#[must_use]
pub fn judge_register(
    subject: impl Into<String>,
    registrar: &str,
    (user, auth_user): (&str, &str),
    outcome: &Registered,
) -> Finding {
    let subject = subject.into();
    let fail = |found: String, fix: String| Finding::fail(Check::SipRegister, subject.clone(), found, fix);
    match outcome {
        Registered::Taken => Finding::ok(
            Check::SipRegister,
            subject,
            format!("{registrar} takes {user} with its password (registered and taken back)"),
        ),
        Registered::NotAsked(why) => Finding::skip(Check::SipRegister, subject, why.clone()),
        Registered::ByDaemon { line, state, drains } => {
            let said = format!("the daemon's line {line} says {state}");
            let warn = |why: &str, fix: &str| {
                Finding::warn(Check::SipRegister, subject.clone(), format!("{said}{why}"), fix.to_owned())
            };
            match state.as_str() {
                "registered" => Finding::ok(Check::SipRegister, subject, said),
                "trying" => warn(
                    ": nothing has come of it yet",
                    "a daemon that has just started needs a moment: run this again",
                ),
                "unregistered" if *drains => {
                    warn(": it ends, and takes no more calls", "run this again once it has started anew")
                }
                _ => fail(said, "`journalctl -u trunkline -g 'not registered'` has the PBX's answer".to_owned()),
            }
        }
        Registered::Refused(Failure::WrongPassword) => fail(
            format!("{registrar} does not take the password of {user} (it asked again after the digest)"),
            format!("write the extension's password anew into the secret of `password`; the digest is of `auth-user`, {auth_user:?}"),
        ),
        Registered::Refused(Failure::NoPassword) => fail(
            format!("{registrar} asks {user} for a password, and the config has none"),
            "set `password` in the table `register`".to_owned(),
        ),
        Registered::Refused(Failure::Status { status: 403, reason }) => fail(
            format!("{registrar} answered 403 {reason} to {user} with its password"),
            format!("the password is wrong, or the extension may not register from here: write the extension's password anew into the secret of `password` (`auth-user` is {auth_user:?}), and see the PBX's log for an ACL or a ban"),
        ),
        Registered::Refused(Failure::Status { status: 404, reason }) => fail(
            format!("{registrar} answered 404 {reason}: it does not know {user}"),
            "make the extension at the PBX, or correct `user`; the host of `registrar` has to be a domain that it serves"
                .to_owned(),
        ),
        Registered::Refused(Failure::NoAnswer) => fail(
            format!("{registrar} did not answer REGISTER"),
            "see the line above on OPTIONS; a PBX that bans whoever fails too often is silent: look into its fail2ban"
                .to_owned(),
        ),
        Registered::Refused(Failure::Unreachable(why)) => fail(
            format!("{registrar} cannot be reached: {why}"),
            "check its address, its port and `transport=`".to_owned(),
        ),
        Registered::Refused(why) => {
            let words = why.to_string();
            fail(format!("{registrar} does not register {user}: {words}"), "look into the PBX's log".to_owned())
        }
    }
}

/// What a line offers, beside what its trunks speak: name and rate.
#[must_use]
pub fn judge_codecs(key: &str, codecs: &[Codec], trunks: &[(&str, Rate)]) -> Finding {
    let names: Vec<_> = codecs.iter().map(|codec| codec.name()).collect();
    let best = codecs.iter().map(|codec| codec.rate()).max().unwrap_or(Rate::Hz8000);
    let said = format!("{} (up to {best})", names.join(", "));
    let gains = trunks.iter().find(|(_, rate)| *rate > best);
    match gains {
        Some((trunk, rate)) if best == Rate::Hz8000 => Finding::ok(
            Check::Codecs,
            key,
            format!(
                "{said}; the trunk {trunk} speaks {rate}: with \"g722\" first callers are understood better, if the PBX has it"
            ),
        ),
        _ => Finding::ok(Check::Codecs, key, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn register(outcome: Registered) -> (Status, String, String) {
        let finding = judge_register("[line.pbx] REGISTER", "sip:192.0.2.1", ("201", "auth201"), &outcome);
        (finding.status, finding.found, finding.fix.unwrap_or_default())
    }

    #[test]
    fn a_wrong_password_an_unknown_user_and_a_shut_door_have_words_of_their_own() {
        let (status, found, fix) = register(Registered::Refused(Failure::WrongPassword));
        assert_eq!(status, Status::Fail);
        assert!(found.contains("does not take the password of 201") && fix.contains("\"auth201\""), "{found} {fix}");
        let answered =
            |status, reason: &str| register(Registered::Refused(Failure::Status { status, reason: reason.to_owned() }));
        let (_, found, fix) = answered(403, "Forbidden");
        assert!(found.contains("403 Forbidden") && fix.contains("password is wrong, or"), "{found} {fix}");
        let (_, found, fix) = answered(404, "Not Found");
        assert!(found.contains("does not know 201") && fix.contains("`user`"), "{found} {fix}");
    }

    #[test]
    fn a_daemon_that_is_registered_is_asked_and_not_disturbed() {
        let of = |state: &str, drains| {
            register(Registered::ByDaemon { line: "pbx".to_owned(), state: state.to_owned(), drains })
        };
        // The daemon may have been started with another user, and another registrar.
        let registered = (Status::Ok, "the daemon's line pbx says registered".to_owned(), String::new());
        assert_eq!(of("registered", false), registered);
        let (status, found, _) = of("refused", false);
        assert_eq!((status, found.ends_with("says refused")), (Status::Fail, true));
        assert_eq!(of("trying", false).0, Status::Warn, "it has just been started");
        assert_eq!((of("unregistered", true).0, of("unregistered", false).0), (Status::Warn, Status::Fail));
        assert_eq!(register(Registered::NotAsked("it is there".to_owned())).0, Status::Skip);
    }

    #[test]
    fn any_answer_is_a_sign_of_life() {
        let of = |asked| judge_options("[line.pbx] OPTIONS", "sip:192.0.2.1", &asked).status;
        assert_eq!(of(Asked::Answered(200, 3)), Status::Ok);
        assert_eq!(of(Asked::Answered(401, 3)), Status::Ok);
        assert_eq!(of(Asked::Answered(503, 3)), Status::Warn);
        // Some PBXs never answer strangers; whether they register us is another line.
        assert_eq!(of(Asked::Silent(4)), Status::Warn);
        assert_eq!(of(Asked::Unreachable("connection refused".to_owned())), Status::Fail);
    }

    #[test]
    fn wideband_is_hinted_at_where_a_trunk_gains_from_it() {
        let of = |codecs: &[Codec], rate| judge_codecs("[line.pbx] codecs", codecs, &[("agent", rate)]).found;
        assert!(of(&[Codec::Pcmu], Rate::Hz16000).contains("\"g722\" first"));
        assert!(!of(&[Codec::Pcmu], Rate::Hz8000).contains("g722"));
        assert!(!of(&[Codec::G722, Codec::Pcmu], Rate::Hz16000).contains("first"));
    }
}
