//! A config that takes the place of the one that a running daemon has.
//!
//! Calls, lines and trunks know each other by their places in the config, as long as they live. So what both have keeps
//! its place, what is new stands behind it, and what the new one does not name any more stays where it is and is gone: no
//! call comes by it, and those that it has go on.
//!
//! Threads, rings and whatever else was measured out at the start stay as they are. What of the new config would need
//! others waits for a restart, and is told.

use super::{
    Config, Line, LineKind, Trunk,
    pipe::{PipeEnd, PipeSource},
};

/// What comes of a config that takes the place of another.
#[derive(Debug)]
pub struct Succession {
    /// The config from now on.
    pub config: Config,
    /// Lines that are opened, by their places in it.
    pub opens: Vec<usize>,
    /// Lines that are gone.
    pub closes: Vec<usize>,
    /// Lines that are open and not as they were.
    pub changes: Vec<usize>,
    /// What is different, in words.
    pub told: Vec<String>,
    /// What would be, but waits for a restart, in words.
    pub waits: Vec<String>,
}

impl Config {
    /// Puts this config in the place of the one in use.
    #[must_use]
    pub fn succeed(mut self, old: &Self) -> Succession {
        let mut waits = Vec::new();
        self.keep_what_was_measured_out(old, &mut waits);
        let mut told = Vec::new();

        let (trunks, trunk_places) = merged(&old.trunks, core::mem::take(&mut self.trunks));
        let (mut lines, line_places) = merged(&old.lines, core::mem::take(&mut self.lines));
        let sinks: Vec<_> = self.sinks.iter().map(|new| old.sinks.iter().position(|sink| sink == new)).collect();
        self.replace_sinks(old, &mut waits);
        let mut telnyx = self.telnyx.take();
        if let Some(telnyx) = &mut telnyx {
            telnyx.line = line_places[telnyx.line];
        }
        let telnyx_waits = telnyx != old.telnyx;
        if telnyx_waits {
            waits.push("[telnyx]".to_owned());
        }
        self.telnyx.clone_from(&old.telnyx);

        self.trunks = trunks;
        for route in &mut self.routes {
            route.line = line_places[route.line];
            route.trunks.iter_mut().for_each(|trunk| *trunk = trunk_places[*trunk]);
            route.sinks = route.sinks.iter().filter_map(|&sink| sinks[sink]).collect();
        }
        // A line that tells sinks alone, and whose sinks are not there yet, has nobody.
        self.routes.retain(|route| {
            let is_served = !route.trunks.is_empty() || !route.sinks.is_empty();
            if !is_served {
                waits.push(format!("[line.{}], whose only sink is new", lines[route.line].name));
            }
            is_served
        });
        if self.keep.recordings.is_none() {
            for route in self.routes.iter_mut().filter(|route| route.record) {
                route.record = false;
                waits.push(format!("the recording of [line.{}]", lines[route.line].name));
            }
        }

        let (mut opens, mut closes, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for (place, line) in lines.iter_mut().enumerate() {
            let before = old.lines.get(place).filter(|line| !line.is_gone);
            let is_served = self.routes.iter().any(|route| route.line == place);
            let serves_telnyx = telnyx_waits && old.telnyx.as_ref().is_some_and(|telnyx| telnyx.line == place);
            match before {
                Some(before) if serves_telnyx && (line.is_gone || line.kind != before.kind) => {
                    waits.push(format!("[line.{}], which [telnyx] names", line.name));
                    *line = before.clone();
                }
                Some(_) if line.is_gone => closes.push(place),
                Some(before) if line.kind == before.kind => {}
                Some(before) if can_change(&before.kind, &line.kind) => changes.push(place),
                Some(before) => {
                    waits.push(format!("[line.{}], as it is of a kind that is opened once", line.name));
                    *line = before.clone();
                }
                None if line.is_gone => {}
                None if is_served => opens.push(place),
                // Its route waits, and so does it.
                None => line.is_gone = true,
            }
        }
        self.lines = lines;
        for (what, places) in [("opens", &opens), ("closes", &closes), ("changes", &changes)] {
            told.extend(places.iter().map(|&place| format!("line {} {what}", self.lines[place].name)));
        }
        self.tell_of_trunks(old, &mut told);
        if self.routes != old.routes {
            told.push("routes change".to_owned());
        }
        if (&self.account, self.control.drain, self.records.full_numbers)
            != (&old.account, old.control.drain, old.records.full_numbers)
        {
            told.push("account, drain-seconds or full-numbers change".to_owned());
        }
        Succession { config: self, opens, closes, changes, told, waits }
    }

    fn keep_what_was_measured_out(&mut self, old: &Self, waits: &mut Vec<String>) {
        let drain = self.control.drain;
        self.control.drain = old.control.drain;
        let full_numbers = self.records.full_numbers;
        self.records.full_numbers = old.records.full_numbers;
        for (table, differs) in [
            ("[media]", self.media != old.media),
            ("[control]", self.control != old.control),
            ("[records]", self.records != old.records),
            ("[events], [call-files], [recordings] or [sinks]", self.keep != old.keep),
        ] {
            if differs {
                waits.push(table.to_owned());
            }
        }
        self.media.clone_from(&old.media);
        self.control.clone_from(&old.control);
        self.control.drain = drain;
        self.records.clone_from(&old.records);
        self.records.full_numbers = full_numbers;
        self.keep.clone_from(&old.keep);
    }

    fn replace_sinks(&mut self, old: &Self, waits: &mut Vec<String>) {
        for new in self.sinks.iter().filter(|new| !old.sinks.contains(new)) {
            waits.push(format!("[sink.{}]", new.name));
        }
        self.sinks.clone_from(&old.sinks);
    }

    fn tell_of_trunks(&self, old: &Self, told: &mut Vec<String>) {
        for (place, trunk) in self.trunks.iter().enumerate() {
            let before = old.trunks.get(place).filter(|trunk| !trunk.is_gone);
            let what = match before {
                Some(_) if trunk.is_gone => "is gone",
                Some(before) if before != trunk => "changes",
                None if !trunk.is_gone => "is new",
                Some(_) | None => continue,
            };
            told.push(format!("trunk {} {what}", trunk.name));
        }
    }
}

/// What can be gone.
trait Placed: Clone {
    fn is_the_same(&self, other: &Self) -> bool;
    fn set_gone(&mut self);
}

impl Placed for Line {
    fn is_the_same(&self, other: &Self) -> bool {
        self.name == other.name && self.kind.name() == other.kind.name()
    }

