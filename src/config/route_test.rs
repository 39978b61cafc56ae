//! Which trunk would take a call of a line, in which order, and why: said by the config alone.

use core::fmt;

use super::{Config, Line, LineKind, SinkKind, Trunk, file::no_such};
use crate::call::attention::BargeIn;

/// What becomes of a call of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTest {
    /// What is said, one line each; those of a trunk begin with its number.
    pub says: Vec<String>,
}

impl Config {
    /// What becomes of a call of this line, from and to these numbers.
    ///
    /// # Errors
    /// There is no such line, or nothing takes its calls; it says what would do.
    pub fn route_test(&self, line: &str, from: Option<&str>, to: Option<&str>) -> Result<RouteTest, String> {
        let names: Vec<_> = self.lines.iter().map(|line| line.name.as_str()).collect();
        let Some(index) = names.iter().position(|name| *name == line) else {
            return Err(no_such("line", line, &names));
        };
        let Line { name, kind, .. } = &self.lines[index];
        let Some(route) = self.routes.iter().find(|route| route.line == index) else {
            return Err(format!("no [[route]] names the line {name}: its calls would be refused"));
        };
        let mut says = vec![format!("a call on line {name} ({}{})", kind.name(), where_it_listens(kind))];
        if from.is_some() || to.is_some() {
            says.push(
                "its numbers are told to the agent, where the dialect has room for them; no route goes by them"
                    .to_owned(),
            );
        }
        let mut waited = 0;
        for (n, &trunk) in route.trunks.iter().enumerate() {
            let trunk = &self.trunks[trunk];
            says.push(format!("{}. {}", n + 1, tried(trunk, n, waited)));
            waited += trunk.longest_dial().as_millis();
        }
        match (route.trunks.is_empty(), kind.sip()) {
            (true, _) => says.push("no trunk is dialled: the call is for the sinks alone".to_owned()),
            (false, Some(sip)) => says.push(format!(
                "if none takes it within {} s: the PBX is told {}",
                sip.ringing.limit.as_secs(),
                sip.ringing.fallback.as_ref().map_or_else(
                    || sip.ringing.refuse_status.to_string(),
                    |fallback| format!("to send the caller to {fallback} (302)")
                )
            )),
            (false, None) => says.push(format!(
                "if none takes it, after {:.1} s at most: the line is hung up, and {}",
                waited as f64 / 1000.0,
                match kind {
                    LineKind::Audiosocket { .. } => "the caller goes on in the dialplan",
                    LineKind::Websocket(_) => "the vendor goes on with its own flow",
                    LineKind::Sip(_) | LineKind::Sound(_) | LineKind::Pipe(_) => "that was the call",
                }
            )),
        }
        if let BargeIn::Flush | BargeIn::Notify = route.barge_in {
            says.push("our own detector hears when the caller speaks over the agent".to_owned());
        }
        for &sink in &route.sinks {
            let sink = &self.sinks[sink];
            let kind = match sink.kind {
                SinkKind::Webhook { .. } => "webhook",
                SinkKind::Redis { .. } => "Redis",
            };
            says.push(format!("sink {} ({kind}) is told of it", sink.name));
        }
        if route.record {
            says.push("it is recorded".to_owned());
        }
        Ok(RouteTest { says })
    }
}

fn where_it_listens(kind: &LineKind) -> String {
    match kind {
        LineKind::Audiosocket { listen, .. } => format!(", {listen}"),
        LineKind::Websocket(_) | LineKind::Sip(_) | LineKind::Sound(_) | LineKind::Pipe(_) => String::new(),
    }
}

fn tried(trunk: &Trunk, n: usize, waited_ms: u128) -> String {
    let Trunk { name, url, dialect, .. } = trunk;
    let why = match n {
        0 => "it is the first in `trunks`".to_owned(),
        _ => format!("the ones before it did not, within {:.1} s", waited_ms as f64 / 1000.0),
    };
    let attempts = match trunk.attempts() {
        1 => String::new(),
        attempts => format!(", {attempts} times"),
    };
    let asks = if url.asks { "asks " } else { "dials " };
    format!(
        "trunk {name} takes it, because {why}: {asks}{url} in dialect {dialect}{attempts}, within {:.1} s",
        trunk.longest_dial().as_secs_f64()
    )
}

impl fmt::Display for RouteTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.says.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::{self, ProcessEnvironment};

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        fs::write(&path, text).unwrap();
        config::load(Path::new(&path), &ProcessEnvironment).unwrap()
    }

    const TEXT: &str = "[line.pbx]\nkind = \"audiosocket\"\n[trunk.first]\nurl = \"wss://a.example.com/ws?token=x\"\n\
        dialect = \"ozonetel\"\n[trunk.second]\nurl = \"wss://b.example.com/\"\ndialect = \"exotel\"\n\
        [[route]]\nline = \"pbx\"\ntrunks = [\"first\", \"second\"]\n";

    #[test]
    fn trunks_are_told_in_the_order_in_which_they_are_tried_and_why() {
        let told = config(TEXT).route_test("pbx", Some("201"), None).unwrap().says;
        assert_eq!(
            told,
            [
                "a call on line pbx (audiosocket, 127.0.0.1:9092)",
                "its numbers are told to the agent, where the dialect has room for them; no route goes by them",
                "1. trunk first takes it, because it is the first in `trunks`: dials wss://a.example.com/ws?... in dialect \
                 ozonetel, within 5.0 s",
                "2. trunk second takes it, because the ones before it did not, within 5.0 s: dials wss://b.example.com/ in \
                 dialect exotel, 2 times, within 10.0 s",
                "if none takes it, after 15.0 s at most: the line is hung up, and the caller goes on in the dialplan",
            ]
        );
    }

    #[test]
    fn a_line_that_is_not_there_is_told_with_those_that_are() {
        let error = config(TEXT).route_test("pbxx", None, None).unwrap_err();
        assert_eq!(error, "no such line; did you mean `pbx`? (pbx)");
    }
}
