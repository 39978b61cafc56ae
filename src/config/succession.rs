//! A config that takes the place of the one that a running daemon has.
//!
//! Calls, lines and trunks know each other by their places in the config, as long as they live. So what both have keeps
//! its place, what is new stands behind it, and what the new one does not name any more stays where it is and is gone: no
//! call comes by it, and those that it has go on.
//!
//! Threads, rings and whatever else was measured out at the start stay as they are. What of the new config would need
//! others waits for a restart, and is told.

use super::{
    Config, Line, LineKind, Sink, Trunk,
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

        let rate = self.line_rate();
        if rate > old.line_rate() {
            waits.push(format!("the room for speech, which was measured for lines of at most {}", old.line_rate()));
        }
        let (trunks, trunk_places) = merged(&old.trunks, core::mem::take(&mut self.trunks));
        let (mut lines, line_places) = merged(&old.lines, core::mem::take(&mut self.lines));
        self.trunks = trunks;
        let sinks = self.keep_the_sinks(old, &mut waits);
        let mut telnyx = self.telnyx.take();
        if let Some(telnyx) = &mut telnyx {
            telnyx.line = line_places[telnyx.line];
        }
        let telnyx_waits = telnyx != old.telnyx;
        if telnyx_waits {
            waits.push("[telnyx]".to_owned());
        }
        self.telnyx.clone_from(&old.telnyx);
        for route in &mut self.routes {
            route.line = line_places[route.line];
            route.trunks.iter_mut().for_each(|trunk| *trunk = trunk_places[*trunk]);
            route.sinks = route.sinks.iter().filter_map(|&sink| sinks[sink]).collect();
            if route.record && self.keep.recordings.is_none() {
                route.record = false;
                waits.push(format!("the recording of [line.{}]", lines[route.line].name));
            }
        }
        // Who tells sinks alone, and none of them is there yet, has nobody.
        self.routes.retain(|route| !route.trunks.is_empty() || !route.sinks.is_empty());

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
                None => {
                    waits.push(format!("[line.{}], whose sinks are new", line.name));
                    line.is_gone = true;
                }
            }
            // Whatever is open is served: what waits, as it was.
            if !line.is_gone && !is_served {
                self.routes.extend(old.routes.iter().find(|route| route.line == place).cloned());
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
        if (&self.account, self.control.drain) != (&old.account, old.control.drain) {
            told.push("account or drain-seconds change".to_owned());
        }
        Succession { config: self, opens, closes, changes, told, waits }
    }

    fn keep_what_was_measured_out(&mut self, old: &Self, waits: &mut Vec<String>) {
        let drain = self.control.drain;
        self.control.drain = old.control.drain;
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
        self.keep.clone_from(&old.keep);
    }

    /// The sinks stay; gives where each of the new ones is among them, by its name.
    fn keep_the_sinks(&mut self, old: &Self, waits: &mut Vec<String>) -> Vec<Option<usize>> {
        let new = core::mem::replace(&mut self.sinks, old.sinks.clone());
        let differs = new.iter().filter(|sink| !old.sinks.contains(sink));
        let is_left_out = |sink: &&Sink| new.iter().all(|new| new.name != sink.name);
        let waiting = differs.chain(old.sinks.iter().filter(is_left_out));
        waits.extend(waiting.map(|sink| format!("[sink.{}]", sink.name)));
        new.iter().map(|new| old.sinks.iter().position(|sink| sink.name == new.name)).collect()
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
        assert_eq!(told, ["account or drain-seconds change"]);
        assert_eq!((config.media.max_calls, config.control.http), (old.media.max_calls, old.control.http));
        assert_eq!((config.control.drain.as_secs(), config.records.full_numbers), (7, false));
        assert!(config.sinks.is_empty() && config.routes == old.routes, "{config:?}");
    }

    #[test]
    fn a_sink_that_changes_is_told_of_calls_as_it_was() {
        let with = |secret: &str, sinks: &str| {
            config(&format!(
                "[sinks]\ndirectory = \"spools\"\n[sink.crm]\nkind = \"webhook\"\nurl = \"https://127.0.0.1/\"\nsecret = {{ env = \
                 \"{secret}\" }}\n[sink.more]\nkind = \"webhook\"\nurl = \"https://127.0.0.2/\"\n[line.a]\nkind = \
                 \"audiosocket\"\n[[route]]\nline = \"a\"\ntrunks = []\nsinks = [{sinks}]\n"
            ))
        };
        let old = with("IS_OLD", "\"more\", \"crm\"");
        let changed = with("IS_NEW", "\"crm\"").succeed(&old);
        assert_eq!(changed.waits, ["[sink.crm]"]);
        assert_eq!((&changed.config.sinks, changed.config.routes[0].sinks.as_slice()), (&old.sinks, &[0][..]));
        // One that only comes by this file has nothing to be told by; its line goes on as it was.
        let text = "[sinks]\ndirectory = \"spools\"\n[sink.crm]\nkind = \"webhook\"\nurl = \"https://127.0.0.1/\"\n[line.a]\nkind \
                    = \"audiosocket\"\n[[route]]\nline = \"a\"\ntrunks = []\nsinks = [\"crm\"]\n";
        let (old, new) = (config(text), config(&text.replace("crm", "erp")));
        let Succession { config, waits, closes, .. } = new.succeed(&old);
        assert_eq!(waits, ["[sink.erp]", "[sink.crm]"]);
        assert_eq!((config.routes, closes), (old.routes, Vec::new()));
    }

    #[test]
    fn what_telnyx_needs_stays_with_it() {
        let line = "[line.telnyx]\nkind = \"websocket\"\nlisten = \"127.0.0.1:8443\"\nplain = true\n[[line.telnyx.path]]\npath = \
                    \"/media\"\ndialect = \"telnyx\"\n[[route]]\nline = \"telnyx\"\ntrunks = [\"agent\"]\n";
        let telnyx = "[telnyx]\npublic-key = \"IbKMHXVpJbj1bLUMczT5OZlMiKjwB0fGm/VtEOSrsLA=\"\npublic-url = \
                      \"https://voice.example.com\"\nline = \"telnyx\"\nstream-path = \"/media\"\napi-key = { env = \"IS_KEY\" }\n";
        let old = config(&format!("{telnyx}{AGENT}{line}"));
        let Succession { config, opens, closes, waits, .. } = of(&[("a", 1)]).succeed(&old);
        assert_eq!(waits, ["[telnyx]", "[line.telnyx], which [telnyx] names"]);
        assert_eq!((names(&config), opens, closes), (vec![("telnyx", false), ("a", false)], vec![1], Vec::new()));
        assert_eq!((config.routes.len(), &config.telnyx), (2, &old.telnyx), "its calls are served as before");
    }

    /// One of many configs of a few lines, trunks and sinks.
    fn any(mut dice: impl FnMut(u32) -> u32) -> Config {
        let mut text = String::from("[sinks]\ndirectory = \"spools\"\n");
        if dice(2) > 0 {
            text.push_str("[recordings]\ndirectory = \"heard\"\n");
        }
        let trunks: Vec<_> = (0..3).filter(|_| dice(3) > 0).map(|n| format!("t{n}")).collect();
        for name in &trunks {
            text += &format!("[trunk.{name}]\nurl = \"ws://127.0.0.1:{}/\"\ndialect = \"binary\"\n", 1 + dice(2));
        }
        let sinks: Vec<_> = (0..3).filter(|_| dice(3) > 0).map(|n| format!("s{n}")).collect();
        for name in &sinks {
            text += &format!("[sink.{name}]\nkind = \"webhook\"\nurl = \"https://127.0.0.1/{}\"\n", dice(2));
        }
        let mut place = 0;
        for n in [4, 1, 3, 0, 2] {
            if dice(3) == 0 {
                continue;
            }
            place += 10;
            let port = 7000 + place + dice(2);
            text += &match dice(4) {
                0 => format!("[line.l{n}]\nkind = \"audiosocket\"\nlisten = \"127.0.0.1:{port}\"\n"),
                1 => format!(
                    "[line.l{n}]\nkind = \"sip\"\nlisten = \"127.0.0.1:{port}\"\nallow = [\"10.0.0.{n}\"]\nrtp-ports = \
                     \"6{n}000-6{n}099\"\n"
                ),
                2 => format!("[line.l{n}]\nkind = \"pipe\"\nlisten = \"/tmp/l{n}-{}.sock\"\n", dice(2)),
                _ => format!(
                    "[line.l{n}]\nkind = \"websocket\"\ndial = \"ws://127.0.0.1:{port}/\"\ndialect = \"twilio\"\n"
                ),
            };
            let some = |names: &[String], dice: &mut dyn FnMut(u32) -> u32| {
                names.iter().filter(|_| dice(2) > 0).cloned().collect::<Vec<_>>()
            };
            let (mut trunks, own) = (some(&trunks, &mut dice), some(&sinks, &mut dice));
            if trunks.is_empty() && own.is_empty() {
                trunks.push("agent".to_owned());
            }
            let own = if own.is_empty() { String::new() } else { format!("sinks = {own:?}\n") };
            text += &format!("[[route]]\nline = \"l{n}\"\ntrunks = {trunks:?}\n{own}");
        }
        config(&format!("{text}{AGENT}{}", audiosocket("home", 6999)))
    }

    #[test]
    fn whatever_follows_whatever_each_open_line_is_served_and_nothing_loses_its_place() {
        let mut state = 0x2545_f491_u32;
        let mut dice = |sides: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) % sides
        };
        let mut old = any(&mut dice);
        for _ in 0..1000 {
            let new = any(&mut dice);
            let Succession { config, opens, closes, changes, .. } = new.clone().succeed(&old);
            for (before, after) in old.lines.iter().zip(&config.lines) {
                assert!(before.is_the_same(after), "{before:?} {after:?}");
            }
            assert!(old.trunks.iter().zip(&config.trunks).all(|(before, after)| before.is_the_same(after)));
            assert_eq!(config.sinks, old.sinks);
            for (place, line) in config.lines.iter().enumerate() {
                let routes = config.routes.iter().filter(|route| route.line == place).count();
                assert_eq!(routes, usize::from(!line.is_gone), "{line:?} {:?}", config.routes);
                let was_open = old.lines.get(place).is_some_and(|line| !line.is_gone);
                assert_eq!(opens.contains(&place), !was_open && !line.is_gone);
                assert_eq!(closes.contains(&place), was_open && line.is_gone);
                assert!(!changes.contains(&place) || (was_open && !line.is_gone));
            }
            for route in &config.routes {
                assert!(route.trunks.iter().all(|&trunk| trunk < config.trunks.len()));
                assert!(route.sinks.iter().all(|&sink| sink < config.sinks.len()));
                assert!(!route.trunks.is_empty() || !route.sinks.is_empty());
            }
            // The same file once more changes no line.
            let again = new.succeed(&config);
            assert!([again.opens, again.closes, again.changes].iter().all(Vec::is_empty));
            assert_eq!(again.config.lines, config.lines);
            old = config;
        }
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
