//! What may have been the matter with a call, one small rule each. The order is that of the answer: the first rule that
//! fits is what most likely was the matter, because what ended a call hides whatever else it had.

use super::{Case, Cause, Confidence, Diagnosis, Fault, Finding, Kind, Symptom};
use crate::{call::EndReason, control::messages};

mod dial;
mod sound;

/// Applies every rule.
#[must_use]
pub fn diagnose(case: &Case<'_>) -> Diagnosis {
    let mut found = RULES.iter().filter_map(|group| group.iter().find_map(|rule| rule(case)));
    let main = found.next().unwrap_or_else(|| how_it_ended(case));
    Diagnosis { main, also: found.collect() }
}

type Rule = fn(&Case<'_>) -> Option<Finding>;

/// Of a group the first that fits is told: the rest would say the same in more general words.
const RULES: &[&[Rule]] = &[
    &[
        bug,
        cut,
        overload,
        dial::bad_token,
        dial::certificate,
        dial::name_not_found,
        dial::unreachable,
        dial::wrong_path,
        dial::trunk_busy,
        dial::trunk_timeout,
        dial::trunk_refused,
        wrong_codec,
        trunk_lost,
        protocol,
        trunk_closed_at_once,
        line_lost,
        never_came,
    ],
    &[sound::audio_from_elsewhere, sound::unreadable_rtp, sound::on_hold, sound::no_audio_from_line],
    &[line_silent],
    &[sound::wrong_dialect, sound::all_taken_back, sound::no_audio_from_trunk],
    &[sound::machine_late],
    &[sound::rtp_loss, sound::rtp_late],
    &[sound::rtp_loss_to_line],
    &[sound::trunk_stutters],
    &[sound::trunk_takes_too_little],
    &[sound::trunk_interrupted],
    &[sound::slow_setup],
    &[sound::slow_answers],
    &[sound::cut_off_answers],
    &[sound::silence_from_line, sound::agent_did_not_answer],
];

/// Messages without a call's id that tell what became of calls while they are live.
pub const AROUND: &[&str] = &[
    messages::STARTED,
    messages::STOPPED,
    messages::DRAINING,
    messages::CALLS_REFUSED,
    messages::CARD_OUT,
    messages::CARD_THERE,
    messages::NOT_REGISTERED,
    messages::RECORDS_FAILING,
    messages::LINES_DROPPED,
    messages::MEDIA_ENDED,
    messages::THREAD_SILENT,
    messages::PANIC,
];

fn bug(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::Bug).then(|| {
        Finding::new(Cause::Bug, Fault::Daemon, Symptom::Dropped, Confidence::Certain)
            .says("a fault of Trunkline ended this call; the others went on")
            .by(case, &["end_reason", "words"])
            .next("report it with the message `a thread panicked` and what stands around it in the journal")
    })
}

fn cut(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::Cut).then(|| {
        Finding::new(Cause::Cut, Fault::Daemon, Symptom::Dropped, Confidence::Certain)
            .says("the daemon was killed, or the power failed, while the call was live")
            .by(case, &["end_reason"])
            .next(
                "`journalctl -u trunkline -b -1 -n 50` shows the last words before it: the watchdog, the kernel's \
                 out-of-memory killer (`journalctl -k -b -1 -g oom`), or nothing at all, which is the power",
            )
    })
}

fn overload(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::Overload).then(|| {
        Finding::new(Cause::Overload, Fault::Daemon, Symptom::Refused, Confidence::Certain)
            .says("there was no room for the call, or the machine did not keep up with those it had")
            .by(case, &["end_reason"])
            .next(
                "see `why=` of the message `calls are refused` at that time. All seats taken: raise max-calls under \
                 [media]. Frames that leave late: lower it, or find out by `top` what else this machine does",
            )
    })
}

fn wrong_codec(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::BadCodec).then(|| {
        let next = match case.kind() {
            Kind::Audiosocket => {
                "name a codec that is plain samples in the dialplan: Dial(AudioSocket/HOST:PORT/UUID/c(slin16)), or \
                 c(slin); `trunkline dialplan` prints it"
            }
            Kind::Sip => "let the PBX offer only what `codecs` of the line names: alaw, ulaw, g722",
            Kind::Websocket | Kind::Local | Kind::Unknown => "compare the codec that the line sends with its config",
        };
        Finding::new(Cause::WrongCodec, Fault::Line, Symptom::NoSound, Confidence::Certain)
            .says(format!("line {} sent audio in a codec that cannot be read", case.line_name()))
            .by(case, &["end_reason", "words", "codec"])
            .next(next)
    })
}

