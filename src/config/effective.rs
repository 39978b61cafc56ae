//! Every value that a config comes to, and where each came from.
//!
//! What is written is read from the file, what is not from the table of docs/config.md, which is the one place where the
//! defaults stand in words. Secrets are never opened: it says which they are, not what.

use std::path::Path;

use toml::de::DeTable;

use super::{
    Environment,
    file::{File, Section, Value},
    resolve::{first_of, shown_url},
};

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its table as a header names it; empty for the top.
    pub table: String,
    /// Its key.
    pub key: String,
    /// As it may be shown: a secret is `***`, a URL has no query.
    pub value: String,
    /// Where it came from.
    pub origin: Provenance,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// This line of the file.
    Line(usize),
    /// This line of the file, which names where the secret is: `credential`, `file` or `env`, and its name.
    Secret(usize, &'static str, String),
    /// This variable of the environment.
    Variable(String),
    /// Nothing was said.
    Default,
}

impl Provenance {
    /// In words, of this file.
    #[must_use]
    pub fn of(&self, file: &Path) -> String {
        let file = file.display();
        match self {
            Self::Line(line) => format!("{file}:{line}"),
            Self::Secret(line, source, name) => format!("{file}:{line}, {source} {name}"),
            Self::Variable(name) => format!("environment {name}"),
            Self::Default => "default".to_owned(),
        }
    }
}

/// Every value of a config that passes the check.
#[must_use]
pub fn effective(path: &Path, text: &str, environment: &dyn Environment) -> Vec<Setting> {
    let file = File::new(path, text);
    let Some(table) = file.parse() else { return Vec::new() };
    let mut list = List { environment, settings: Vec::new() };
    list.whole(&file.root(&table));
    list.settings
}

struct List<'e> {
    environment: &'e dyn Environment,
    settings: Vec<Setting>,
}

impl List<'_> {
    fn whole(&mut self, root: &Section<'_>) {
        self.section("", root, &["(top)"]);
        for name in TABLES {
            let label = format!("[{name}]");
            match root.entries().find(|(key, _)| *key == name).and_then(|(_, value)| value.section(String::new())) {
                Some(section) => self.section(&label, &section, &[&label]),
                // What is not there and is off has no values.
                None if ALWAYS.contains(&name) => self.defaults(&label, &[&label], &[]),
                None => {}
            }
        }
        for (kind, value) in root.entries().filter(|(key, _)| ["line", "trunk", "sink"].contains(key)) {
            let Some(all) = value.section(String::new()) else { continue };
            for (name, value) in all.entries() {
                let Some(section) = value.section(String::new()) else { continue };
                let own = section.entries().find(|(key, _)| *key == "kind").and_then(|(_, kind)| kind.as_str());
                let of_kind = own.map(label_of).unwrap_or_default();
                self.section(&format!("[{kind}.{name}]"), &section, &[&format!("[{kind}.NAME]"), of_kind]);
            }
        }
        for (_, value) in root.entries().filter(|(key, _)| *key == "route") {
            for route in value.elements().unwrap_or_default() {
                if let Some(section) = route.section(String::new()) {
                    self.section("[[route]]", &section, &["[[route]]"]);
                }
            }
        }
    }

    /// A table: what is written in it, and then what is not.
    fn section(&mut self, label: &str, section: &Section<'_>, scopes: &[&str]) {
        let mut tables = Vec::new();
        let mut written = Vec::new();
        for (key, value) in section.entries() {
            written.push(key.to_owned());
            if label.is_empty() && (TABLES.contains(&key) || ["line", "trunk", "sink", "route"].contains(&key)) {
                continue;
            }
            match value.section(String::new()) {
                Some(_) if source_of(&value).is_some() => self.secret(label, key, &value),
                Some(inner) if key == "headers" => {
                    for (name, value) in inner.entries() {
                        let key = format!("headers.{name}");
                        match source_of(&value) {
                            Some(_) => self.secret(label, &key, &value),
                            // A plain one may be a token by a name that nobody thought of.
                            None => self.add(label, &key, "***", Provenance::Line(value.line())),
                        }
                    }
                }
                Some(inner) => tables.push((inner_label(label, key), key, inner)),
                None => match value.elements() {
                    Some(elements) if elements.first().is_some_and(|first| first.as_table().is_some()) => {
                        let label = format!("[{}]", inner_label(label, key));
                        let sections = elements.iter().filter_map(|element| element.section(String::new()));
                        tables.extend(sections.map(|section| (label.clone(), key, section)));
                    }
                    _ => self.add(label, key, &shown(&value), Provenance::Line(value.line())),
                },
            }
        }
        self.defaults(label, scopes, &written);
        for (label, key, inner) in tables {
            let scope = scopes[0].trim_matches(['[', ']']);
            self.section(&label, &inner, &[&format!("[{scope}.{key}]")]);
        }
    }

    fn defaults(&mut self, label: &str, scopes: &[&str], written: &[String]) {
        for Row { key, default, .. } in rows().filter(|row| scopes.iter().any(|scope| row.is_of(scope))) {
            let is_said = written.iter().any(|said| said == key);
            if is_said || default.is_empty() || default.starts_with("required") || default.starts_with("none") {
                continue;
            }
            let Some(variable) = default.strip_prefix('$') else {
                self.add(label, key, &default, Provenance::Default);
                continue;
            };
            let name: String = variable.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            let below = variable[name.len()..].split(',').next().unwrap_or_default().trim_start_matches('/');
            if let Some(folder) = self.environment.var(&name) {
                let folder = first_of(&folder).join(below);
                let shown = format!("{:?}", folder.display().to_string().trim_end_matches('/'));
                self.add(label, key, &shown, Provenance::Variable(name));
            }
        }
    }

    fn secret(&mut self, label: &str, key: &str, value: &Value<'_>) {
        if let Some((source, name)) = source_of(value) {
            self.add(label, key, "***", Provenance::Secret(value.line(), source, name));
        }
    }

    fn add(&mut self, table: &str, key: &str, value: &str, origin: Provenance) {
        let (table, key, value) = (table.to_owned(), key.to_owned(), value.to_owned());
        self.settings.push(Setting { table, key, value, origin });
    }
}

