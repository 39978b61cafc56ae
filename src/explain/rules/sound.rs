//! What was heard, or was not: no sound, one-way, choppy, slow.

use super::{is, was_not_taken};
use crate::{
    call::EndReason,
    explain::{Case, Cause, Confidence, Fault, Finding, Kind, Symptom},
};

/// Packets came, and none of them from where the PBX said that it would send from.
pub(super) fn audio_from_elsewhere(case: &Case<'_>) -> Option<Finding> {
    let foreign = case.count("rtp.foreign_packets");
    (foreign >= MANY_PACKETS && foreign > case.count("rtp.packets")).then(|| {
        Finding::new(Cause::AudioFromElsewhere, Fault::Line, hears_nobody(case), Confidence::Certain)
            .says("audio came from another address than the PBX had named, so none of it was heard")
            .by(case, &["rtp.foreign_packets", "rtp.packets", "rtp.peer"])
            .next(
                "direct_media=no and rtp_symmetric=yes at the PBX; if it is behind NAT, set `nat` of the line \
                 (docs/sip.md)",
            )
    })
}

pub(super) fn unreadable_rtp(case: &Case<'_>) -> Option<Finding> {
    let bad = case.count("rtp.bad_packets");
    (bad >= MANY_PACKETS && bad * 2.0 > case.count("rtp.packets")).then(|| {
        Finding::new(Cause::WrongCodec, Fault::Line, hears_nobody(case), Confidence::Likely)
            .says("the PBX sends RTP of a payload type that was not agreed on")
            .by(case, &["rtp.bad_packets", "rtp.packets", "codec"])
            .next("allow=!all,g722,alaw,ulaw at the PBX's endpoint; SRTP towards a line without it looks like this too")
    })
}

pub(super) fn on_hold(case: &Case<'_>) -> Option<Finding> {
    let held = case.count("held_ms").max(case.count("rtp.held_seconds") * 1000.0) / 1000.0;
    (case.line_sent_nothing() && held > 0.0 && held * 2.0 > case.seconds()).then(|| {
        Finding::new(Cause::OnHold, Fault::Line, hears_nobody(case), Confidence::Likely)
            .says("the PBX had the caller on hold for most of the call")
            .by(case, &["uplink.frames", "held_ms", "seconds"])
            .next("did somebody pick the call up and park it? The PBX's own log has who")
    })
}

pub(super) fn no_audio_from_line(case: &Case<'_>) -> Option<Finding> {
    let lasted = case.bridged_seconds().unwrap_or_else(|| case.seconds());
    let nothing = case.line_sent_nothing();
    (nothing && lasted >= LEAST && !was_not_taken(case) && !is(case, EndReason::BadCodec)).then(|| {
        let line = case.line_name();
        let next = match case.kind() {
            Kind::Audiosocket => {
                "Answer() has to come before AudioSocket() in the dialplan, and something has to be bridged to it: \
                 `core show channels verbose` while it lasts"
                    .to_owned()
            }
            Kind::Sip => {
                "does the firewall let the PBX's RTP in (`trunkline check` prints the ports), and is `advertise` \
                          an address that the PBX reaches? `rtp set debug on` in Asterisk shows where it sends"
                    .to_owned()
            }
            Kind::Websocket => {
                "does the vendor's flow stream this track (inbound, or both), and before it hangs up?".to_owned()
            }
            Kind::Local => {
                "is the microphone there and not muted? `trunkline devices --test NAME` shows its level".to_owned()
            }
            Kind::Unknown => format!("look at what [line.{line}] gets from its PBX or vendor"),
        };
        Finding::new(Cause::NoAudioFromLine, Fault::Line, hears_nobody(case), confidence(lasted))
            .says(format!("line {line} sent no audio: the agent heard nothing"))
            .by(case, &["uplink.frames", "uplink.samples", "rtp.packets", "rtp.foreign_packets", "line_leg.in_bytes"])
            .next(next)
    })
}

