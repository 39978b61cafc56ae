//! What is kept of calls beside their records, and who is told of them: `[events]`, `[call-files]`, `[recordings]`,
//! `[sinks]` and each `[sink.NAME]`.

use core::{fmt, time::Duration};
use std::path::{Path, PathBuf};

use super::{
    Environment, Secret, Url,
    file::{Section, Value, near_miss, no_such},
    resolve::{certificates, first_of, shown_url},
    secret,
};

/// What is kept beside records. Each part is off unless its folder is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// `[events]`
    pub events: Option<Events>,
    /// `[call-files]`
    pub call_files: Option<Folder>,
    /// `[recordings]`
    pub recordings: Option<Folder>,
    /// `[sinks]`; there is one where there is a sink.
    pub spools: Option<Spools>,
}

/// `[events]`: what happens in calls, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The folder of `stream_events_*.jsonl`.
    pub directory: PathBuf,
    /// A file that is as long is followed by a new one (bytes).
    pub most_bytes: u64,
    /// So many files are kept.
    pub keep_files: usize,
}

/// A folder of files, one or two a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is.
    pub directory: PathBuf,
    /// Files that are older are removed; `None`: none is.
    pub keep_days: Option<u32>,
}

/// `[sinks]`: where what is meant for sinks waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spools {
    /// The folder with one folder a sink.
    pub directory: PathBuf,
    /// What may wait for one sink (bytes).
    pub most_bytes: u64,
}

/// `[sink.NAME]`: who is told of calls that are over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Its name in routes, logs and folders.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// Where it is.
    pub at: SinkUrl,
    /// Whether it is told what was said, too.
    pub transcripts: bool,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Certificates to trust beside the platform's. The file held at least one at the start.
    pub ca_file: Option<PathBuf>,
    /// Plain text beyond this machine was asked for.
    pub insecure: bool,
}

/// The kinds of sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Takes each item as the body of a POST.
    Webhook {
        /// Signs what is sent, if there is one.
        secret: Option<Secret>,
    },
    /// Redis streams.
    Redis {
        /// The ACL user; `None`: the default one.
        user: Option<String>,
        /// How we are let in.
        password: Option<Secret>,
        /// The number of the database.
        database: i64,
        /// Entries that a stream keeps, about.
        most_entries: u32,
        /// Whether callers' voices are sent while they speak.
        audio: bool,
    },
}

/// Where a sink is. Printed, it keeps the query, which may hold a token, to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SinkUrl {
    scheme: &'static str,
    /// Host, port, path, and whether it is reached by TLS.
    pub url: Url,
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.url.to_string();
        let (_, rest) = shown.split_once("://").unwrap_or(("", &shown));
        write!(f, "{}://{rest}", self.scheme)
    }
}

impl fmt::Debug for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SinkUrl {
    /// Reads a URL of one of two schemes, the one of plain text first.
    fn parse(text: &str, schemes: [&'static str; 2], own_port: Option<u16>) -> Result<Self, String> {
        let [plain, secure] = schemes;
        let wanted = || format!("wanted a URL such as `{secure}://host.example.com`");
        let (scheme, rest) = text.split_once("://").ok_or_else(wanted)?;
        let scheme = schemes.into_iter().find(|known| known.eq_ignore_ascii_case(scheme)).ok_or_else(wanted)?;
        if rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@') {
            return Err("a user and a password do not belong into the URL; they have keys of their own".to_owned());
        }
        let same = if scheme == plain { "ws" } else { "wss" };
        let mut url = Url::parse(&format!("{same}://{rest}")).map_err(|words| words.replace("WebSocket URL", "URL"))?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let names_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        if let (Some(port), false) = (own_port, names_port) {
            url.port = port;
        }
        Ok(Self { scheme, url })
    }
}

/// Reads the tables that have one place in the file.
pub(super) fn keep(
    events: &mut Section<'_>,
    call_files: &mut Section<'_>,
    recordings: &mut Section<'_>,
    sinks: &mut Section<'_>,
    reader: &Reader<'_>,
) -> Keep {
    Keep {
        events: reader.events(events),
        call_files: reader.folder(call_files, "/var/lib/trunkline/call-files"),
        recordings: reader.folder(recordings, "/var/lib/trunkline/recordings"),
        spools: reader.spools(sinks),
    }
}

