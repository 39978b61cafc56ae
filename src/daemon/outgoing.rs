//! Calls that go out, callers who are passed on, and keys that are pressed: whether whoever asks for it may.
//!
//! An operator asks at the control socket, an agent in its messages. Both go by the dial plan of the line, and what is
//! called is what the plan has made of the words that were asked with.

use std::rc::Rc;

use crate::{
    config::{Line, no_such},
    daemon::calls::{Shared, made_up_facts},
    leg::{
        sip::dial_plan::{Refusal, Target},
        websocket::outbound::Fetch,
    },
};

impl Shared {
    /// Calls somebody through the line of this name. Gives the call's id, or says what is wrong and what would do.
    pub(super) fn order_call(self: &Rc<Self>, line: &str, target: &str) -> Result<String, String> {
        let line = named(&self.config().lines, line)?;
        if self.fetches.borrow().contains_key(&line) {
            return self.fetch(line, target);
        }
        let target = self.allowed(line, target)?;
        if let Some(why) = self.why_full() {
            return Err(format!("no call can be placed now: {why}"));
        }
        self.place_call(line, &target)
    }

    /// Fetches the call that a PBX holds ready under this id.
    fn fetch(&self, line: usize, id: &str) -> Result<String, String> {
        if !is_connection_id(id) {
            return Err("wanted the MEDIA_WEBSOCKET_CONNECTION_ID of a channel that the PBX holds ready".to_owned());
        }
        if let Some(why) = self.why_full() {
            return Err(format!("no call can be fetched now: {why}"));
        }
        let call_id = made_up_facts(&self.config().account).call_id;
        let fetch = Fetch { id: id.to_owned(), call_id: call_id.clone() };
        let sent = self.fetches.borrow().get(&line).map(|ids| ids.try_send(fetch).is_ok());
        if sent != Some(true) {
            return Err("too many calls are being fetched".to_owned());
        }
        Ok(call_id.to_string())
    }

    /// Passes the caller of a live call on.
    pub(super) fn order_transfer(&self, call_id: &str, target: &str) -> Result<(), String> {
        let line = self.line_of(call_id)?;
        let target = self.allowed(line, target)?;
        self.pass_on(call_id, &target)
    }

    /// Presses keys in a live call.
    pub(super) fn order_keys(self: &Rc<Self>, call_id: &str, digits: &str) -> Result<(), String> {
        let config = self.config();
        let line = &config.lines[self.line_of(call_id)?];
        if line.kind.sip().is_none() {
            return Err(cannot(line));
        }
        self.press(call_id, &keys(digits)?)
    }

    /// Whom the line at this place of the config may call when this is asked for, or pass a caller on to; or why not, in
    /// words that name no number.
    pub(super) fn allowed(&self, line: usize, target: &str) -> Result<Target, String> {
        allowed(&self.config().lines[line], target)
    }

    fn line_of(&self, call_id: &str) -> Result<usize, String> {
        let calls = self.calls.borrow();
        let live = calls.live.values().find(|live| live.call_id == call_id);
        live.map(|live| live.line)
            .ok_or_else(|| format!("there is no live call {call_id}; `trunkline calls` names them"))
    }
}

pub(super) fn named(lines: &[Line], name: &str) -> Result<usize, String> {
    lines.iter().position(|line| line.name == name && !line.is_gone).ok_or_else(|| {
        let there = lines.iter().filter(|line| !line.is_gone);
        let names: Vec<_> = there.map(|line| line.name.as_str()).collect();
        no_such("line", name, &names)
    })
}

fn allowed(line: &Line, target: &str) -> Result<Target, String> {
    let name = &line.name;
    let Some(sip) = line.kind.sip() else { return Err(cannot(line)) };
    let Some(dial) = &sip.dial else {
        return Err(format!(
            "the line {name} has no dial plan, so nobody may be called through it; write the numbers that may be into the \
             config, e.g. [line.{name}.dial] plan = [\"2??\"], and have it read by `trunkline reload`"
        ));
    };
    dial.plan.target(target).map_err(|refusal| {
        let would_do = match refusal {
            Refusal::NotANumber => {
                format!("wanted e.g. 201, or sip:201@HOST with a HOST of [line.{name}.dial] domains")
            }
            Refusal::TooLong => "no number has more than 32 digits".to_owned(),
            Refusal::UriParts => "wanted sip:NUMBER@HOST alone".to_owned(),
            Refusal::ForeignHost => match dial.plan.domains() {
                [] => format!("[line.{name}.dial] has no `domains`; ask for the number alone"),
                domains => format!("[line.{name}.dial] domains has {}", domains.join(", ")),
            },
            Refusal::NotInPlan => {
                let patterns: Vec<_> = dial.plan.patterns().iter().map(ToString::to_string).collect();
                format!("[line.{name}.dial] plan has {}", patterns.join(", "))
            }
        };
        format!("{refusal}: {would_do}")
    })
}

fn cannot(line: &Line) -> String {
    format!(
        "the line {} is of the kind {}; only one of the kind sip can call somebody, pass a caller on, or press keys",
        line.name,
        line.kind.name()
    )
}

