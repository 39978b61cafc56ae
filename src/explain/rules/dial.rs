//! Trunks that did not take a call: what their words, and ours about them, mean.

use super::{is, was_not_taken};
use crate::{
    call::EndReason,
    explain::{Case, Cause, Confidence, Evidence, Fault, Finding, Symptom},
};

pub(super) fn bad_token(case: &Case<'_>) -> Option<Finding> {
    let at_the_door = refused(case, Cause::BadToken, "it does not take our token, user or password", |words| {
        matches!(status(words), Some(401 | 403 | 407))
    });
    // Some take the connection first and close it with "policy violation" (RFC 6455 7.4.1).
    let after_it = || {
        let closed = matches!(case.reason(), Some(EndReason::TrunkLost | EndReason::TrunkHungUp))
            && case.text("words").is_some_and(|words| words.contains("code 1008"))
            && case.count("downlink.heard_samples") == 0.0;
        closed.then(|| {
            Finding::new(Cause::BadToken, Fault::Trunk, Symptom::Dropped, Confidence::Likely)
                .says(format!("trunk {} took the connection and closed it as not allowed (1008)", case.trunk_name()))
                .by(case, &["end_reason", "words"])
        })
    };
    Some(at_the_door.or_else(after_it)?.next(format!(
        "compare `bearer`, `basic`, `jwt` or `headers` of [trunk.{}] with what the agent's side gave out; has it expired? \
         A secret that was changed is read at the next start",
        case.trunk_name()
    )))
}

pub(super) fn certificate(case: &Case<'_>) -> Option<Finding> {
    let found = refused(case, Cause::Certificate, "the TLS handshake failed", |words| {
        words.contains("the TLS handshake failed") && !words.contains("no TLS handshake within")
    })?;
    Some(found.next(
        "the words say which: expired, not for this name, from an issuer that is not known (`ca-file`), or a clock that \
         is wrong on this machine (`timedatectl`)",
    ))
}

pub(super) fn name_not_found(case: &Case<'_>) -> Option<Finding> {
    let found =
        refused(case, Cause::NameNotFound, "its name has no address", |words| words.contains("this machine's DNS"))?;
    Some(found.next("`getent hosts HOST` with the host of its url; `resolvectl status` shows who is asked"))
}

pub(super) fn unreachable(case: &Case<'_>) -> Option<Finding> {
    let found = refused(case, Cause::Unreachable, "nobody takes connections there", |words| {
        words.contains("no connection") || words.contains("the connection failed")
    })?;
    Some(found.next("is the agent's server running, and is the port in the url right? Does a firewall stand between?"))
}

pub(super) fn wrong_path(case: &Case<'_>) -> Option<Finding> {
    let found = refused(case, Cause::WrongPath, "its server knows no such path", |words| {
        matches!(status(words), Some(300..400 | 400 | 404 | 405 | 410 | 426))
    })?;
    Some(found.next("compare path and query of its url with what the agent's side documents"))
}

pub(super) fn trunk_busy(case: &Case<'_>) -> Option<Finding> {
    let found = refused(case, Cause::TrunkBusy, "its server had no room, or a fault of its own", |words| {
        matches!(status(words), Some(429 | 500..600))
    })?;
    Some(found.next("show the words to whoever runs the agent; a second trunk in the route would have been tried next"))
}

pub(super) fn trunk_timeout(case: &Case<'_>) -> Option<Finding> {
    let says = "it did not answer in time";
    let found = refused(case, Cause::TrunkTimeout, says, |words| words.contains(" within ")).or_else(|| {
        is(case, EndReason::TrunkTimeout).then(|| {
            Finding::new(Cause::TrunkTimeout, Fault::Trunk, Symptom::Refused, Confidence::Certain)
                .says(format!("trunk {} did not take the call: {says}", case.trunk_name()))
                .by(case, &["end_reason", "seconds"])
        })
    })?;
    Some(found.next(
        "the words say at which stage: a name, a connection (firewall), TLS, or a WebSocket handshake that its server \
         does not answer. `connect-timeout-ms` says how long is waited",
    ))
}

pub(super) fn trunk_refused(case: &Case<'_>) -> Option<Finding> {
    let found = refused(case, Cause::TrunkRefused, "see its words", |_| true).or_else(|| {
        is(case, EndReason::TrunkRefused).then(|| {
            Finding::new(Cause::TrunkRefused, Fault::Trunk, Symptom::Refused, Confidence::Likely)
                .says("no trunk took the call")
                .by(case, &["end_reason", "words"])
        })
    })?;
    Some(found.next("the message `trunk did not take the call` in the journal has the reason of each trunk"))
}

/// A rule about a trunk that did not take the call, where its words or the end fit.
fn refused(case: &Case<'_>, cause: Cause, says: &str, fits: impl Fn(&str) -> bool) -> Option<Finding> {
    let ended_so =
        matches!(case.reason(), Some(EndReason::TrunkRefused | EndReason::TrunkTimeout | EndReason::Abandoned) | None);
    let words = case.last_refusal().filter(|words| ended_so && was_not_taken(case) && fits(words))?;
    let mut finding = Finding::new(cause, Fault::Trunk, Symptom::Refused, Confidence::Certain)
        .says(format!("trunk {} did not take the call: {says}", case.trunk_name()))
        .by(case, &["end_reason"]);
    finding.evidence.push(Evidence { what: "words", value: words.to_owned() });
    Some(finding)
}

/// The HTTP status in the words of a refusal: `... was answered with 401 Unauthorized; ...`.
fn status(words: &str) -> Option<u16> {
    let (_, said) = words.split_once("answered with ")?;
    said.get(..3)?.parse().ok()
}