/// What it takes to read them.
pub(super) struct Reader<'e> {
    pub(super) environment: &'e dyn Environment,
    /// Where relative paths begin.
    pub(super) folder: &'e Path,
}

impl Reader<'_> {
    fn events(&self, section: &mut Section<'_>) -> Option<Events> {
        let directory = self.directory(section, "/var/lib/trunkline/events");
        let most_bytes = u64::from(section.whole("max-mib", 1..=1024, 16)) << 20;
        let keep_files = section.whole("keep-files", 1..=1000, 8) as usize;
        needs_directory(section, directory.as_ref(), &["max-mib", "keep-files"]);
        section.finish();
        Some(Events { directory: directory?, most_bytes, keep_files })
    }

    fn folder(&self, section: &mut Section<'_>, example: &str) -> Option<Folder> {
        let directory = self.directory(section, example);
        let keep_days = section.get("keep-days").and_then(|value| value.whole(1..=3650));
        needs_directory(section, directory.as_ref(), &["keep-days"]);
        section.finish();
        Some(Folder { directory: directory?, keep_days })
    }

    fn spools(&self, section: &mut Section<'_>) -> Option<Spools> {
        let directory = match section.get("directory") {
            None => self.environment.var("STATE_DIRECTORY").map(|folder| first_of(&folder).join("sinks")),
            Some(value) => self.path(&value, "/var/lib/trunkline/sinks"),
        };
        let most_bytes = u64::from(section.whole("max-mib", 1..=4096, 64)) << 20;
        section.finish();
        Some(Spools { directory: directory?, most_bytes })
    }

    fn directory(&self, section: &mut Section<'_>, example: &str) -> Option<PathBuf> {
        section.get("directory").and_then(|value| self.path(&value, example))
    }

    fn path(&self, value: &Value<'_>, example: &str) -> Option<PathBuf> {
        match value.as_str() {
            Some(path) if !path.is_empty() => Some(self.folder.join(path)),
            _ => {
                value.problem(format!("wanted a folder, e.g. {example:?}"));
                None
            }
        }
    }

    /// `[sink.NAME]`
    pub(super) fn sink(&self, name: &str, section: &mut Section<'_>) -> Option<Sink> {
        let kind = section.require("kind", "wanted `webhook` or `redis`");
        let found = kind.as_ref().and_then(Value::as_str);
        let meant = found.and_then(|kind| near_miss(kind, KINDS));
        if let Some(value) = &kind
            && (found.is_none() || found != meant)
        {
            value.problem(no_such("kind of sink", found.unwrap_or_default(), KINDS));
        }
        let url = section.require("url", "wanted e.g. `https://crm.example.com/calls` or `rediss://redis.example.com`");
        let transcripts = section.get("transcripts").is_none_or(|value| {
            value.as_bool().unwrap_or_else(|| {
                value.problem("wanted true or false");
                true
            })
        });
        let timeout = section.whole("timeout-ms", 100..=120_000, 10_000);
        let insecure = section.flag("insecure");
        let ca_file = section.get("ca-file").and_then(|value| {
            let path = self.folder.join(value.str()?);
            certificates(&path).map_err(|wanted| value.problem(wanted)).ok().map(|()| path)
        });
        let (kind, schemes, own_port) = match meant {
            Some("webhook") => {
                let secret = section.get("secret").and_then(|value| self.secret(&value));
                (SinkKind::Webhook { secret }, ["http", "https"], None)
            }
            Some("redis") => (self.redis(section), ["redis", "rediss"], Some(REDIS_PORT)),
            _ => {
                // Which keys are right hangs on the kind; what is none of any kind is wrong all the same.
                section.ignore(&["secret"]);
                section.ignore(REDIS_KEYS);
                section.finish();
                return None;
            }
        };
        section.finish();
        let at = url.and_then(|value| place(&value, schemes, own_port, insecure));
        let mut kind = kind;
        if let (SinkKind::Redis { database, .. }, Some(at)) = (&mut kind, &at) {
            match at.url.path_and_query.trim_start_matches('/') {
                "" => {}
                number => match number.parse::<u16>() {
                    Ok(number) => *database = number.into(),
                    Err(_) => section.problem("url", "after the host only the number of a database may stand: `/0`"),
                },
            }
        }
        let timeout = Duration::from_millis(timeout.into());
        Some(Sink { name: name.to_owned(), kind, at: at?, transcripts, timeout, ca_file, insecure })
    }

    fn redis(&self, section: &mut Section<'_>) -> SinkKind {
        let user = section.get("user").and_then(|value| value.str().map(str::to_owned));
        let password = section.get("password").and_then(|value| self.secret(&value));
        let most_entries = section.whole("max-entries", 1..=10_000_000, 1000);
        let audio = section.flag("audio");
        if user.is_some() && password.is_none() {
            section.problem("user", "a user without a password; wanted `password` too");
        }
        SinkKind::Redis { user, password, database: 0, most_entries, audio }
    }

    fn secret(&self, value: &Value<'_>) -> Option<Secret> {
        secret::read(value, self.environment, self.folder)
    }
}