pub(super) fn wrong_dialect(case: &Case<'_>) -> Option<Finding> {
    let odd: f64 = ["malformed", "unknown", "skipped", "contradicted"]
        .iter()
        .map(|kind| case.count(&format!("trunk_leg.{kind}_messages")))
        .sum();
    (agent_unheard(case)? && odd > 0.0 && case.count("trunk_leg.in_samples") == 0.0).then(|| {
        Finding::new(Cause::WrongDialect, Fault::Trunk, nobody_hears_it(case), Confidence::Likely)
            .says(format!(
                "trunk {} sent messages, but none of them was audio of the dialect {}",
                case.trunk_name(),
                case.text("dialect").unwrap_or("that the config names")
            ))
            .by(
                case,
                &[
                    "trunk_leg.in_messages",
                    "trunk_leg.malformed_messages",
                    "trunk_leg.unknown_messages",
                    "trunk_leg.skipped_messages",
                    "trunk_leg.contradicted_messages",
                    "trunk_leg.in_samples",
                ],
            )
            .next(
                "is `dialect` of the trunk what the agent speaks? `messages of the trunk were dropped` in the journal has \
                 the first of them",
            )
    })
}

pub(super) fn all_taken_back(case: &Case<'_>) -> Option<Finding> {
    let sent = case.count("trunk_leg.in_samples").max(case.count("downlink.flushed_samples"));
    (agent_unheard(case)? && sent > 0.0).then(|| {
        Finding::new(Cause::AllTakenBack, Fault::Trunk, nobody_hears_it(case), Confidence::Likely)
            .says("the agent sent audio, and all of it was flushed before it was heard")
            .by(case, &["trunk_leg.in_samples", "downlink.flushed_samples", "downlink.clears"])
            .next("does the agent clear its speech on any sound? Where `barge-in` of the route does it, raise its threshold")
    })
}

pub(super) fn no_audio_from_trunk(case: &Case<'_>) -> Option<Finding> {
    let lasted = case.bridged_seconds()?;
    agent_unheard(case)?.then(|| {
        let mute = case.count("trunk_leg.in_messages") == 0.0;
        let says = if mute { "sent not one message" } else { "sent no audio" };
        Finding::new(Cause::NoAudioFromTrunk, Fault::Trunk, nobody_hears_it(case), confidence(lasted))
            .says(format!("trunk {} took the call and {says}: the caller heard nothing", case.trunk_name()))
            .by(case, &["downlink.heard_samples", "trunk_leg.in_messages", "trunk_leg.in_samples", "setup.total_ms"])
            .next(
                "the agent's own log has why it does not speak; `trunkline agent --behave say:hello.wav` in its place \
                 shows that the rest works",
            )
    })
}

/// Frames came, and a voice was in none of them.
pub(super) fn silence_from_line(case: &Case<'_>) -> Option<Finding> {
    let lasted = case.bridged_seconds()?;
    let silent = case.is_zero("turns.caller_seconds") && !case.line_sent_nothing();
    (silent && lasted >= LONG && !is(case, EndReason::LineSilent)).then(|| {
        Finding::new(Cause::SilenceFromLine, Fault::Line, Symptom::OneWay, Confidence::Possible)
            .says(format!("line {} sent nothing but silence: the agent heard nobody", case.line_name()))
            .by(case, &["turns.caller_seconds", "uplink.frames", "held_ms"])
            .next(
                "was the caller muted, or is a leg of the PBX one-way? A recording (`record = true`) lets you hear it",
            )
    })
}

pub(super) fn machine_late(case: &Case<'_>) -> Option<Finding> {
    let late = case.count("downlink.late_frames") + case.count("downlink.missed_frames");
    let frames = case.count("downlink.frames") + case.count("downlink.missed_frames");
    (late >= 25.0 && late > frames / 100.0).then(|| {
        Finding::new(Cause::MachineLate, Fault::Daemon, Symptom::Choppy, Confidence::Certain)
            .says("this machine sent frames late or not at all: it was too busy")
            .by(
                case,
                &["downlink.late_frames", "downlink.missed_frames", "downlink.frames", "downlink.lateness.p99_ms"],
            )
            .next("`top` and `vmstat 1` at such a time: what else runs here? Else lower max-calls under [media]")
    })
}

pub(super) fn rtp_loss(case: &Case<'_>) -> Option<Finding> {
    let (lost, came) = (case.count("rtp.lost_packets"), case.figure("rtp.packets")?);
    (lost >= 10.0 && lost > (lost + came) / 100.0).then(|| {
        Finding::new(Cause::RtpLoss, Fault::Line, Symptom::Choppy, Confidence::Certain)
            .says(format!(
                "{:.1} % of the PBX's packets were lost on the way to us: the caller was choppy for the agent",
                100.0 * lost / (lost + came)
            ))
            .by(case, &["rtp.lost_packets", "rtp.packets", "rtp.concealed_samples", "rtp.jitter_ms"])
            .next("look at the network between PBX and this machine: Wi-Fi, a full uplink, a switch port with errors")
    })
}