    fn set_gone(&mut self) {
        self.is_gone = true;
    }
}

impl Placed for Trunk {
    fn is_the_same(&self, other: &Self) -> bool {
        self.name == other.name
    }

    fn set_gone(&mut self) {
        self.is_gone = true;
    }
}

/// The new ones at the places of the old, with those that are gone between them. Says also where each of the new is now.
fn merged<T: Placed>(old: &[T], new: Vec<T>) -> (Vec<T>, Vec<usize>) {
    let mut all = old.to_vec();
    all.iter_mut().for_each(T::set_gone);
    let mut places = Vec::with_capacity(new.len());
    for one in new {
        let place = old.iter().position(|old| old.is_the_same(&one)).unwrap_or(all.len());
        places.push(place);
        if let Some(there) = all.get_mut(place) { *there = one } else { all.push(one) }
    }
    (all, places)
}

/// Whether a line can become the other while it has calls.
fn can_change(from: &LineKind, to: &LineKind) -> bool {
    match (from, to) {
        (LineKind::Sip(from), LineKind::Sip(to)) => from.has_the_sockets_of(to),
        (LineKind::Pipe(from), LineKind::Pipe(to)) => {
            let is_reopened = |source: &PipeSource| {
                matches!(source, PipeSource::Socket(_) | PipeSource::Ends { input: PipeEnd::Fifo(_), .. })
            };
            is_reopened(&from.source) && is_reopened(&to.source)
        }
        (LineKind::Audiosocket { .. } | LineKind::Websocket(_) | LineKind::Sound(_), _) => true,
        (LineKind::Sip(_) | LineKind::Pipe(_), _) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Environment};

    struct Given;

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            name.strip_prefix("IS_").map(str::to_owned)
        }

