//! What happened in a call, one step after another, as a person would tell it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Case, Kind, LogLine};
use crate::{call::EndReason, control::messages};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When (ms since 1970); `None`: what was kept does not say.
    pub at_ms: Option<u64>,
    /// What happened.
    pub says: String,
}

/// The steps of a call, by time.
#[must_use]
pub fn story(case: &Case<'_>) -> Vec<Step> {
    let start = case.started_ms();
    let after = |name: &str| Some(start? + case.figure(name)? as u64);
    let mut steps = vec![Step { at_ms: start, says: how_it_came(case) }];
    let mut add = |at_ms: Option<u64>, says: String| steps.push(Step { at_ms, says });
    for line in &case.lines {
        if let Some(says) = of_line(case, line) {
            add(line.at_ms, says);
        }
    }
    if case.figure("setup.total_ms").is_some() {
        add(after("setup.total_ms"), how_it_was_taken(case));
    }
    if case.figure("uplink.first_ms").is_some() && !case.line_sent_nothing() {
        add(after("uplink.first_ms"), "the line's first audio came".to_owned());
    }
    if case.figure("downlink.first_ms").is_some() {
        add(after("downlink.first_ms"), "the agent was heard for the first time".to_owned());
    }
    for event in &case.events {
        if let Some(says) = of_event(event) {
            add(event.get("at").and_then(Value::as_str).and_then(ms_of), says);
        }
    }
    for line in &case.around {
        add(line.at_ms, format!("(all calls) {}", line.text));
    }
    // What has no time keeps its place behind the start; what happened at once, the order in which it is told.
    let first = start.unwrap_or_default();
    steps.sort_by_key(|step| step.at_ms.unwrap_or(first));
    let mut steps = folded(steps);
    if case.is_over {
        steps.push(Step { at_ms: case.ended_ms(), says: how_it_went(case) });
    }
    steps
}