/// The keys of a telephone (RFC 4733 3.2), without what people put between them.
fn keys(text: &str) -> Result<String, &'static str> {
    let is_blank = |c: &char| matches!(c, ' ' | '-');
    let keys: String = text.chars().filter(|c| !is_blank(c)).map(|c| c.to_ascii_uppercase()).collect();
    if keys.is_empty() || !keys.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D')) {
        return Err("wanted keys to press: 0 to 9, *, # and A to D, e.g. '4711#'");
    }
    if keys.len() > MOST_KEYS {
        return Err("too many keys at once; wanted at most 32");
    }
    Ok(keys)
}

/// What may stand in the path of a URL as it is (RFC 3986 2.3). Asterisk's are UUIDs.
fn is_connection_id(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    (1..=128).contains(&id.len()) && id.bytes().all(is_plain)
}

/// They take about six seconds.
const MOST_KEYS: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{self, Config, ProcessEnvironment};

    const CONFIG: &str = r#"
        [line.pbx]
        kind = "sip"
        listen = "127.0.0.1:5070"
        rtp-ports = "61000-61099"
        [line.pbx.dial]
        proxy = "sip:127.0.0.1"
        plan = ["2??", "+49*"]
        domains = ["pbx.example.com"]

        [line.mute]
        kind = "sip"
        listen = "127.0.0.1:5071"
        rtp-ports = "61100-61199"

        [line.bare]
        kind = "sip"
        listen = "127.0.0.1:5072"
        rtp-ports = "61200-61299"
        [line.bare.dial]
        proxy = "sip:127.0.0.1"
        plan = ["201"]

        [line.old]
        kind = "audiosocket"

        [trunk.agent]
        url = "ws://127.0.0.1:8765/ws"
        dialect = "binary"

        [[route]]
        line = "pbx"
        trunks = ["agent"]
        [[route]]
        line = "mute"
        trunks = ["agent"]
        [[route]]
        line = "bare"
        trunks = ["agent"]
        [[route]]
        line = "old"
        trunks = ["agent"]
    "#;

    fn config() -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trunkline.toml");
        fs::write(&path, CONFIG).unwrap();
        config::load(&path, &ProcessEnvironment).unwrap()
    }

    fn asked(line: &str, target: &str) -> Result<Target, String> {
        let config = config();
        allowed(&config.lines[named(&config.lines, line)?], target)
    }

    #[test]
    fn what_the_plan_allows_is_called_as_the_plan_understood_it() {
        let target = asked("pbx", "+49 (30) 123-456").unwrap();
        assert_eq!((target.number.as_str(), target.domain), ("+4930123456", None));
        assert_eq!(asked("pbx", "sip:201@PBX.example.com").unwrap().domain.as_deref(), Some("pbx.example.com"));
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_would_do() {
        for (line, target, said) in [
            ("pxb", "201", "no such line; did you mean `pbx`? (pbx, mute, bare, old)"),
            (
                "old",
                "201",
                "the line old is of the kind audiosocket; only one of the kind sip can call somebody, pass a caller on, or \
                 press keys",
            ),
            (
                "mute",
                "201",
                "the line mute has no dial plan, so nobody may be called through it; write the numbers that may be into \
                 the config, e.g. [line.mute.dial] plan = [\"2??\"], and have it read by `trunkline reload`",
            ),
            ("pbx", "+19005550100", "the dial plan does not allow this number: [line.pbx.dial] plan has 2??, +49*"),
            (
                "pbx",
                "alice",
                "it is not a number of digits, `+`, `*` and `#`: wanted e.g. 201, or sip:201@HOST with a HOST of \
                 [line.pbx.dial] domains",
            ),
            ("pbx", &"2".repeat(40), "the number is too long: no number has more than 32 digits"),
            (
                "pbx",
                "sip:201@evil.example",
                "the dial plan does not list the host of this URI: [line.pbx.dial] domains has pbx.example.com",
            ),
            (
                "bare",
                "sip:201@pbx.example.com",
                "the dial plan does not list the host of this URI: [line.bare.dial] has no `domains`; ask for the number \
                 alone",
            ),
            (
                "pbx",
                "sip:201@pbx.example.com;maddr=evil.example",
                "a URI to be called has no parameters and no headers: wanted sip:NUMBER@HOST alone",
            ),
        ] {
            assert_eq!(asked(line, target).unwrap_err(), said);
        }
    }

    #[test]
    fn an_id_leaves_the_path_of_the_url_as_it_is() {
        assert!(is_connection_id("b7a5ecf5-9a4b-4f8d-8a3a-3b7a0e1f5c55"));
        for bad in ["", "../ari", "a/b", "a?b", "a b", "%2e", ".", "\u{e9}", &"a".repeat(129)] {
            assert!(!is_connection_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_those_of_a_telephone() {
        assert_eq!(keys("4711#").unwrap(), "4711#");
        assert_eq!(keys("47-11 *ad").unwrap(), "4711*AD");
        for bad in ["", " ", "12e", "1,2", "1w2", "+49", "\u{0661}", &"1".repeat(33)] {
            assert!(keys(bad).is_err(), "{bad:?}");
        }
    }
}