fn inner_label(label: &str, key: &str) -> String {
    format!("[{}.{key}]", label.trim_matches(['[', ']']))
}

/// How docs/config.md heads the keys of a kind of line or sink.
fn label_of(kind: &str) -> &str {
    match kind {
        "audiosocket" => "AudioSocket",
        "sip" => "SIP",
        "redis" => "Redis",
        other => other,
    }
}

/// Where a secret is, if this is one: a table of one of three keys.
fn source_of(value: &Value<'_>) -> Option<(&'static str, String)> {
    let table: &DeTable<'_> = value.as_table()?;
    let (key, value) = table.iter().next().filter(|_| table.len() == 1)?;
    let source = [("credential", "credential"), ("file", "file"), ("env", "environment")];
    let (_, source) = source.into_iter().find(|(name, _)| *name == key.get_ref())?;
    Some((source, value.get_ref().as_str()?.to_owned()))
}

fn shown(value: &Value<'_>) -> String {
    match (value.as_str(), value.elements()) {
        (Some(text), _) if text.contains("://") => format!("{:?}", shown_url(text)),
        (Some(text), _) => format!("{text:?}"),
        (None, Some(elements)) => format!("[{}]", elements.iter().map(shown).collect::<Vec<_>>().join(", ")),
        (None, None) => value.shown(),
    }
}

/// A key in the table of docs/config.md.
struct Row {
    /// The first column, or the last one above that says something.
    scope: &'static str,
    /// The table that the key is in, where that is mostly written in one line: `jwt`.
    inner: Option<&'static str>,
    key: &'static str,
    default: String,
}

impl Row {
    fn is_of(&self, scope: &str) -> bool {
        let bare = |scope: &str| scope.trim_matches(['`', '[', ']']).to_owned();
        self.scope.split(", ").any(|one| match self.inner {
            Some(inner) => format!("{}.{inner}", bare(one)) == bare(scope),
            None => bare(one) == bare(scope),
        })
    }
}