fn trunk_lost(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::TrunkLost).then(|| {
        let (says, next) = if case.text("words").is_some_and(|words| words.contains("closed with code")) {
            (
                "closed its connection with an error",
                "ask whoever runs the agent what this close code means there (RFC 6455 7.4.1: 1011 is a fault of the \
                 server, 1012 a restart, 1013 try again later)",
            )
        } else {
            (
                "broke off",
                "was it this call alone? Then the agent's process ended. All calls at that moment: the network, or the \
                 server; `journalctl -u trunkline END_REASON=trunk-lost` lists them",
            )
        };
        Finding::new(Cause::TrunkLost, Fault::Trunk, Symptom::Dropped, Confidence::Certain)
            .says(format!("trunk {} {says}", case.trunk_name()))
            .by(case, &["end_reason", "words", "seconds"])
            .next(next)
    })
}

fn protocol(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::Protocol).then(|| {
        let of_trunk = case.text("ended_by") == Some("trunk");
        let (cause, fault, who) = if of_trunk {
            (Cause::TrunkProtocol, Fault::Trunk, format!("trunk {}", case.trunk_name()))
        } else {
            (Cause::LineProtocol, Fault::Line, format!("line {}", case.line_name()))
        };
        Finding::new(cause, fault, Symptom::Dropped, Confidence::Certain)
            .says(format!("{who} sent what its protocol does not have"))
            .by(case, &["end_reason", "words", "dialect", "line_dialect"])
            .next("the words name the rule; does the other side speak the dialect that the config names?")
    })
}

/// An agent that takes a call and closes at once mostly does not know the account, the number or the path.
fn trunk_closed_at_once(case: &Case<'_>) -> Option<Finding> {
    let closed = matches!(case.reason(), Some(EndReason::TrunkHungUp | EndReason::HandedBack));
    let at_once = case.bridged_seconds().is_some_and(|seconds| seconds < AT_ONCE);
    (closed && at_once && case.is_zero("downlink.heard_samples") && !case.listens_only()).then(|| {
        Finding::new(Cause::TrunkClosedAtOnce, Fault::Trunk, Symptom::Dropped, Confidence::Likely)
            .says(format!("trunk {} took the call and closed it before it had said anything", case.trunk_name()))
            .by(case, &["end_reason", "seconds", "setup.total_ms", "downlink.heard_samples", "words"])
            .next("the agent's own log has why: an account, a number or a parameter that it does not know")
    })
}

fn line_lost(case: &Case<'_>) -> Option<Finding> {
    is(case, EndReason::LineLost).then(|| {
        Finding::new(Cause::LineLost, Fault::Line, Symptom::Dropped, Confidence::Certain)
            .says(format!("the connection of line {} broke off without a goodbye", case.line_name()))
            .by(case, &["end_reason", "words", "peer"])
            .next(match case.kind() {
                Kind::Local => "look at the card: `trunkline devices`",
                _ => "did the PBX restart or crash at that time? Otherwise it is the network between",
            })
    })
}

fn line_silent(case: &Case<'_>) -> Option<Finding> {
    (is(case, EndReason::LineSilent) && !case.line_sent_nothing()).then(|| {
        Finding::new(Cause::LineSilent, Fault::Line, Symptom::Dropped, Confidence::Certain)
            .says(format!("line {} stopped sending audio and did not hang up", case.line_name()))
            .by(case, &["end_reason", "words", "uplink.frames", "held_ms"])
            .next(match case.kind() {
                Kind::Sip => "was the BYE lost, or does the PBX send nothing while a caller is on hold? See `hold`",
                _ => "did the vendor forget to hang up, or does it send silence as nothing? See media-timeout-seconds",
            })
    })
}

fn never_came(case: &Case<'_>) -> Option<Finding> {
    case.lines.iter().any(|line| line.is(messages::TELNYX_NO_STREAM)).then(|| {
        Finding::new(Cause::NeverCame, Fault::Line, Symptom::NoSound, Confidence::Certain)
            .says("the call was answered at Telnyx, and its audio never came")
            .next("can Telnyx reach the stream URL of [telnyx]? `a connection did not become a call` tells of a try")
    })
}