pub(super) fn rtp_late(case: &Case<'_>) -> Option<Finding> {
    let late = case.count("rtp.late_packets");
    (late >= 10.0 && late > case.figure("rtp.packets")? / 100.0).then(|| {
        Finding::new(Cause::RtpLate, Fault::Line, Symptom::Choppy, Confidence::Certain)
            .says("packets of the PBX came too late to be heard: the caller was choppy for the agent")
            .by(case, &["rtp.late_packets", "rtp.packets", "rtp.jitter_ms", "rtp.target_ms"])
            .next("raise `jitter-max-ms` of the line, or find what delays packets on the way (Wi-Fi, a VPN)")
    })
}

pub(super) fn rtp_loss_to_line(case: &Case<'_>) -> Option<Finding> {
    (case.count("rtp.remote_worst_loss_percent") >= 5.0).then(|| {
        Finding::new(Cause::RtpLossToLine, Fault::Line, Symptom::Choppy, Confidence::Likely)
            .says("the PBX reports that packets of ours were lost: the agent was choppy for the caller")
            .by(case, &["rtp.remote_worst_loss_percent", "rtp.remote_lost_packets", "rtp.remote_jitter_ms"])
            .next("look at the network between this machine and the PBX")
    })
}

pub(super) fn trunk_stutters(case: &Case<'_>) -> Option<Finding> {
    let (underruns, minutes) = (case.count("downlink.underruns"), case.seconds() / 60.0);
    (underruns >= 3.0 && underruns > minutes).then(|| {
        Finding::new(Cause::TrunkStutters, Fault::Trunk, Symptom::Choppy, Confidence::Likely)
            .says(format!(
                "the speech of trunk {} ran dry {underruns} times in mid-utterance: it came slower than it is spoken",
                case.trunk_name()
            ))
            .by(case, &["downlink.underruns", "downlink.heard_samples", "downlink.late_frames", "seconds"])
            .next(
                "the agent makes speech too slowly, or the way from it is bad; `cushion-ms` under [media] hides short \
                 pauses at the price of delay",
            )
    })
}

pub(super) fn trunk_takes_too_little(case: &Case<'_>) -> Option<Finding> {
    let (dropped, rate) = (case.count("uplink.dropped_samples"), case.figure("rate_hz").unwrap_or(8000.0));
    // What was left over when the call ended is among them.
    (case.bridged_seconds().is_some() && dropped > rate).then(|| {
        Finding::new(Cause::TrunkTakesTooLittle, Fault::Trunk, Symptom::Choppy, Confidence::Likely)
            .says(format!(
                "trunk {} read slower than the caller spoke, so {:.1} s were left out",
                case.trunk_name(),
                dropped / rate
            ))
            .by(case, &["uplink.dropped_samples", "uplink.samples", "uplink.sent_samples", "uplink.delay.p99_ms"])
            .next("is the site's uplink full, or is the agent's server slow to read?")
    })
}

pub(super) fn trunk_interrupted(case: &Case<'_>) -> Option<Finding> {
    (case.redials() > 0 && !is(case, EndReason::TrunkLost)).then(|| {
        Finding::new(Cause::TrunkInterrupted, Fault::Trunk, Symptom::Choppy, Confidence::Certain)
            .says(format!("the connection of trunk {} was lost and dialled again in mid-call", case.trunk_name()))
            .next("every call at that moment: the network. This one alone: the agent's process, or its limit of time")
    })
}

pub(super) fn agent_did_not_answer(case: &Case<'_>) -> Option<Finding> {
    let spoke = case.count("turns.caller_seconds") >= 3.0 && case.is_zero("turns.count");
    (spoke && case.count("downlink.heard_samples") > 0.0 && !case.listens_only()).then(|| {
        Finding::new(Cause::AgentDidNotAnswer, Fault::Trunk, Symptom::OneWay, Confidence::Possible)
            .says("the caller spoke, and the agent never answered after it")
            .by(case, &["turns.caller_seconds", "turns.count", "uplink.sent_samples", "downlink.heard_samples"])
            .next("did the agent understand the caller? A recording (`record = true`) lets you hear what it got")
    })
}