/// One for each key: a row of the page may have several.
fn rows() -> impl Iterator<Item = Row> {
    let mut scope = "";
    let lines = PAGE.lines().skip_while(|line| !line.starts_with("| table | key |")).skip(2);
    lines.take_while(|line| line.starts_with('|')).flat_map(move |line| {
        let mut cells = line.trim_start_matches('|').split('|').map(str::trim);
        let (table, keys, default) = (cells.next(), cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        if let Some(table) = table.filter(|table| !table.is_empty()) {
            scope = table;
        }
        let (inner, keys) = match keys.split_once(".` ") {
            Some((inner, keys)) => (Some(inner.trim_start_matches('`')), keys),
            None => (None, keys),
        };
        let keys: Vec<_> = keys.split(", ").map(|key| key.trim_matches('`')).collect();
        let parts: Vec<_> = default.split("`, `").collect();
        let default_of = |n: usize| if parts.len() == keys.len() { parts[n] } else { default }.replace('`', "");
        let row = |(n, &key): (usize, &&'static str)| Row { scope, inner, key, default: default_of(n) };
        keys.iter().enumerate().map(row).collect::<Vec<_>>()
    })
}

const PAGE: &str = include_str!("../../docs/config.md");
/// Tables that there is one of, in the order in which they are told.
const TABLES: [&str; 8] = ["media", "control", "records", "events", "call-files", "recordings", "sinks", "telnyx"];
/// Of them those whose values count when they are not written.
const ALWAYS: [&str; 3] = ["media", "control", "records"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Nothing;

    impl Environment for Nothing {
        fn var(&self, name: &str) -> Option<String> {
            (name == "STATE_DIRECTORY").then(|| "/var/lib/trunkline".to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            None
        }
    }

    const TEXT: &str = r#"[media]
max-calls = 20
[line.pbx]
kind = "audiosocket"
allow = ["192.0.2.10"]
[line.desk]
kind = "sip"
listen = "192.0.2.20:5060"
[line.desk.register]
registrar = "sip:192.0.2.10"
user = "201"
[trunk.agent]
url = "wss://agent.example.com/ws?token=abc"
dialect = "ozonetel"
bearer = { env = "AGENT_TOKEN" }
headers = { X-Site = "depot", X-Key = { credential = "site-key" } }
jwt = { key = { file = "key.pem" }, issuer = "us" }
[trunk.agent.ozonetel]
omit-event = true
[[route]]
line = "pbx"
trunks = ["agent"]
"#;

    fn told() -> Vec<String> {
        let path = Path::new("t.toml");
        let settings = effective(path, TEXT, &Nothing);
        let line =
            |Setting { table, key, value, origin }: &Setting| format!("{table} {key} = {value}: {}", origin.of(path));
        settings.iter().map(line).collect()
    }

    #[test]
    fn each_value_says_where_it_came_from() {
        let told = told();
        for wanted in [
            " account = \"trunkline\": default",
            "[media] max-calls = 20: t.toml:2",
            "[media] threads = 1: default",
            "[control] http = \"127.0.0.1:9464\": default",
            "[records] directory = \"/var/lib/trunkline\": environment STATE_DIRECTORY",
            "[line.pbx] listen = \"127.0.0.1:9092\": default",
            "[line.pbx] allow = [\"192.0.2.10\"]: t.toml:5",
            "[line.desk] jitter-max-ms = 120: default",
            "[line.desk.register] user = \"201\": t.toml:11",
            "[line.desk.register] expires-seconds = 300: default",
            "[trunk.agent] url = \"wss://agent.example.com/ws?...\": t.toml:13",
            "[trunk.agent] bearer = ***: t.toml:15, environment AGENT_TOKEN",
            "[trunk.agent] headers.X-Site = ***: t.toml:16",
            "[trunk.agent] headers.X-Key = ***: t.toml:16, credential site-key",
            "[trunk.agent.jwt] key = ***: t.toml:17, file key.pem",
            "[trunk.agent.jwt] algorithm = \"RS256\": default",
            "[trunk.agent] connect-timeout-ms = 5000: default",
            "[trunk.agent.ozonetel] omit-event = true: t.toml:19",
            "[trunk.agent.ozonetel] chunk-samples = 80: default",
            "[[route]] trunks = [\"agent\"]: t.toml:22",
            "[[route]] barge-in = \"cloud\": default",
        ] {
            assert!(told.iter().any(|line| line == wanted), "{wanted} is not in:\n{}", told.join("\n"));
        }
    }

    #[test]
    fn no_secret_is_shown_and_no_key_is_told_twice() {
        let told = told();
        assert!(!told.iter().any(|line| line.contains("abc") || line.contains("depot")), "{told:#?}");
        let mut keys: Vec<_> = told.iter().map(|line| line.split(" = ").next().unwrap()).collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all, "{told:#?}");
        // Keys of other kinds of line are no keys of this one.
        assert!(!told.iter().any(|line| line.starts_with("[line.pbx] jitter")), "{told:#?}");
    }
}