/// Where no rule fits.
fn how_it_ended(case: &Case<'_>) -> Finding {
    let nobody =
        |says: &str| Finding::plain(Cause::NothingWrong, Fault::Nobody).says(says).by(case, &["end_reason", "seconds"]);
    let fine =
        "if somebody complained all the same: a recording (`record = true` in the route) lets you hear what they heard";
    match case.reason() {
        None if case.is_over => nobody("it ended for a reason that this version does not know"),
        None => Finding::plain(Cause::NotOver, Fault::Nobody)
            .says("the call is live, or its end is in a part of the log that was not read")
            .next("`trunkline calls` shows the live ones"),
        Some(EndReason::Abandoned) => Finding::new(
            Cause::Abandoned,
            Fault::Line,
            Symptom::Refused,
            Confidence::Certain,
        )
        .says(format!("the caller hung up after {} s, before a trunk had answered", case.seconds()))
        .by(case, &["end_reason", "seconds"])
        .next("nothing, where the caller was impatient; the trunk's usual time is in setup.total_ms of other calls"),
        Some(EndReason::Drained) => {
            Finding::new(Cause::Stopped, Fault::Operator, Symptom::Dropped, Confidence::Certain)
                .says("the daemon was stopped while the call was live")
                .by(case, &["end_reason"])
                .next("`drain-seconds` under [control] says how long live calls may go on then")
        }
        Some(EndReason::Operator) => {
            Finding::new(Cause::EndedByHand, Fault::Operator, Symptom::Dropped, Confidence::Certain)
                .says("somebody ended it by `trunkline hangup`")
                .by(case, &["end_reason"])
                .next("the message `call is hung up by order` says which user it was")
        }
        Some(EndReason::LineHungUp) => nobody("the caller's side hung up, and no figure stands out").next(fine),
        Some(EndReason::TrunkHungUp) => {
            nobody("the agent's side hung up in order, and no figure stands out").next(fine)
        }
        Some(EndReason::HandedBack) => {
            nobody("the agent closed, and the vendor of the line went on with its own flow").next(fine)
        }
        Some(
            EndReason::TrunkRefused
            | EndReason::TrunkTimeout
            | EndReason::TrunkLost
            | EndReason::LineLost
            | EndReason::LineSilent
            | EndReason::BadCodec
            | EndReason::Protocol
            | EndReason::Overload
            | EndReason::Cut
            | EndReason::Bug,
        ) => Finding::new(Cause::LineSilent, Fault::Line, Symptom::NoSound, Confidence::Possible)
            .says("the line went silent before it had sent anything")
            .by(case, &["end_reason", "words", "seconds"])
            .next("look at what the PBX or vendor did at that time"),
    }
}

impl Finding {
    fn new(cause: Cause, fault: Fault, symptom: Symptom, confidence: Confidence) -> Self {
        Self { symptom: Some(symptom), confidence, ..Self::plain(cause, fault) }
    }

    fn plain(cause: Cause, fault: Fault) -> Self {
        let (says, next) = (String::new(), String::new());
        Self { fault, symptom: None, cause, confidence: Confidence::Certain, says, evidence: Vec::new(), next }
    }

    fn says(self, says: impl Into<String>) -> Self {
        Self { says: says.into(), ..self }
    }

    fn by(self, case: &Case<'_>, names: &[&'static str]) -> Self {
        Self { evidence: case.evidence(names), ..self }
    }

    fn next(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }
}

fn is(case: &Case<'_>, reason: EndReason) -> bool {
    case.reason() == Some(reason)
}

/// Whether no trunk has taken it.
fn was_not_taken(case: &Case<'_>) -> bool {
    case.figure("setup.total_ms").is_none() && case.text("trunk").is_none()
}