/// `2025-07-25 07:21:45.631`, UTC.
#[must_use]
pub fn time_of(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let text = format!("{:.3}", at.unwrap_or(Timestamp::UNIX_EPOCH));
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

fn how_it_came(case: &Case<'_>) -> String {
    let kind = match case.kind() {
        Kind::Audiosocket => " by AudioSocket".to_owned(),
        Kind::Sip => " by SIP".to_owned(),
        Kind::Websocket => format!(" by WebSocket ({})", case.text("line_dialect").unwrap_or("its own dialect")),
        Kind::Local | Kind::Unknown => String::new(),
    };
    let from = case.text("peer").map(|peer| format!(" from {peer}")).unwrap_or_default();
    let caller = case.text("from").map(|number| format!(", caller {number}")).unwrap_or_default();
    let called = case.text("to").map(|number| format!(", called {number}")).unwrap_or_default();
    format!("the call came in on line {}{from}{kind}{caller}{called}", case.line_name())
}

fn how_it_was_taken(case: &Case<'_>) -> String {
    let stage = |label: &str, name: &str| case.figure(name).filter(|&ms| ms > 0.0).map(|ms| format!("{label} {ms}"));
    let stages: Vec<_> = [
        stage("name", "setup.dns_ms"),
        stage("connection", "setup.connect_ms"),
        stage("TLS", "setup.tls_ms"),
        stage("WebSocket", "setup.upgrade_ms"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let stages = if stages.is_empty() { String::new() } else { format!(" ({} ms)", stages.join(", ")) };
    let dialect = case.text("dialect").map(|dialect| format!(" in dialect {dialect}")).unwrap_or_default();
    format!("trunk {} has the call{dialect}{stages}", case.trunk_name())
}

fn how_it_went(case: &Case<'_>) -> String {
    let words = case.text("words").map(|words| format!(": {words}")).unwrap_or_default();
    let reason = match case.reason() {
        Some(EndReason::LineHungUp) => "the line hung up",
        Some(EndReason::TrunkHungUp) => "the agent hung up",
        Some(EndReason::HandedBack) => "the agent closed, and the vendor took the caller back",
        Some(EndReason::Abandoned) => "the caller hung up before a trunk had answered",
        Some(EndReason::TrunkRefused) => "no trunk took it",
        Some(EndReason::TrunkTimeout) => "no trunk answered in time",
        Some(EndReason::TrunkLost) => "the trunk broke off",
        Some(EndReason::LineLost) => "the line's connection broke off",
        Some(EndReason::LineSilent) => "the line had gone silent",
        Some(EndReason::BadCodec) => "the line's audio could not be read",
        Some(EndReason::Protocol) => "a side broke its protocol",
        Some(EndReason::Overload) => "there was no room for it",
        Some(EndReason::Drained) => "the daemon was stopped",
        Some(EndReason::Operator) => "somebody ended it by order",
        Some(EndReason::Cut) => "the daemon was killed, or the power failed",
        Some(EndReason::Bug) => "a fault of ours ended it",
        None => "it ended",
    };
    let spelled = case.text("end_reason").map(|reason| format!(" ({reason})")).unwrap_or_default();
    let lasted = case.figure("seconds").map(|seconds| format!(" after {seconds:.1} s")).unwrap_or_default();
    format!("over{lasted}: {reason}{spelled}{words}")
}

/// A line of the log, where the figures do not tell the same.
fn of_line(case: &Case<'_>, line: &LogLine) -> Option<String> {
    if line.is(messages::CALL_STARTED) || line.is(messages::CALL_ENDED) {
        return None;
    }
    if line.is(messages::TRUNK_ANSWERED) {
        // The first is told with the call's own figures, where they are known.
        let first = case.lines.iter().find(|other| other.is(messages::TRUNK_ANSWERED));
        let is_told = case.figure("setup.total_ms").is_some() && first.is_some_and(|first| core::ptr::eq(*first, line));
        return (!is_told).then(|| format!("trunk {} answered", line.field("trunk").unwrap_or("-")));
    }
    if line.is(messages::TRUNK_REFUSED) {
        let (trunk, error) = (line.field("trunk").unwrap_or("-"), line.field("error").unwrap_or("it does not say why"));
        return Some(format!("trunk {trunk} did not take it: {error}"));
    }
    // Whatever else there is says itself what it is; whose it is was said above.
    let own = [format!(" call_id={}", case.call_id), format!(" line={}", case.line_name())];
    let text = own.iter().fold(line.text.clone(), |text, said| {
        // `line=pbx` is not the beginning of `line=pbx2`.
        match text.split_once(said.as_str()) {
            Some((before, after)) if after.is_empty() || after.starts_with(' ') => format!("{before}{after}"),
            _ => text,
        }
    });
    Some(text)
}

/// An event, where it is one that tells something of a fault. Speech that began and stopped, marks and what was said are
/// many, and are in the event log.
fn of_event(event: &Map<String, Value>) -> Option<String> {
    let details = event.get("details")?;
    let ms = |key: &str| details[key].as_u64();
    Some(match event.get("event")?.as_str()? {
        "rebridged" => "another connection took the place of the one before".to_owned(),
        "digit" => match details["digit"].as_str() {
            Some(digit) => format!("the caller pressed {digit}"),
            None => "the caller pressed a key".to_owned(),
        },
        "cleared" => format!("the agent took back {} ms of its speech", ms("unheard_ms").unwrap_or(0)),
        "barge-in" => match ms("flushed_ms") {
            Some(flushed) => format!("the caller spoke over the agent, and {flushed} ms of it were flushed"),
            None => "the caller spoke over the agent".to_owned(),
        },
        "answered" => format!("the agent answered {} ms after the caller's last word", ms("delay_ms").unwrap_or(0)),
        "fault" => {
            format!("the agent's side told of a fault: {}", details["words"].as_str().unwrap_or("without words"))
        }
        "held" => "the line put the caller on hold".to_owned(),
        "resumed" => "the line took the caller back".to_owned(),
        "transfer-asked" => "the agent asked for the caller to be passed on".to_owned(),
        "transfer" => match (details["state"].as_str(), ms("status")) {
            (Some(state), Some(status)) => format!("passing the caller on: {state} ({status})"),
            (state, _) => format!("passing the caller on: {}", state.unwrap_or("it does not say how")),
        },
        "digits-asked" => format!("the agent asked for {} keys to be pressed", details["count"]),
        _ => return None,
    })
}

/// Steps of one kind that follow one another become one: a story of forty answers is none.
fn folded(steps: Vec<Step>) -> Vec<Step> {
    // They differ in nothing but numbers.
    let kind = |step: &Step| step.says.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let mut told: Vec<(Step, usize)> = Vec::new();
    for step in steps {
        match told.last_mut() {
            Some((last, count)) if kind(last) == kind(&step) => *count += 1,
            _ => told.push((step, 1)),
        }
    }
    let again = |(step, count): (Step, usize)| match count {
        1 => step,
        _ => Step { says: format!("{}; and {} more of this kind", step.says, count - 1), ..step },
    };
    told.into_iter().map(again).collect()
}

fn ms_of(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Timestamp>().ok()?.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Material;

    fn told(lines: &[&str]) -> Vec<String> {
        let lines = lines.iter().filter_map(|line| LogLine::parse(line)).collect();
        let material = Material { lines, ..Material::default() };
        let case = Case::of("k3vqd2mxa7re", &material);
        story(&case).into_iter().map(|step| step.says).collect()
    }

    #[test]
    fn the_journal_alone_tells_a_call_from_its_start_to_its_end() {
        let told = told(&[
            "[2025-07-25T07:21:45.631Z INFO ] call started call_id=k3vqd2mxa7re line=pbx uuid=u peer=192.0.2.10:5",
            "[2025-07-25T07:21:45.640Z WARN ] trunk did not take the call call_id=k3vqd2mxa7re leg=trunk trunk=first \
             dialect=binary peer=a:1 attempt=1 error=a:1: no connection to 10.0.0.1:1: refused",
            "[2025-07-25T07:21:45.843Z INFO ] trunk answered call_id=k3vqd2mxa7re leg=trunk trunk=agent dialect=binary \
             peer=10.0.0.5:443 cipher=none dns_ms=18 connect_ms=41 tls_ms=0 upgrade_ms=63",
            "[2025-07-25T07:23:18.049Z INFO ] call ended call_id=k3vqd2mxa7re line=pbx trunk=agent dialect=binary \
             end_reason=line-hung-up seconds=92.418 bridged_ms=212 first_heard_ms=871 words=",
        ]);
        assert_eq!(
            told,
            [
                "the call came in on line pbx from 192.0.2.10:5 by AudioSocket",
                "trunk first did not take it: a:1: no connection to 10.0.0.1:1: refused",
                "trunk agent has the call in dialect binary (name 18, connection 41, WebSocket 63 ms)",
                "the agent was heard for the first time",
                "over after 92.4 s: the line hung up (line-hung-up)",
            ]
        );
    }

    #[test]
    fn what_happens_again_and_again_is_told_once() {
        let answered = |ms: u64| Step { at_ms: Some(ms), says: format!("the agent answered {ms} ms after the caller") };
        let steps = folded((0..40).map(answered).collect());
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].says, "the agent answered 0 ms after the caller; and 39 more of this kind");
    }

    #[test]
    fn a_line_that_nobody_knows_is_told_as_it_is() {
        let told = told(&[
            "[2025-07-25T07:21:45.631Z INFO ] call started call_id=k3vqd2mxa7re line=pbx",
            "[2025-07-25T07:21:46.631Z WARN ] something new call_id=k3vqd2mxa7re line=pbx2 why=so",
        ]);
        assert_eq!(told[1], "something new line=pbx2 why=so");
    }
}