fn place(value: &Value<'_>, schemes: [&'static str; 2], own_port: Option<u16>, insecure: bool) -> Option<SinkUrl> {
    let text = value.str()?;
    let shown = format!("{:?}", shown_url(text));
    match SinkUrl::parse(text, schemes, own_port) {
        Ok(at) if at.url.secure || insecure || at.url.is_loopback() => Some(at),
        Ok(_) => {
            let [plain, secure] = schemes;
            value.problem_as(
                shown,
                format!(
                    "{plain}:// is for a sink on this machine; use {secure}://, or set insecure = true to send records in the clear"
                ),
            );
            None
        }
        Err(wanted) => {
            value.problem_as(shown, wanted);
            None
        }
    }
}

fn needs_directory(section: &Section<'_>, directory: Option<&PathBuf>, keys: &[&str]) {
    for key in keys {
        if directory.is_none() && section.entries().any(|(name, _)| name == *key) {
            section.problem(key, "of no use without `directory`");
        }
    }
}

const KINDS: &[&str] = &["webhook", "redis"];
const REDIS_KEYS: &[&str] = &["user", "password", "max-entries", "audio"];
/// Redis's own.
const REDIS_PORT: u16 = 6379;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Config, Problems, resolve::resolve};

    struct Given;

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            let value = match name {
                "STATE_DIRECTORY" => "/var/lib/trunkline",
                "HOOK_SECRET" => "hush",
                _ => return None,
            };
            Some(value.to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            None
        }
    }

    fn read(more: &str, route: &str) -> Result<Config, Problems> {
        let text = format!(
            "[line.pbx]\nkind = \"audiosocket\"\n[trunk.agent]\nurl = \"wss://a.example/\"\ndialect = \"binary\"\n\
             [[route]]\nline = \"pbx\"\n{route}\n{more}"
        );
        resolve(Path::new("/etc/t.toml"), &text, &Given)
    }

    const TRUNKS: &str = "trunks = [\"agent\"]";

    #[test]
    fn nothing_is_kept_unless_the_file_says_so() {
        let config = read("", TRUNKS).unwrap();
        assert!(config.keep.events.is_none() && config.keep.call_files.is_none() && config.keep.recordings.is_none());
        assert!(config.sinks.is_empty() && !config.routes[0].record && config.routes[0].sinks.is_empty());
    }

    #[test]
    fn what_is_kept_and_who_is_told_is_read_with_its_defaults() {
        let more = r#"
[events]
directory = "events"
[call-files]
directory = "/srv/calls"
keep-days = 30
[recordings]
directory = "/srv/sound"
[sink.crm]
kind = "webhook"
url = "https://crm.example.com/calls?token=hush"
secret = { env = "HOOK_SECRET" }
[sink.assist]
kind = "redis"
url = "redis://127.0.0.1/3"
audio = true
transcripts = false
"#;
        let route = "trunks = [\"agent\"]\nrecord = true\nsinks = [\"assist\", \"crm\"]";
        let config = read(more, route).unwrap();
        let events = config.keep.events.unwrap();
        assert_eq!((events.directory, events.most_bytes, events.keep_files), ("/etc/events".into(), 16 << 20, 8));
        assert_eq!(config.keep.call_files.unwrap().keep_days, Some(30));
        assert_eq!(config.keep.spools.unwrap().directory, PathBuf::from("/var/lib/trunkline/sinks"));
        assert_eq!((config.routes[0].record, &config.routes[0].sinks), (true, &vec![1, 0]));
        let [crm, assist] = &config.sinks[..] else { unreachable!() };
        assert_eq!(crm.at.to_string(), "https://crm.example.com/calls?...");
        assert_eq!((crm.at.url.port, crm.transcripts), (443, true));
        assert_eq!((assist.at.url.port, assist.transcripts), (6379, false));
        assert!(matches!(assist.kind, SinkKind::Redis { database: 3, most_entries: 1000, audio: true, .. }));
        assert!(!format!("{crm:?}").contains("hush"));
    }

    #[test]
    fn a_line_may_go_to_sinks_alone() {
        let sink = "[sink.crm]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:1/\"";
        let config = read(sink, "trunks = []\nsinks = [\"crm\"]").unwrap();
        assert!(config.routes[0].trunks.is_empty());
        let text = format!(
            "[sinks]\ndirectory = \"sinks\"\n[line.pbx]\nkind = \"audiosocket\"\n{sink}\n[[route]]\nline = \"pbx\"\n"
        );
        let alone = |route: &str| {
            let path = Path::new("/etc/t.toml");
            resolve(path, &format!("{text}{route}"), &Given)
        };
        assert!(alone("trunks = []\nsinks = [\"crm\"]").unwrap().trunks.is_empty());
        let said = alone("trunks = [\"agent\"]\nsinks = [\"crm\"]").unwrap_err().to_string();
        assert!(said.contains("trunks = \"agent\": no such trunk; there is none"), "{said}");
        let said = read(sink, "trunks = []").unwrap_err().to_string();
        assert!(said.contains("[[route]] trunks = [...]: wanted at least one name of a trunk"), "{said}");
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_remedy() {
        for (more, route, wanted) in [
            (
                "",
                "trunks = [\"agent\"]\nrecord = true",
                "[[route]] record: there is no place for it; wanted `[recordings] directory`",
            ),
            ("[events]\nkeep-files = 3", TRUNKS, "[events] keep-files: of no use without `directory`"),
            ("", "trunks = [\"agent\"]\nsinks = [\"crm\"]", "sinks = \"crm\": no such sink; there is none"),
            (
                "[sink.a]\nkind = \"webhok\"\nurl = \"https://a/\"",
                TRUNKS,
                "no such kind of sink; did you mean `webhook`?",
            ),
            (
                "[sink.a]\nkind = \"webhook\"\nurl = \"http://a/?token=hush\"",
                TRUNKS,
                "http:// is for a sink on this machine",
            ),
            ("[sink.a]\nkind = \"webhook\"\nurl = \"https://me:hush@a/\"", TRUNKS, "keys of their own"),
            (
                "[sink.a]\nkind = \"redis\"\nurl = \"https://a/\"",
                TRUNKS,
                "wanted a URL such as `rediss://host.example.com`",
            ),
            ("[sink.a]\nkind = \"redis\"\nurl = \"rediss://a/zero\"", TRUNKS, "only the number of a database"),
            ("[sink.a]\nkind = \"redis\"\nurl = \"rediss://a\"\nuser = \"u\"", TRUNKS, "a user without a password"),
            ("[sink.a]\nkind = \"redis\"\nurl = \"rediss://a\"\nsecret = 1", TRUNKS, "secret: no such key"),
            (
                "[sink.a]\nkind = \"webhook\"\nurl = \"https://a/\"\nsecret = \"hush\"",
                TRUNKS,
                "never written down here",
            ),
        ] {
            let said = read(more, route).unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }
}