/// A call that a trunk has closed before this (s) was closed at once.
const AT_ONCE: f64 = 3.0;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::explain::{LogLine, Material};

    /// The closing line of a call on which nothing was wrong, as the daemon logged it.
    const GOOD: &str = "[2025-07-25T07:23:18.049Z INFO ] call ended call_id=k3vqd2mxa7re line=pbx trunk=agent \
        dialect=ozonetel end_reason=line-hung-up ended_by=line direction=both codec=slin rate=8000 seconds=92.418 \
        bridged_ms=212 first_heard_ms=871 frames_up=4620 frames_down=4588 samples_up=739200 samples_heard=409600 \
        dropped=0 underruns=1 late=2 missed=0 flushed=24000 repaid=480 clears=1 marks=12 digits=1 messages_in=160 \
        messages_out=9225 malformed=0 unknown=1 skipped=0 contradicted=0 clamped=0 lost=-1 concealed=-1 jitter_ms=-1 \
        round_trip_ms=-1 packets=-1 late_packets=-1 foreign=-1 bad_packets=-1 remote_loss_percent=-1 samples_in=434080 \
        held_ms=0 caller_ms=31540 turns=6 words=";
    /// What of it is otherwise on a call of SIP.
    const SIP: &str = "packets=4588 late_packets=3 foreign=0 bad_packets=0 lost=3 concealed=480 jitter_ms=4.4 \
        remote_loss_percent=0";
    /// What of it is otherwise where no trunk took it.
    const NOT_TAKEN: &str = "trunk=none dialect=none bridged_ms=-1 first_heard_ms=-1 samples_heard=0 samples_in=0 \
        messages_in=0 messages_out=0 turns=-1 caller_ms=-1 seconds=0.4";

    /// The good line with these fields in place of its own.
    fn closing(changes: &[&str]) -> String {
        let mut line = GOOD.to_owned();
        for change in changes {
            // Words may have blanks, and are last.
            let (fields, words) =
                change.split_once("words=").map_or((*change, None), |(fields, words)| (fields, Some(words)));
            for field in fields.split_whitespace() {
                let key = format!(" {}=", field.split('=').next().unwrap());
                let start = line.find(&key).unwrap_or_else(|| panic!("{key} is not in the closing line"));
                let end = line[start + 1..].find(' ').map_or(line.len(), |len| start + 1 + len);
                line.replace_range(start + 1..end, field);
            }
            line += words.unwrap_or_default();
        }
        line
    }

    fn diagnosed(lines: &[String]) -> Diagnosis {
        let lines = lines.iter().filter_map(|line| LogLine::parse(line)).collect();
        let material = Material { lines, ..Material::default() };
        diagnose(&Case::of("k3vqd2mxa7re", &material))
    }

    fn started(fields: &str) -> String {
        format!("[2025-07-25T07:21:45.631Z INFO ] call started call_id=k3vqd2mxa7re line=pbx {fields}")
    }

    fn refusal(error: &str) -> String {
        format!(
            "[2025-07-25T07:21:45.840Z WARN ] trunk did not take the call call_id=k3vqd2mxa7re leg=trunk trunk=agent \
             dialect=ozonetel peer=a:443 attempt=1 error={error}"
        )
    }

    use Cause as C;
    use Fault::{Daemon, Line, Nobody, Operator, Trunk};
    use Symptom::{Choppy, Dropped, NoSound, OneWay, Refused, Slow};

    /// Fields of the closing line that are otherwise, and what is to be said about it.
    type Row = (&'static [&'static str], Fault, Option<Symptom>, Cause);

    const BY_ITS_END: &[Row] = &[
        (&[], Nobody, None, C::NothingWrong),
        (&["end_reason=trunk-hung-up ended_by=trunk"], Nobody, None, C::NothingWrong),
        (&["end_reason=handed-back ended_by=trunk"], Nobody, None, C::NothingWrong),
        (&["end_reason=bug ended_by=daemon"], Daemon, Some(Dropped), C::Bug),
        (&["end_reason=cut ended_by=daemon"], Daemon, Some(Dropped), C::Cut),
        (&[NOT_TAKEN, "end_reason=overload ended_by=daemon frames_up=0"], Daemon, Some(Refused), C::Overload),
        (
            &["end_reason=bad-codec frames_up=0 words=the PBX sends a compressed codec"],
            Line,
            Some(NoSound),
            C::WrongCodec,
        ),
        (&["end_reason=trunk-lost words=the agent closed with code 1011"], Trunk, Some(Dropped), C::TrunkLost),
        (&["end_reason=trunk-lost"], Trunk, Some(Dropped), C::TrunkLost),
        (
            &["end_reason=trunk-lost samples_heard=0 words=the agent closed with code 1008"],
            Trunk,
            Some(Dropped),
            C::BadToken,
        ),
        (
            &["end_reason=trunk-hung-up seconds=0.9 samples_heard=0 first_heard_ms=-1"],
            Trunk,
            Some(Dropped),
            C::TrunkClosedAtOnce,
        ),
        (&["end_reason=protocol ended_by=trunk words=a text is not UTF-8"], Trunk, Some(Dropped), C::TrunkProtocol),
        (&["end_reason=protocol ended_by=line"], Line, Some(Dropped), C::LineProtocol),
        (&["end_reason=line-lost words=connection reset"], Line, Some(Dropped), C::LineLost),
        (&["end_reason=line-silent words=no RTP came any more", SIP], Line, Some(Dropped), C::LineSilent),
        (&[NOT_TAKEN, "end_reason=abandoned seconds=2.5"], Line, Some(Refused), C::Abandoned),
        (&[NOT_TAKEN, "end_reason=trunk-timeout"], Trunk, Some(Refused), C::TrunkTimeout),
        (&[NOT_TAKEN, "end_reason=trunk-refused"], Trunk, Some(Refused), C::TrunkRefused),
        (&["end_reason=drained ended_by=daemon"], Operator, Some(Dropped), C::Stopped),
        (&["end_reason=operator ended_by=operator"], Operator, Some(Dropped), C::EndedByHand),
    ];

    const BY_ITS_SOUND: &[Row] = &[
        (&["frames_up=0 samples_up=0 caller_ms=0"], Line, Some(OneWay), C::NoAudioFromLine),
        (&["frames_up=0 samples_up=0 caller_ms=0 samples_heard=0"], Line, Some(NoSound), C::NoAudioFromLine),
        (&["end_reason=line-silent frames_up=0 packets=0 samples_heard=0"], Line, Some(NoSound), C::NoAudioFromLine),
        // On SIP the agent is sent silence for what does not come.
        (&[SIP, "packets=0 lost=0 caller_ms=0"], Line, Some(OneWay), C::NoAudioFromLine),
        (&["frames_up=0 held_ms=80000"], Line, Some(OneWay), C::OnHold),
        (&[SIP, "frames_up=0 packets=0 foreign=4500"], Line, Some(OneWay), C::AudioFromElsewhere),
        (&[SIP, "frames_up=0 packets=4500 bad_packets=4500"], Line, Some(OneWay), C::WrongCodec),
        (
            &["samples_heard=0 first_heard_ms=-1 samples_in=0 messages_in=0 unknown=0 flushed=0"],
            Trunk,
            Some(OneWay),
            C::NoAudioFromTrunk,
        ),
        (&["samples_heard=0 samples_in=0 malformed=160"], Trunk, Some(OneWay), C::WrongDialect),
        (&["samples_heard=0 samples_in=0 unknown=160"], Trunk, Some(OneWay), C::WrongDialect),
        (&["samples_heard=0 unknown=0 flushed=434080 clears=9"], Trunk, Some(OneWay), C::AllTakenBack),
        (&["samples_heard=0 samples_in=0 direction=uplink turns=0"], Nobody, None, C::NothingWrong),
        (&["late=900 missed=40"], Daemon, Some(Choppy), C::MachineLate),
        (&[SIP, "lost=320 concealed=51200"], Line, Some(Choppy), C::RtpLoss),
        (&[SIP, "late_packets=200"], Line, Some(Choppy), C::RtpLate),
        (&[SIP, "remote_loss_percent=9"], Line, Some(Choppy), C::RtpLossToLine),
        (&["underruns=38"], Trunk, Some(Choppy), C::TrunkStutters),
        (&["dropped=96000"], Trunk, Some(Choppy), C::TrunkTakesTooLittle),
        (&["caller_ms=0 turns=0"], Line, Some(OneWay), C::SilenceFromLine),
        (&["turns=0"], Trunk, Some(OneWay), C::AgentDidNotAnswer),
        (&["bridged_ms=4200 first_heard_ms=4900"], Trunk, Some(Slow), C::SlowSetup),
        (&["first_heard_ms=7300"], Trunk, Some(Slow), C::SlowAnswers),
        (&["clears=9 flushed=900000"], Trunk, Some(Choppy), C::CutOffAnswers),
    ];

    const BY_WORDS: &[(&str, Cause)] = &[
        ("a:443: the WebSocket handshake was answered with 401 Unauthorized; check the token", C::BadToken),
        ("a:443: the WebSocket handshake was answered with 403 Forbidden: no; check the token", C::BadToken),
        ("a:443: the TLS handshake failed: the certificate expired on 2025-07-01", C::Certificate),
        ("a:443: no such name; check the url, and this machine's DNS with `getent hosts a`", C::NameNotFound),
        ("a:443: no connection to 10.0.0.5:443: connection refused; check the port", C::Unreachable),
        ("a:443: the WebSocket handshake was answered with 404 Not Found; check the path in the url", C::WrongPath),
        ("a:443: the WebSocket handshake was answered with 503 Service Unavailable; try later", C::TrunkBusy),
        ("a:443: no WebSocket handshake within 5000 ms; something takes connections there", C::TrunkTimeout),
        ("there is no such dialect", C::TrunkRefused),
    ];

    #[test]
    fn each_end_and_each_figure_names_its_leg_and_its_cause() {
        for (changes, fault, symptom, cause) in BY_ITS_END.iter().chain(BY_ITS_SOUND) {
            let found = diagnosed(&[closing(changes)]);
            let main = &found.main;
            assert_eq!((main.fault, main.symptom, main.cause), (*fault, *symptom, *cause), "{changes:?}: {found:#?}");
            let is_fine = *cause == C::NothingWrong;
            assert!(!is_fine || found.also.is_empty(), "{changes:?}: {found:#?}");
            assert!(is_fine || (!main.evidence.is_empty() && !main.next.is_empty()), "{main:?}");
        }
    }

    #[test]
    fn the_words_of_a_trunk_that_did_not_take_a_call_say_why() {
        let ended = closing(&[NOT_TAKEN, "end_reason=trunk-refused"]);
        for (words, cause) in BY_WORDS {
            let found = diagnosed(&[started("uuid=u peer=192.0.2.10:5"), refusal(words), ended.clone()]);
            assert_eq!((found.main.fault, found.main.cause), (Trunk, *cause), "{words}");
            assert_eq!(found.main.evidence.last().unwrap().value, *words);
            assert!(found.also.is_empty(), "{found:#?}");
        }
    }

    #[test]
    fn a_trunk_that_refused_is_forgiven_where_another_took_the_call() {
        let refused = refusal("a:443: the WebSocket handshake was answered with 401 Unauthorized");
        assert_eq!(diagnosed(&[refused, closing(&[])]).main.cause, C::NothingWrong);
    }

    #[test]
    fn a_redial_in_mid_call_is_told_and_a_call_without_an_end_is_not_over() {
        let again =
            "[2025-07-25T07:22:00.000Z INFO ] the trunk is dialled again call_id=k3vqd2mxa7re tries=1".to_owned();
        assert_eq!(diagnosed(&[again, closing(&[])]).main.cause, C::TrunkInterrupted);
        assert_eq!(diagnosed(&[started("")]).main.cause, C::NotOver);
        let silent =
            "[2025-07-25T07:22:00.000Z WARN ] no stream came from Telnyx call_control_id=v3 call_id=k3vqd2mxa7re";
        assert_eq!(diagnosed(&[silent.to_owned()]).main.cause, C::NeverCame);
    }

    #[test]
    fn what_ended_a_call_comes_first_and_what_it_had_besides_is_told_too() {
        let found = diagnosed(&[closing(&["end_reason=trunk-lost underruns=38 late=900"])]);
        let also: Vec<_> = found.also.iter().map(|finding| finding.cause).collect();
        assert_eq!((found.main.cause, also), (C::TrunkLost, vec![C::MachineLate, C::TrunkStutters]));
    }

    #[test]
    fn the_next_step_is_one_for_the_kind_of_line() {
        let ended = || closing(&["frames_up=0 samples_up=0"]);
        for (fields, words) in [
            ("uuid=u peer=192.0.2.10:5", "AudioSocket()"),
            ("peer=192.0.2.10:5 codec=PCMU call_sid=c", "RTP"),
            ("dialect=exotel peer=192.0.2.10:5", "stream this track"),
            ("", "microphone"),
        ] {
            let found = diagnosed(&[started(fields), ended()]);
            assert!(found.main.next.contains(words), "{fields}: {}", found.main.next);
        }
    }

    #[test]
    fn every_cause_is_found_by_something_and_explained_on_its_page() {
        let rows = BY_ITS_END.iter().chain(BY_ITS_SOUND).map(|row| row.3).chain(BY_WORDS.iter().map(|row| row.1));
        let others = [C::TrunkInterrupted, C::NotOver, C::NeverCame];
        let found: HashSet<_> = rows.chain(others).map(Cause::as_str).collect();
        let (_, page) = include_str!("../../docs/explain.md").split_once("## The causes").unwrap();
        for (cause, meaning) in Cause::ALL {
            assert!(found.contains(cause.as_str()), "{cause} is in no row of this test");
            assert!(page.contains(&format!("| `{cause}` | {meaning} |")), "{cause} is not in docs/explain.md");
        }
        assert_eq!(page.matches("\n| `").count(), Cause::ALL.len(), "docs/explain.md has more");
    }
}