        fn credentials_dir(&self) -> Option<std::path::PathBuf> {
            None
        }
    }

    fn config(text: &str) -> Config {
        config::parse(Path::new("t.toml"), text, &Given).unwrap_or_else(|problems| panic!("{problems}"))
    }

    const AGENT: &str = "[trunk.agent]\nurl = \"ws://127.0.0.1:1/\"\ndialect = \"binary\"\n";

    fn audiosocket(name: &str, port: u16) -> String {
        format!(
            "[line.{name}]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{port}\"\n[[route]]\nline = \"{name}\"\n\
             trunks = [\"agent\"]\n"
        )
    }

    fn of(lines: &[(&str, u16)]) -> Config {
        let lines: String = lines.iter().map(|(name, port)| audiosocket(name, *port)).collect();
        config(&format!("{AGENT}{lines}"))
    }

    fn names(config: &Config) -> Vec<(&str, bool)> {
        config.lines.iter().map(|line| (line.name.as_str(), line.is_gone)).collect()
    }

    #[test]
    fn what_both_have_keeps_its_place_whatever_the_order_in_the_file() {
        let old = of(&[("a", 1), ("b", 2), ("c", 3)]);
        let Succession { config, opens, closes, changes, waits, .. } =
            of(&[("d", 4), ("c", 33), ("a", 1)]).succeed(&old);
        assert_eq!(names(&config), [("a", false), ("b", true), ("c", false), ("d", false)]);
        assert_eq!((opens, closes, changes, waits), (vec![3], vec![1], vec![2], Vec::new()));
        let lines: Vec<_> = config.routes.iter().map(|route| route.line).collect();
        assert_eq!(lines, [3, 2, 0], "each route is of the line that it named");
    }

    #[test]
    fn what_comes_back_comes_to_its_old_place() {
        let first = of(&[("a", 1), ("b", 2)]);
        let second = of(&[("b", 2)]).succeed(&first).config;
        let Succession { config, opens, told, .. } = of(&[("b", 2), ("a", 7)]).succeed(&second);
        assert_eq!(names(&config), [("a", false), ("b", false)]);
        assert_eq!(opens, [0]);
        assert_eq!(told, ["line a opens", "routes change"]);
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let old = of(&[("a", 1)]);
        let same = of(&[("a", 1)]).succeed(&old);
        assert!(same.told.is_empty() && same.waits.is_empty(), "{same:?}");
        assert_eq!(same.config, old);
    }

    #[test]
    fn a_line_of_another_kind_is_another_line() {
        let old = of(&[("a", 1)]);
        let new = config(&format!(
            "{AGENT}[line.a]\nkind = \"pipe\"\nlisten = \"/tmp/a.sock\"\n[[route]]\nline = \"a\"\ntrunks = [\"agent\"]\n"
        ));
        let Succession { config, opens, closes, .. } = new.succeed(&old);
        assert_eq!(names(&config), [("a", true), ("a", false)]);
        assert_eq!((opens, closes), (vec![1], vec![0]));
    }

    #[test]
    fn trunks_keep_their_places_and_their_new_secrets() {
        let trunks = |agent: &str, more: &str| {
            config(
                &format!("{}{agent}\n{more}{}", AGENT.trim_end(), audiosocket("a", 1))
                    .replace("binary\"", "binary\"\n"),
            )
        };
        let spare = "[trunk.spare]\nurl = \"ws://127.0.0.1:2/\"\ndialect = \"binary\"\n";
        let old = trunks("\nbearer = { env = \"IS_OLD\" }", spare);
        let Succession { config, told, .. } = trunks("\nbearer = { env = \"IS_NEW\" }", "").succeed(&old);
        let shown: Vec<_> = config.trunks.iter().map(|trunk| (trunk.name.as_str(), trunk.is_gone)).collect();
        assert_eq!(shown, [("agent", false), ("spare", true)]);
        assert_eq!(config.trunks[0].authorization.as_ref().unwrap().reveal(), "Bearer NEW");
        assert_eq!(told, ["trunk agent changes", "trunk spare is gone"]);
        assert!(!format!("{told:?}").contains("NEW"));
    }

    #[test]
    fn what_was_measured_out_at_the_start_waits_for_the_next() {
        let old = of(&[("a", 1)]);
        let more = "[media]\nmax-calls = 99\n[control]\ndrain-seconds = 7\nhttp = \"127.0.0.1:9\"\n[records]\ndirectory = \
                    \"kept\"\nfull-numbers = true\n[recordings]\ndirectory = \"heard\"\n[sink.crm]\nkind = \"webhook\"\nurl = \
                    \"https://127.0.0.1/\"\n[sinks]\ndirectory = \"spools\"\n";
        let new = config(&format!(
            "{more}{AGENT}[line.a]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:1\"\n[[route]]\nline = \"a\"\ntrunks = \
             [\"agent\"]\nrecord = true\nsinks = [\"crm\"]\n"
        ));
        let Succession { config, told, waits, .. } = new.succeed(&old);
        assert_eq!(
            waits,
            [
                "[media]",
                "[control]",
                "[records]",
                "[events], [call-files], [recordings] or [sinks]",
                "[sink.crm]",
                "the recording of [line.a]"
            ]
        );
        assert_eq!(told, ["account, drain-seconds or full-numbers change"]);
        assert_eq!((config.media.max_calls, config.control.http), (old.media.max_calls, old.control.http));
        assert_eq!((config.control.drain.as_secs(), config.records.full_numbers), (7, true));
        assert!(config.sinks.is_empty() && config.routes == old.routes, "{config:?}");
    }

    #[test]
    fn a_sip_line_changes_with_its_sockets_and_waits_without_them() {
        let sip = |listen: &str, more: &str| {
            config(&format!(
                "{AGENT}[line.a]\nkind = \"sip\"\nlisten = \"{listen}\"\nrtp-ports = \"61000-61099\"\n{more}\n[[route]]\n\
                 line = \"a\"\ntrunks = [\"agent\"]\n"
            ))
        };
        let old = sip("127.0.0.1:5070", "allow = [\"127.0.0.1\"]");
        let changed = sip("127.0.0.1:5070", "allow = [\"127.0.0.2\"]").succeed(&old);
        assert_eq!((changed.changes, changed.waits), (vec![0], Vec::new()));
        let moved = sip("127.0.0.1:5071", "allow = [\"127.0.0.1\"]").succeed(&old);
        assert_eq!(moved.waits, ["[line.a], as it is of a kind that is opened once"]);
        assert_eq!(moved.config.lines, old.lines);
    }
}