pub(super) fn slow_setup(case: &Case<'_>) -> Option<Finding> {
    (case.count("setup.total_ms") >= SLOW_MS).then(|| {
        let stages = ["dns", "connect", "tls", "upgrade"];
        let of = |stage: &&str| case.count(&format!("setup.{stage}_ms"));
        let slowest = stages.iter().copied().max_by(|a, b| of(a).total_cmp(&of(b))).unwrap_or_default();
        let (fault, next) = match slowest {
            _ if case.refusals().next().is_some() => {
                (Fault::Trunk, "another trunk was tried before, and did not take it")
            }
            "dns" if of(&slowest) > 1000.0 => {
                (Fault::Daemon, "`resolvectl status`: this machine's name servers are slow")
            }
            _ => (Fault::Trunk, "the agent's server, or the way to it, is slow in the longest of these stages"),
        };
        Finding::new(Cause::SlowSetup, fault, Symptom::Slow, Confidence::Certain)
            .says(format!("it took {:.1} s until a trunk had taken the call", case.count("setup.total_ms") / 1000.0))
            .by(case, &["setup.total_ms", "setup.dns_ms", "setup.connect_ms", "setup.tls_ms", "setup.upgrade_ms"])
            .next(next)
    })
}

pub(super) fn slow_answers(case: &Case<'_>) -> Option<Finding> {
    let first = case.figure("downlink.first_ms")? - case.figure("setup.total_ms").unwrap_or(0.0);
    let answers = case.count("turns.response_p95_ms");
    (first >= SLOW_MS || answers >= SLOW_MS).then(|| {
        let says = if first >= SLOW_MS {
            format!("trunk {} took the call and said its first word {:.1} s later", case.trunk_name(), first / 1000.0)
        } else {
            format!("trunk {} took up to {:.1} s to answer the caller", case.trunk_name(), answers / 1000.0)
        };
        Finding::new(Cause::SlowAnswers, Fault::Trunk, Symptom::Slow, Confidence::Likely)
            .says(says)
            .by(case, &["setup.total_ms", "downlink.first_ms", "turns.response_p50_ms", "turns.response_p95_ms"])
            .next("the agent is slow to think or to speak; the delay within this machine is in uplink.delay")
    })
}

pub(super) fn cut_off_answers(case: &Case<'_>) -> Option<Finding> {
    let (flushed, clears) = (case.count("downlink.flushed_samples"), case.count("downlink.clears"));
    (clears >= 3.0 && flushed > case.count("downlink.heard_samples")).then(|| {
        Finding::new(Cause::CutOffAnswers, Fault::Trunk, Symptom::Choppy, Confidence::Possible)
            .says("more of the agent's speech was taken back than was heard")
            .by(case, &["downlink.clears", "downlink.flushed_samples", "downlink.heard_samples"])
            .next("the caller talks over it; or it hears its own echo, or noise, and takes that for the caller")
    })
}

/// Whether a trunk took the call long enough ago, and nobody heard it who should have. `None`: no trunk took it, or
/// nobody was to hear it.
fn agent_unheard(case: &Case<'_>) -> Option<bool> {
    let lasted = case.bridged_seconds()?;
    (!case.listens_only()).then(|| {
        lasted >= LEAST && case.is_zero("downlink.heard_samples") && super::trunk_closed_at_once(case).is_none()
    })
}

/// The line sent nothing: was it one-way?
fn hears_nobody(case: &Case<'_>) -> Symptom {
    if case.count("downlink.heard_samples") > 0.0 { Symptom::OneWay } else { Symptom::NoSound }
}

/// The agent was not heard: was it one-way?
fn nobody_hears_it(case: &Case<'_>) -> Symptom {
    if case.line_sent_nothing() { Symptom::NoSound } else { Symptom::OneWay }
}

/// Of a call that was short it may be that somebody only hung up soon.
fn confidence(lasted: f64) -> Confidence {
    match lasted {
        ..LONG => Confidence::Likely,
        _ => Confidence::Certain,
    }
}

/// A direction without a sound says nothing before this (s).
const LEAST: f64 = 1.0;
/// After this (s) somebody would have spoken.
const LONG: f64 = 5.0;
/// What takes so long (ms) is noticed: people take more than 3 s for a dead line.
const SLOW_MS: f64 = 3000.0;
/// Half a second of RTP, at 20 ms a packet.
const MANY_PACKETS: f64 = 25.0;
