//! From what is written to what it means.
//!
//! A value that is wrong is reported and stands at its default while the rest is read; a [`Config`] comes out only where
//! nothing was reported.

use core::{net::IpAddr, net::Ipv4Addr, net::SocketAddr, time::Duration};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    call::attention::BargeIn,
    config::{
        self, Cidr, Config, Control, Environment, HeaderValue, Line, LineKind, Media, Problems, Records, Route, Secret,
        Trunk, Url,
        file::{File, Section, Value, near_miss, no_such},
        highest_rate, is_loopback, keep, openai, pipe, secret, sip, sound, websocket,
    },
    dialect::{self, OptionError, OptionInfo, OptionValue, Options, Role},
    leg::websocket::jwt::{Algorithm, Signer},
    media::Rate,
};

/// Reads the text of a config file.
pub(super) fn resolve(path: &Path, text: &str, environment: &dyn Environment) -> Result<Config, Problems> {
    let file = File::new(path, text);
    let config = {
        let table = file.parse();
        let folder = path.parent().unwrap_or(Path::new(""));
        table.as_ref().and_then(|table| Resolver { environment, folder }.config(file.root(table)))
    };
    match (file.into_problems(), config) {
        (None, config) => Ok(config.expect("whatever could not be read was reported")),
        (Some(problems), _) => Err(problems),
    }
}

pub(super) struct Resolver<'e> {
    pub(super) environment: &'e dyn Environment,
    /// Where relative paths begin: the config file's own folder.
    pub(super) folder: &'e Path,
}

impl Resolver<'_> {
    fn config(&self, mut root: Section<'_>) -> Option<Config> {
        let account = root.get("account").and_then(|value| account(&value));
        let mut media_section = root.table("media");
        let mut control_section = root.table("control");
        let mut records_section = root.table("records");
        let telnyx_value = root.get("telnyx");
        let mut events_section = root.table("events");
        let mut call_files_section = root.table("call-files");
        let mut recordings_section = root.table("recordings");
        let mut sinks_section = root.table("sinks");
        let mut lines = root.tables("line");
        // Calls can be for sinks alone.
        let has_sinks = root.entries().any(|(name, _)| name == "sink");
        let mut trunks = if has_sinks { root.tables_if_any("trunk") } else { root.tables("trunk") };
        let mut sinks = root.tables_if_any("sink");
        let mut routes = root.array_of_tables("route");
        root.finish();

        let control = self.control(&mut control_section);
        let records = self.records(&mut records_section);
        let line_names: Vec<_> = lines.iter().map(|(name, _)| *name).collect();
        let trunk_names: Vec<_> = trunks.iter().map(|(name, _)| *name).collect();
        let lines_read: Vec<_> = lines.iter_mut().map(|(name, section)| self.line(name, section)).collect();
        let trunks_read: Vec<_> = trunks.iter_mut().map(|(name, section)| self.trunk(name, section)).collect();
        let reader = keep::Reader { environment: self.environment, folder: self.folder };
        let keep = keep::keep(
            &mut events_section,
            &mut call_files_section,
            &mut recordings_section,
            &mut sinks_section,
            &reader,
        );
        let sink_names: Vec<_> = sinks.iter().map(|(name, _)| *name).collect();
        let sinks: Vec<_> = sinks.iter_mut().map(|(name, section)| reader.sink(name, section)).collect();
        if !sinks.is_empty() && keep.spools.is_none() {
            sinks_section.problem("directory", "missing; sinks need a folder, e.g. \"/var/lib/trunkline/sinks\"");
        }
        let names = Names { lines: &line_names, trunks: &trunk_names, sinks: &sink_names };
        let routes = routed(&mut routes, &lines, &names, keep.recordings.is_some());
        let listening = clashes(&control, &lines, &lines_read);
        // `None`: it is not there. `Some(None)`: it is wrong.
        let known = (line_names.as_slice(), lines_read.as_slice());
        let telnyx =
            telnyx_value.map(|value| config::telnyx::read(&value, self.environment, self.folder, known, &listening));
        let rate = highest_rate(lines_read.iter().flatten().map(|line| &line.kind));
        let media = media(&mut media_section, rate);
        sip::check_ports(&lines, &lines_read, media.max_calls);

        Some(Config {
            account: account.unwrap_or("trunkline").to_owned(),
            media,
            control,
            records,
            telnyx: match telnyx {
                Some(read) => Some(read?),
                None => None,
            },
            keep,
            lines: lines_read.into_iter().collect::<Option<_>>()?,
            trunks: trunks_read.into_iter().collect::<Option<_>>()?,
            sinks: sinks.into_iter().collect::<Option<_>>()?,
            routes,
        })
    }

    fn control(&self, section: &mut Section<'_>) -> Control {
        let http = section.get("http");
        let anywhere = section.flag("http-anywhere");
        let call_info = section.flag("call-info");
        let socket = section.get("socket");
        let drain = section.whole("drain-seconds", 0..=3600, DRAIN_SECONDS);
        section.finish();
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
        let http = match http {
            None => Some(default),
            Some(value) if value.as_str() == Some("off") => None,
            Some(value) => address(&value, HTTP_PORT, "; or \"off\"").inspect(|http| {
                if !anywhere && !is_loopback(http.ip()) {
                    value.problem(
                        "others could reach it, and it asks nobody for a password; listen on 127.0.0.1, or set \
                         http-anywhere = true",
                    );
                }
            }),
        };
        if call_info && http.is_none() {
            section.problem("call-info", "nobody can tell of calls while http = \"off\"; wanted an address there");
        }
        let socket = match socket {
            None => self.environment.var("RUNTIME_DIRECTORY").map(|folder| first_of(&folder).join("control.sock")),
            Some(value) if value.as_str() == Some("off") => None,
            Some(value) => self.path(&value, "wanted a path, e.g. \"/run/trunkline/control.sock\"; or \"off\""),
        };
        Control { http, call_info, socket, drain: Duration::from_secs(drain.into()) }
    }

    fn records(&self, section: &mut Section<'_>) -> Records {
        let directory = match section.get("directory") {
            None => self.environment.var("STATE_DIRECTORY").map(|folder| first_of(&folder)),
            Some(value) if value.as_str() == Some("off") => None,
            Some(value) => self.path(&value, "wanted a folder, e.g. \"/var/lib/trunkline\"; or \"off\""),
        };
        let full_numbers = section.flag("full-numbers");
        section.finish();
        Records { directory, full_numbers }
    }

    /// A path; a relative one begins at the config file's folder.
    pub(super) fn path(&self, value: &Value<'_>, wanted: &str) -> Option<PathBuf> {
        match value.as_str() {
            Some(path) if !path.is_empty() => Some(self.folder.join(path)),
            _ => {
                value.problem(wanted);
                None
            }
        }
    }

    fn line(&self, name: &str, section: &mut Section<'_>) -> Option<Line> {
        let kind = section.require("kind", "wanted `audiosocket`, `websocket`, `sip`, `sound` or `pipe`");
        let found = kind.as_ref().and_then(Value::as_str);
        // A misspelt kind is read as what it was meant to be, for the sake of the other keys.
        let meant = found.and_then(|kind| near_miss(kind, LINE_KINDS));
        if let Some(value) = &kind
            && (found.is_none() || found != meant)
        {
            value.problem(no_such("kind of line", found.unwrap_or_default(), LINE_KINDS));
        }
        let kind = match meant {
            Some("audiosocket") => audiosocket(section),
            Some("pipe") => self.pipe(section).map(|line| LineKind::Pipe(Box::new(line))),
            Some("websocket") => self.websocket(name, section).map(|line| LineKind::Websocket(Box::new(line))),
            Some("sip") => self.sip(name, section).map(|line| LineKind::Sip(Box::new(line))),
            Some("sound") => self.sound(section).map(|line| LineKind::Sound(Box::new(line))),
            _ => {
                // Which keys are right hangs on the kind; what is none of any kind is wrong all the same.
                section.ignore(AUDIOSOCKET_KEYS);
                section.ignore(pipe::KEYS);
                section.ignore(websocket::KEYS);
                section.ignore(sip::KEYS);
                section.ignore(sound::KEYS);
                section.ignore(dialect::NAMES);
                None
            }
        };
        section.finish();
        Some(Line { name: name.to_owned(), kind: kind?, is_gone: false })
    }

    fn trunk(&self, name: &str, section: &mut Section<'_>) -> Option<Trunk> {
        let table = format!("trunk.{name}");
        let url = section.get("url");
        let speaker = Speaker { table: &table, noun: "trunk", role: Role::Vendor };
        let trunk = self.dialled(name, section, "url", url, &speaker);
        section.finish();
        trunk
    }

    /// Whom we dial: a trunk, or a `websocket` line's vendor. `key` is that of the URL.
    pub(super) fn dialled(
        &self,
        name: &str,
        section: &mut Section<'_>,
        key: &'static str,
        url: Option<Value<'_>>,
        speaker: &Speaker<'_>,
    ) -> Option<Trunk> {
        let dialect = section.get("dialect");
        let named = dialect.as_ref().and_then(Value::as_str).and_then(|name| near_miss(name, dialect::NAMES));
        if url.is_none() && named != Some("openai") {
            section.problem(key, "missing; wanted e.g. `wss://agent.example.com/ws`");
        }
        if dialect.is_none() {
            section.problem("dialect", format!("missing; wanted one of {}", dialect::NAMES.join(", ")));
        }
        let mut sample_rate = section.rate("sample-rate");
        let connect_timeout = section.whole("connect-timeout-ms", 100..=60_000, 5000);
        let mut headers = section.get("headers").map(|value| self.headers(&value)).unwrap_or_default();
        let (authorization, jwt) = self.authorization(section, &headers);
        let ca_file = section.get("ca-file").and_then(|value| {
            let path = self.folder.join(value.str()?);
            certificates(&path).map_err(|wanted| value.problem(wanted)).ok().map(|()| path)
        });
        let insecure = section.flag("insecure");
        let dialect = dialect.and_then(|value| self::named(&value, dialect::NAMES));
        let mut options = options(speaker, section, dialect.map_or(Speaks::Unknown, Speaks::One), self.folder);
        if dialect == Some("openai") && speaker.role == Role::Vendor {
            let own = options.openai.sound().rate();
            if sample_rate.is_some_and(|rate| rate != own && dialect::rates("openai").contains(&rate)) {
                section.problem("sample-rate", format!("`openai` has {own} with this `audio`; leave it out"));
            }
            if url.is_none() && options.openai.model().is_none() {
                section.problem(
                    "openai",
                    "missing; without a `url` it needs a `model`, e.g. openai.model = \"gpt-realtime\"",
                );
            }
        }
        check_rate(section, dialect, sample_rate);
        let mut url = match url {
            None => (dialect == Some("openai")).then(openai::default_url),
            Some(value) => agent_url(&value, insecure, speaker).and_then(|mut url| {
                // What is asked for the URL names the parameters in its answer.
                if dialect == Some("exotel") && speaker.role == Role::Vendor && !url.asks {
                    let shown = shown_url(value.as_str()?);
                    exotel_query(&mut url, &mut sample_rate, &mut options)
                        .map_err(|wanted| value.problem_as(format!("{shown:?}"), wanted))
                        .ok()?;
                }
                Some(url)
            }),
        };
        if dialect == Some("openai") && speaker.role == Role::Vendor {
            openai::complete(url.as_mut(), &mut headers, &options.openai);
        }
        Some(Trunk {
            name: name.to_owned(),
            url: url?,
            dialect: dialect?,
            sample_rate,
            connect_timeout: Duration::from_millis(connect_timeout.into()),
            headers,
            authorization,
            jwt,
            ca_file,
            insecure,
            options,
            is_gone: false,
        })
    }

    fn headers(&self, value: &Value<'_>) -> Vec<(String, HeaderValue)> {
        let Some(section) = value.section_in_line() else {
            value.problem_hidden(r#"wanted a table, e.g. { X-Site = "depot" }"#);
            return Vec::new();
        };
        let mut headers: Vec<(String, HeaderValue)> = Vec::new();
        for (name, value) in section.entries() {
            if let Some(wanted) = refused_header(name) {
                value.problem_hidden(wanted);
                continue;
            }
            if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                value.problem_hidden("this header is there already; upper and lower case are the same");
                continue;
            }
            let header = match value.as_str() {
                Some(_) if name.eq_ignore_ascii_case("authorization") => {
                    value.problem_hidden("use `bearer` or `basic`, or a secret for another scheme");
                    None
                }
                Some(_) if is_secret(name) => {
                    value.problem_hidden(r#"this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#);
                    None
                }
                Some(text) => Some(HeaderValue::Plain(text.to_owned())),
                None if value.as_table().is_none() => {
                    value.problem_hidden(r#"wanted a text in quotes, or a secret: { credential = "NAME" }"#);
                    None
                }
                None => secret::read(&value, self.environment, self.folder).map(HeaderValue::Secret),
            };
            let Some(header) = header else { continue };
            if header.reveal().bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
                headers.push((name.to_owned(), header));
            } else {
                value.problem_hidden("a header's value is ASCII without line breaks");
            }
        }
        headers
    }

    /// The value of the header `Authorization` (RFC 7617 2, RFC 6750 2.1).
    fn authorization(
        &self,
        section: &mut Section<'_>,
        headers: &[(String, HeaderValue)],
    ) -> (Option<Secret>, Option<Signer>) {
        let [bearer, basic, jwt] = ["bearer", "basic", "jwt"].map(|key| section.get(key).map(|value| (key, value)));
        let given: Vec<_> = [&bearer, &basic, &jwt].into_iter().flatten().collect();
        if let [(first, _), later @ ..] = &given[..] {
            for (_, value) in later {
                let words = format!("beside `{first}`; a request has one authorization, leave out one of the two");
                value.problem_hidden(words);
            }
        }
        if let [(_, only)] = &given[..]
            && headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        {
            only.problem_hidden("beside `headers.Authorization`; a request has one, leave out one of the two");
        }
        let bearer = bearer.and_then(|(_, value)| {
            let token = secret::read(&value, self.environment, self.folder)?;
            if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
                value.problem_hidden("a bearer token is visible ASCII without blanks");
            }
            Some(Secret::new(format!("Bearer {}", token.reveal())))
        });
        let basic = basic.and_then(|(_, value)| self.basic(&value));
        (bearer.or(basic), jwt.and_then(|(_, value)| self.token(&value)))
    }

    /// What signs a token for each call.
    fn token(&self, value: &Value<'_>) -> Option<Signer> {
        let Some(mut section) = value.section_in_line() else {
            value.problem_hidden(r#"wanted { key = { credential = "NAME" }, algorithm = "RS256" }"#);
            return None;
        };
        let key = section.require("key", r#"wanted e.g. { credential = "NAME" }"#);
        let names = Algorithm::ALL.map(Algorithm::name);
        let algorithm = section.get("algorithm").map_or(Some(Algorithm::Rs256), |value| {
            let found = value.str()?;
            let algorithm = Algorithm::from_name(found);
            if algorithm.is_none() {
                value.problem(no_such("algorithm", found, &names));
            }
            algorithm
        });
        let expires_seconds = section.whole("expires-seconds", 30..=86_400, 300);
        let [issuer, audience] =
            ["issuer", "audience"].map(|key| section.get(key).and_then(|value| value.str()).map(str::to_owned));
        section.finish();
        let key = key?;
        let secret = secret::read_key(&key, self.environment, self.folder)?;
        match Signer::new(algorithm?, &secret, expires_seconds) {
            Ok(signer) => Some(signer.with_issuer(issuer).with_audience(audience)),
            Err(error) => {
                key.problem_hidden(error.to_string());
                None
            }
        }
    }

    fn basic(&self, value: &Value<'_>) -> Option<Secret> {
        let pair = self.user_and_password(value)?;
        Some(Secret::new(format!("Basic {}", base64_simd::STANDARD.encode_to_string(pair.reveal()))))
    }

    /// `USER:PASSWORD` (RFC 7617 2).
    pub(super) fn user_and_password(&self, value: &Value<'_>) -> Option<Secret> {
        let Some(mut section) = value.section_in_line() else {
            value.problem_hidden(r#"wanted { user = "NAME", password = { credential = "NAME" } }"#);
            return None;
        };
        let user = section.require("user", "wanted a text in quotes").and_then(|value| {
            let user = value.str()?;
            if user.contains(':') || user.contains(char::is_control) {
                value.problem("a user's name has no colon and no control character");
            }
            Some(user)
        });
        let password = section.require("password", r#"wanted e.g. { credential = "NAME" }"#);
        let password = password.and_then(|value| secret::read(&value, self.environment, self.folder));
        section.finish();
        Some(Secret::new(format!("{}:{}", user?, password?.reveal())))
    }
}

/// One of these names; a misspelt one is reported and read as what was meant.
pub(super) fn named(value: &Value<'_>, names: &[&'static str]) -> Option<&'static str> {
    let found = value.as_str().unwrap_or_default();
    let meant = near_miss(found, names);
    if meant != Some(found) {
        value.problem(no_such("dialect", found, names));
    }
    meant
}

/// Reports a rate that the dialect does not have.
pub(super) fn check_rate(section: &Section<'_>, dialect: Option<&str>, rate: Option<Rate>) {
    if let (Some(dialect), Some(rate)) = (dialect, rate)
        && !dialect::rates(dialect).contains(&rate)
    {
        let rates: Vec<_> = dialect::rates(dialect).iter().map(|rate| rate.hz().to_string()).collect();
        section.problem("sample-rate", format!("`{dialect}` has only {}", rates.join(", ")));
    }
}

/// Who speaks a dialect, for what is said about its options.
pub(super) struct Speaker<'s> {
    /// Its table, e.g. `trunk.agent`.
    pub(super) table: &'s str,
    /// What it is, e.g. `trunk`.
    pub(super) noun: &'s str,
    pub(super) role: Role,
}

/// Which dialects somebody speaks.
#[derive(Clone, Copy)]
pub(super) enum Speaks {
    One(&'static str),
    Any,
    /// The file names one that there is not.
    Unknown,
}

fn account<'f>(value: &Value<'f>) -> Option<&'f str> {
    let account = value.str()?;
    if account.len() > MAX_ACCOUNT || account.contains(char::is_control) {
        value.problem(format!("wanted at most {MAX_ACCOUNT} bytes without control characters"));
    }
    Some(account)
}

fn media(section: &mut Section<'_>, rate: Rate) -> Media {
    let mut media = Media {
        max_calls: section.whole("max-calls", 1..=2000, 8) as usize,
        threads: section.whole("threads", 1..=64, 1) as usize,
        downlink_seconds: section.whole("downlink-seconds", 2..=7200, 600),
        downlink_pool_mib: None,
        uplink_max_ms: section.whole("uplink-max-ms", 100..=5000, 2000),
        cushion_ms: section.whole("cushion-ms", 0..=60, 10),
    };
    if let Some(value) = section.get("downlink-pool-mib")
        && let Some(mib) = value.whole(1..=MAX_POOL_MIB)
    {
        media.downlink_pool_mib = Some(mib);
        let least = media.reserve_bytes(rate).div_ceil(1 << 20);
        if (mib as usize) < least {
            let (calls, each) = (media.max_calls, (media.reserve_bytes(rate) / media.max_calls) >> 10);
            value.problem(format!("{calls} calls x {each} KiB are reserved; wanted at least {least}"));
        }
    }
    section.finish();
    media
}

/// The first of the folders that systemd names, separated by colons (systemd.exec(5), `$STATE_DIRECTORY`).
pub(super) fn first_of(folders: &str) -> PathBuf {
    PathBuf::from(folders.split(':').next().unwrap_or_default())
}

fn audiosocket(section: &mut Section<'_>) -> Option<LineKind> {
    let listen = section.get("listen");
    let allow = section.get("allow");
    let anywhere = section.flag("listen-anywhere");
    let is_limited = allow.is_some();
    let allow = allow.map(|value| ranges(&value)).unwrap_or_default();
    let Some(value) = listen else {
        return Some(LineKind::Audiosocket { listen: (Ipv4Addr::LOCALHOST, AUDIOSOCKET_PORT).into(), allow });
    };
    let listen = address(&value, AUDIOSOCKET_PORT, "")?;
    if !anywhere && !is_limited && !is_loopback(listen.ip()) {
        value.problem(
            "others could reach it, and AudioSocket knows no password; listen on 127.0.0.1, or name the PBX: allow = \
             [\"192.0.2.10\"], or set listen-anywhere = true",
        );
    }
    Some(LineKind::Audiosocket { listen, allow })
}

pub(super) fn ranges(value: &Value<'_>) -> Vec<Cidr> {
    let range = |(text, value): (&str, Value<'_>)| Cidr::parse(text).map_err(|wanted| value.problem(wanted)).ok();
    value.texts("wanted at least one range, e.g. [\"10.0.0.0/8\"]").into_iter().filter_map(range).collect()
}

/// An address to listen on; `or` is what else would do.
pub(super) fn address(value: &Value<'_>, default_port: u16, or: &str) -> Option<SocketAddr> {
    let text = value.as_str().unwrap_or_default();
    let alone = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, default_port));
    let address = text.parse().or_else(|_| alone()).ok();
    if address.is_none() {
        value.problem(format!("wanted an IP address and a port, e.g. \"127.0.0.1:{default_port}\"{or}"));
    }
    address
}

/// Two that listen in the same place, or share a pipe, would stop each other at the start. Gives who listens where.
fn clashes(control: &Control, sections: &[(&str, Section<'_>)], lines: &[Option<Line>]) -> Vec<(String, SocketAddr)> {
    let mut listening = Vec::from_iter(control.http.map(|http| ("[control] http".to_owned(), http)));
    for ((name, section), line) in sections.iter().zip(lines) {
        match line.as_ref().map(|line| &line.kind) {
            Some(kind @ (LineKind::Audiosocket { .. } | LineKind::Websocket(_) | LineKind::Sip(_))) => {
                let listens = match kind {
                    LineKind::Audiosocket { listen, .. } => [Some(("listen", *listen)), None],
                    LineKind::Websocket(line) => [line.listen().map(|listen| ("listen", listen.address)), None],
                    LineKind::Sip(line) => {
                        [Some(("listen", line.listen)), line.tls.as_ref().map(|tls| ("tls-listen", tls.address))]
                    }
                    LineKind::Pipe(_) | LineKind::Sound(_) => [None, None],
                };
                // Its own two were compared when it was read.
                let others = listening.len();
                for (key, listen) in listens.into_iter().flatten() {
                    if let Some((other, _)) =
                        listening[..others].iter().find(|(_, other)| is_same_place(*other, listen))
                    {
                        section.problem(key, format!("{listen} is taken by {other}; wanted another port"));
                    }
                    listening.push((format!("[line.{name}] {key}"), listen));
                }
            }
            // Pipes are told apart in a place of their own.
            Some(LineKind::Pipe(_) | LineKind::Sound(_)) | None => {}
        }
    }
    pipe::clashes(control.socket.as_ref(), sections, lines);
    listening
}

/// Where a file really is, links followed; a file that is not there yet is in its folder.
pub(super) fn place(path: &Path) -> PathBuf {
    let folder = || fs::canonicalize(folder_of(path)).map(|folder| folder.join(path.file_name().unwrap_or_default()));
    fs::canonicalize(path).or_else(|_| folder()).unwrap_or_else(|_| path.to_owned())
}

pub(super) fn is_same_place(one: SocketAddr, other: SocketAddr) -> bool {
    let overlaps = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlaps
}

fn agent_url(value: &Value<'_>, insecure: bool, speaker: &Speaker<'_>) -> Option<Url> {
    let text = value.str()?;
    let shown = shown_url(text);
    // Only a vendor is told by an agent's HTTP server where to connect.
    let parsed = if speaker.role == Role::Vendor { Url::parse_any(text) } else { Url::parse(text) };
    match parsed {
        Ok(url) if url.secure || insecure || url.is_loopback() => Some(url),
        Ok(url) => {
            let (plain, safe) = if url.asks { ("http", "https") } else { ("ws", "wss") };
            let peer = if speaker.role == Role::Vendor { "an agent" } else { "a vendor" };
            value.problem_as(
                format!("{shown:?}"),
                format!(
                    "{plain}:// is for {peer} on this machine; use {safe}://, or set insecure = true to send calls in \
                     the clear"
                ),
            );
            None
        }
        Err(wanted) => {
            value.problem_as(format!("{shown:?}"), wanted);
            None
        }
    }
}

/// A URL as a message repeats it: without a password in front of the host or a token in the query.
pub(crate) fn shown_url(text: &str) -> String {
    let shown = match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        (_, None) => text.to_owned(),
    };
    match shown.split_once('?') {
        Some((before, _)) => format!("{before}?..."),
        None => shown,
    }
}

/// Exotel's agents learn the rate from the URL, some of them from nowhere else, and its other parameters reappear in
/// `start` (Exotel, "Working with the Stream applet").
pub(crate) fn exotel_query(url: &mut Url, rate: &mut Option<Rate>, options: &mut Options) -> Result<(), &'static str> {
    let query = url.path_and_query.split_once('?').map_or("", |(_, query)| query).to_owned();
    let mut named = false;
    for (name, value) in
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    {
        if matches!(name, "sample-rate" | "sample_rate") {
            let own = value.parse().ok().and_then(Rate::from_hz).filter(|rate| dialect::rates("exotel").contains(rate));
            let own = own.ok_or("its sample-rate is none of 8000, 16000, 24000")?;
            if rate.is_some_and(|rate| rate != own) {
                return Err("its sample-rate is not the trunk's `sample-rate`; write it once");
            }
            *rate = Some(own);
            named = true;
        } else if !options.exotel.add_parameter(&decoded(name), &decoded(value)) {
            return Err("Exotel has at most 3 custom parameters, of 256 characters together");
        }
    }
    if let (Some(rate), false) = (*rate, named)
        && rate != Rate::Hz8000
    {
        let sign = if url.path_and_query.contains('?') { '&' } else { '?' };
        url.path_and_query.push_str(&format!("{sign}sample-rate={}", rate.hz()));
    }
    Ok(())
}

/// A part of a query without its percent signs (RFC 3986 2.1); a plus is a space, as forms have it.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.and_then(|digits| str::from_utf8(digits).ok());
        match (byte, escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The tables `[trunk.NAME.DIALECT]`, of which only the own dialect's may be there.
pub(super) fn options(speaker: &Speaker<'_>, section: &mut Section<'_>, speaks: Speaks, folder: &Path) -> Options {
    let Speaker { table: owner, noun, role } = speaker;
    let mut options = Options::default();
    let mut session_file = None;
    for &name in dialect::NAMES {
        let Some(value) = section.get(name) else { continue };
        match speaks {
            Speaks::One(own) if name != own => {
                value.problem_as(String::new(), format!("options of another dialect; this {noun} speaks `{own}`"));
                continue;
            }
            Speaks::Unknown => continue,
            Speaks::One(_) | Speaks::Any => {}
        }
        let Some(table) = value.section(format!("[{owner}.{name}] ")) else {
            value.problem(format!("wanted a table: [{owner}.{name}]"));
            continue;
        };
        let is_ours = |info: &&OptionInfo| info.role.is_none_or(|only| only == *role);
        let known: Vec<_> = Options::known(name).iter().filter(is_ours).map(|info| info.key).collect();
        for (key, value) in table.entries() {
            let option = match (value.as_bool(), value.integer(), value.as_str()) {
                (Some(flag), _, _) => OptionValue::Bool(flag),
                (_, Some(number), _) => OptionValue::Int(number),
                (_, _, Some(text)) => OptionValue::Str(text),
                (None, None, None) => {
                    let example = Options::known(name).iter().find(|info| info.key == key).map(|info| info.default);
                    value.problem(example.map_or_else(
                        || no_such("option", key, &known),
                        |example| format!("wanted a value such as `{example}`"),
                    ));
                    continue;
                }
            };
            if Options::known(name).iter().any(|info| info.key == key && !is_ours(&info)) {
                let (other, own) = match role {
                    Role::Vendor => ("agent", "vendor"),
                    Role::Agent => ("vendor", "agent"),
                };
                let wanted =
                    format!("it matters to who plays the {other} only, and a {noun} plays the {own}; leave it out");
                value.problem(wanted);
                continue;
            }
            match options.set(name, key, option) {
                Ok(()) if key == "session-file" => session_file = Some(value),
                Ok(()) => {}
                Err(OptionError::Unknown) => value.problem(no_such("option", key, &known)),
                Err(OptionError::Expected(wanted)) => value.problem(format!("wanted {wanted}")),
            }
        }
    }
    // Only now is it known how audio is coded, which the session has to say.
    if let (Some(value), Some(path)) = (session_file, options.openai.session_file()) {
        match openai::session(&folder.join(path), &options.openai) {
            Ok(update) => options.openai.set_update(update),
            Err(wanted) => value.problem(wanted),
        }
    }
    options
}

/// What a route may name.
struct Names<'n> {
    lines: &'n [&'n str],
    trunks: &'n [&'n str],
    sinks: &'n [&'n str],
}

fn routed(
    routes: &mut [Section<'_>],
    lines: &[(&str, Section<'_>)],
    names: &Names<'_>,
    can_record: bool,
) -> Vec<Route> {
    let Names { lines: line_names, trunks: trunk_names, sinks: sink_names } = *names;
    // By line: where its route stands.
    let mut route_at: Vec<Option<usize>> = vec![None; lines.len()];
    let mut read = Vec::new();
    for section in routes {
        let line = section.require("line", "wanted the name of a line");
        let trunks = section.require("trunks", "wanted the names of trunks, e.g. [\"agent\"]");
        let barge_in = section.get("barge-in").and_then(|value| {
            let found = BargeIn::ALL.iter().find(|(name, _)| value.as_str() == Some(*name)).map(|(_, it)| *it);
            if found.is_none() {
                value.problem("wanted \"cloud\", \"flush\" or \"notify\"");
            }
            found
        });
        let sinks = section.get("sinks");
        let record = section.flag("record");
        if record && !can_record {
            section.problem("record", "there is no place for it; wanted `[recordings] directory`");
        }
        section.finish();
        let sinks: Vec<usize> = sinks.map(|value| indices(&value, "sink", sink_names)).unwrap_or_default();
        let line = line.and_then(|value| {
            let name = value.str()?;
            let index = line_names.iter().position(|line| *line == name);
            if index.is_none() {
                value.problem(no_such("line", name, line_names));
            }
            // A misspelt name is one mistake, not also a line without a route.
            let meant = index.or_else(|| {
                let near = near_miss(name, line_names)?;
                line_names.iter().position(|line| *line == near)
            });
            if let Some(at) = meant.and_then(|meant| route_at.get_mut(meant)) {
                match at {
                    Some(first) if index.is_some() => value.problem(format!(
                        "this line has its route at line {first} of the file; put all its trunks there"
                    )),
                    Some(_) => {}
                    None => *at = Some(section.line()),
                }
            }
            index
        });
        let trunks = trunks.map(|value| {
            let is_for_sinks = !sinks.is_empty() && value.elements().is_some_and(|elements| elements.is_empty());
            if is_for_sinks { Vec::new() } else { indices(&value, "trunk", trunk_names) }
        });
        read.extend(line.zip(trunks).map(|(line, trunks)| {
            let barge_in = barge_in.unwrap_or_default();
            Route { line, trunks, barge_in, sinks, record }
        }));
    }
    for ((_, section), at) in lines.iter().zip(route_at) {
        if at.is_none() {
            section.problem("", "no [[route]] names this line; its calls would have nowhere to go");
        }
    }
    read
}

/// What the names in an array are of, by their places; there has to be one.
fn indices(value: &Value<'_>, kind: &str, known: &[&str]) -> Vec<usize> {
    let example = if kind == "trunk" { "agent" } else { "crm" };
    let names = value.texts(&format!("wanted at least one name of a {kind}, e.g. [\"{example}\"]"));
    let index = |(name, value): (&str, Value<'_>)| {
        let index = known.iter().position(|one| *one == name);
        if index.is_none() {
            value.problem(no_such(kind, name, known));
        }
        index
    };
    names.into_iter().filter_map(index).collect()
}

/// Why a header may not be set, if so. RFC 9110 5.1 says what a name is; those of the handshake are ours (RFC 6455 4.1).
pub(crate) fn refused_header(name: &str) -> Option<&'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        _ if name.is_empty() || !name.bytes().all(is_token) => Some("not the name of a header"),
        "host" | "upgrade" | "connection" => Some("this header is the handshake's own"),
        "content-length" | "transfer-encoding" => Some("a WebSocket request has no body"),
        _ if lower.starts_with("sec-websocket-") => Some("this header is the handshake's own"),
        _ => None,
    }
}

/// Whether a header by this name most likely lets its bearer in somewhere.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "cookie" | "proxy-authorization")
        || ["token", "secret", "key", "password"].iter().any(|word| name.contains(word))
}

/// Whether this file holds certificates.
pub(super) fn certificates(path: &Path) -> Result<(), String> {
    readable(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !path.is_file() {
        return Err("it is not a file; it is read more than once, which a pipe cannot be".to_owned());
    }
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(()),
        Ok(_) => Err("it holds no certificate; wanted PEM, which begins with -----BEGIN CERTIFICATE-----".to_owned()),
        Err(error) => Err(format!("it is not PEM: {error}; wanted -----BEGIN CERTIFICATE-----")),
    }
}

pub(super) fn readable(path: &Path) -> io::Result<()> {
    // Asked before it is opened: opening a named pipe waits for its writer.
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    if fs::metadata(path)?.is_file() {
        fs::File::open(path)?;
    }
    Ok(())
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

const LINE_KINDS: &[&str] = &["audiosocket", "websocket", "pipe", "sip", "sound"];
const AUDIOSOCKET_KEYS: &[&str] = &["listen", "allow", "listen-anywhere"];

/// The port of Asterisk's own AudioSocket examples.
const AUDIOSOCKET_PORT: u16 = 9092;
const HTTP_PORT: u16 = 9464;

/// How long live calls may go on when the daemon is to end (s).
const DRAIN_SECONDS: u32 = 30;

/// What the dialects have room for (bytes).
const MAX_ACCOUNT: usize = 128;

/// Half of what a 32-bit process can address.
const MAX_POOL_MIB: u32 = 2048;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::HashMap, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::load;

    const GOOD: &str = r#"[media]
[control]
[line.pbx]
kind = "audiosocket"
[trunk.agent]
url = "wss://agent.example.com/ws"
dialect = "ozonetel"
[[route]]
line = "pbx"
trunks = ["agent"]
"#;

    #[derive(Default)]
    struct Given {
        variables: HashMap<&'static str, &'static str>,
        credentials: Option<PathBuf>,
    }

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            self.credentials.clone()
        }
    }

    /// Reads the good file with one piece of it replaced.
    fn read(from: &str, to: &str) -> Result<Config, Problems> {
        assert!(GOOD.contains(from), "{from} is not in the good file");
        resolve(Path::new("t.toml"), &GOOD.replacen(from, to, 1), &Given::default())
    }

    #[test]
    fn every_way_to_break_a_file_is_told_with_its_place_and_its_remedy() {
        for (from, to, wanted) in BROKEN {
            let said = read(from, to).unwrap_err().to_string();
            let wanted: Vec<_> = wanted.iter().map(|line| line.replace(DIALECTS, &dialects())).collect();
            assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "with\n{to}");
        }
    }

    #[test]
    fn many_mistakes_in_one_file_are_told_at_once_in_its_order() {
        let text = r#"acount = "depot"
[media]
max-calls = 0
cushion = 10
[control]
http = "0.0.0.0:9464"
[line.pbx]
kind = "audiosocket"
listen = "0.0.0.0:9092"
[line.lab]
kind = "pip"
sample-rate = 44100
[trunk.agent]
url = "http://me:hush@agent.example.com"
dialect = "exotell"
bearer = "hush"
[trunk.agent.exotel]
chunk-byte = 3200
[[route]]
line = "pbx"
trunks = ["agnet"]
"#;
        let said = resolve(Path::new("/etc/trunkline/trunkline.toml"), text, &Given::default()).unwrap_err();
        let lines: Vec<_> = said.0.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 3, 4, 6, 9, 10, 11, 12, 14, 15, 16, 18, 21]);
        let said = said.to_string();
        assert!(!said.contains("hush"), "{said}");
        let dialects = dialects();
        assert!(said.contains(&format!(
            "\n/etc/trunkline/trunkline.toml:15: [trunk.agent] dialect = \"exotell\": no such dialect; did you mean \
             `exotel`? ({dialects})\n"
        )));
    }

    #[test]
    fn nothing_that_is_not_said_is_needed() {
        let config = read("[media]", "[media]").unwrap();
        assert_eq!(config.account, "trunkline");
        let Media { max_calls, threads, downlink_seconds, downlink_pool_mib, uplink_max_ms, cushion_ms } = config.media;
        assert_eq!((max_calls, threads, downlink_seconds, downlink_pool_mib), (8, 1, 600, None));
        assert_eq!((uplink_max_ms, cushion_ms), (2000, 10));
        assert_eq!(config.control.http, Some("127.0.0.1:9464".parse().unwrap()));
        let LineKind::Audiosocket { listen, allow } = &config.lines[0].kind else { unreachable!() };
        assert_eq!((listen.to_string(), allow.len()), ("127.0.0.1:9092".to_owned(), 0));
        let trunk = &config.trunks[0];
        assert_eq!((trunk.name.as_str(), trunk.dialect, trunk.sample_rate), ("agent", "ozonetel", None));
        assert_eq!(trunk.connect_timeout, Duration::from_secs(5));
        assert_eq!((trunk.headers.len(), trunk.insecure, trunk.ca_file.as_ref()), (0, false, None));
        assert!(trunk.authorization.is_none());
        let route = Route { line: 0, trunks: vec![0], barge_in: BargeIn::Cloud, sinks: vec![], record: false };
        assert_eq!(config.routes, [route]);
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn exotels_rate_goes_into_the_url_and_its_other_parameters_into_the_start() {
        let url = "url = \"wss://agent.example.com/ws?lane=sales%20desk\"\ndialect = \"exotel\"\nsample-rate = 16000";
        let config = read("url = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"", url).unwrap();
        assert_eq!(config.trunks[0].url.path_and_query, "/ws?lane=sales%20desk&sample-rate=16000");
        let mut wanted = Options::default();
        assert!(wanted.exotel.add_parameter("lane", "sales desk"));
        assert_eq!(config.trunks[0].options.exotel, wanted.exotel);

        let url = "url = \"wss://agent.example.com/ws?sample-rate=24000\"\ndialect = \"exotel\"";
        let config = read("url = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"", url).unwrap();
        assert_eq!(config.trunks[0].sample_rate, Some(Rate::Hz24000));
        assert_eq!(config.trunks[0].url.path_and_query, "/ws?sample-rate=24000");

        let problems =
            read("url = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"", &format!("{url}\nsample-rate = 8000"));
        assert!(problems.unwrap_err().to_string().contains("its sample-rate is not the trunk's"));
    }

    #[test]
    fn a_file_that_holds_no_certificate_is_told_by_the_check() {
        let folder = tempfile::tempdir().unwrap();
        for (text, words) in [("", "it holds no certificate"), ("-----BEGIN CERTIFICATE-----", "it is not PEM")] {
            let path = folder.path().join("ca.pem");
            fs::write(&path, text).unwrap();
            assert!(certificates(&path).unwrap_err().starts_with(words), "{words}");
        }
    }

    #[test]
    fn a_pipe_does_not_empty_its_own_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.wav");
        fs::write(&path, "RIFF").unwrap();
        assert_eq!(place(&path), place(&folder.path().join(".").join("talk.wav")));
        assert_ne!(place(&path), place(&folder.path().join("other.wav")));
    }

    #[test]
    fn the_file_that_the_readme_shows_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed([]).unwrap();
        fs::write(folder.path().join("extra-ca.pem"), own.cert.pem()).unwrap();
        let path = folder.path().join("trunkline.toml");
        fs::write(
            &path,
            r#"[media]
max-calls = 8
[control]
http = "127.0.0.1:9464"
[line.pbx]
kind = "audiosocket"
listen = "127.0.0.1:9092"
[trunk.agent]
url = "wss://agent.example.com/ws"
dialect = "ozonetel"
ca-file = "extra-ca.pem"
[[route]]
line = "pbx"
trunks = ["agent"]
"#,
        )
        .unwrap();
        let config = load(&path, &Given::default()).unwrap();
        assert_eq!(config.trunks[0].ca_file, Some(folder.path().join("extra-ca.pem")));
    }

    #[test]
    fn every_file_in_configs_is_good_on_any_machine() {
        let mut names = Vec::new();
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/configs")).unwrap() {
            let path = file.unwrap().path();
            let config = load(&path, &Given::default()).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.warnings(), [""; 0], "{}", path.display());
            names.push(path.file_name().unwrap().to_owned());
        }
        assert!(names.len() >= 4, "{names:?}");
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_never_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.toml");
        let said = load(&path, &Given::default()).unwrap_err().to_string();
        assert_eq!(said, format!("{}: cannot be read: No such file or directory (os error 2)", path.display()));
        assert!(load(folder.path(), &Given::default()).is_err());
        fs::write(&path, b"[media]\n# caf\xe9\n").unwrap();
        let said = load(&path, &Given::default()).unwrap_err().to_string();
        assert_eq!(said, format!("{}:2: not UTF-8 text", path.display()));
    }

    #[test]
    fn a_secret_comes_from_each_of_its_sources_and_loses_one_line_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secrets_pass"), "s3cret\r\n").unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "abc\n").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o400)).unwrap();
        let given = Given {
            variables: HashMap::from([("KEY", "k3y"), ("BAD", "a\r\nX-Evil: 1"), ("EMPTY", "\n"), ("BLANK", "a b")]),
            credentials: Some(folder.path().to_owned()),
        };
        let path = folder.path().join("trunkline.toml");
        let read = |keys: &str| {
            let dialect = "dialect = \"ozonetel\"\n";
            let text = GOOD.replace(dialect, &format!("{dialect}{keys}\n"));
            resolve(&path, &text, &given).map(|config| config.trunks[0].clone()).map_err(|problems| problems.0)
        };

        // RFC 7617 2 has this form; printf depot:s3cret | base64.
        let trunk = read(r#"basic = { user = "depot", password = { credential = "pass" } }"#).unwrap();
        assert_eq!(trunk.authorization.as_ref().unwrap().reveal(), "Basic ZGVwb3Q6czNjcmV0");
        let trunk = read(r#"bearer = { file = "token" }"#).unwrap();
        assert_eq!(trunk.authorization.as_ref().unwrap().reveal(), "Bearer abc");
        assert!(!format!("{trunk:?}").contains("abc"));
        let trunk = read(r#"headers = { X-Site = "depot", X-Key = { env = "KEY" } }"#).unwrap();
        let headers: Vec<_> = trunk.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(headers, [("X-Site", "depot"), ("X-Key", "k3y")]);
        assert!(!format!("{trunk:?}").contains("k3y"));

        let trunk = read(r#"headers = { X-Site = "depot" }"#).unwrap();
        assert!(!format!("{trunk:?}").contains("depot"), "a value that nobody thought a secret may be one");

        for (keys, wanted) in [
            (r#"bearer = { env = "BAD" }"#, "the secret has a line break or control character"),
            (r#"bearer = { env = "EMPTY" }"#, "the secret is empty"),
            (r#"bearer = { env = "BLANK" }"#, "a bearer token is visible ASCII without blanks"),
            (r#"bearer = { credential = "../token" }"#, "wanted the name of a credential, not a path"),
            (
                r#"bearer = { env = "KEY" }
                headers = { authorization = { env = "KEY" } }"#,
                "beside `headers.Authorization`; a request has one, leave out one of the two",
            ),
        ] {
            let problems = read(keys).unwrap_err();
            assert_eq!(problems.iter().map(|problem| problem.wanted.as_str()).collect::<Vec<_>>(), [wanted]);
        }

        fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            read(r#"bearer = { file = "token" }"#).unwrap_err()[0].to_string(),
            format!(
                "{}:8: [trunk.agent] bearer.file = \"token\": mode 0644 lets others at it; run: chmod 600 {}",
                path.display(),
                token.display()
            )
        );
    }

    #[test]
    fn a_trunk_can_sign_a_token_for_each_call() {
        let given = Given {
            variables: HashMap::from([
                ("RSA", include_str!("../../tests/keys/rsa-private.pem")),
                ("EC", include_str!("../../tests/keys/ec-private.pem")),
                ("PUBLIC", include_str!("../../tests/keys/rsa-public.pem")),
                ("SHARED", "thirty-two bytes are the least..."),
                ("SHORT", "hush"),
            ]),
            ..Given::default()
        };
        let path = Path::new("t.toml");
        let read = |keys: &str| {
            let dialect = "dialect = \"ozonetel\"\n";
            let text = GOOD.replace(dialect, &format!("{dialect}{keys}\n"));
            resolve(path, &text, &given)
                .map(|config| config.trunks[0].clone())
                .map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        for (keys, shown) in [
            (r#"jwt = { key = { env = "RSA" } }"#, "Some(Signer(RS256))"),
            (r#"jwt = { key = { env = "RSA" }, algorithm = "RS256", issuer = "us" }"#, "Some(Signer(RS256))"),
            (r#"jwt = { key = { env = "EC" }, algorithm = "ES256", expires-seconds = 60 }"#, "Some(Signer(ES256))"),
            (r#"jwt = { key = { env = "SHARED" }, algorithm = "HS256", audience = "rtaa" }"#, "Some(Signer(HS256))"),
        ] {
            let trunk = read(keys).unwrap();
            assert_eq!((format!("{:?}", trunk.jwt).as_str(), trunk.authorization.is_none()), (shown, true), "{keys}");
        }
        for (keys, said) in [
            (
                r#"jwt = { key = { env = "PUBLIC" } }"#,
                "t.toml:8: [trunk.agent] jwt.key = ***: wanted an RSA private key in PEM, of 2048 bits or more, without a \
                 passphrase",
            ),
            (
                r#"jwt = { key = { env = "SHORT" }, algorithm = "HS256" }"#,
                "t.toml:8: [trunk.agent] jwt.key = ***: wanted a secret of at least 32 bytes (RFC 7518 3.2)",
            ),
            (
                r#"jwt = { algorithm = "RS265", expires-seconds = 1 }"#,
                "t.toml:8: [trunk.agent] jwt.key: missing; wanted e.g. { credential = \"NAME\" }\n\
                 t.toml:8: [trunk.agent] jwt.algorithm = \"RS265\": no such algorithm; there are: RS256, ES256, HS256\n\
                 t.toml:8: [trunk.agent] jwt.expires-seconds = 1: wanted a whole number from 30 to 86400",
            ),
            (
                r#"jwt = "hush""#,
                "t.toml:8: [trunk.agent] jwt = ***: wanted { key = { credential = \"NAME\" }, algorithm = \"RS256\" }",
            ),
            (
                "bearer = { env = \"SHORT\" }\njwt = { key = { env = \"RSA\" } }",
                "t.toml:9: [trunk.agent] jwt = ***: beside `bearer`; a request has one authorization, leave out one of \
                 the two",
            ),
        ] {
            assert_eq!(read(keys).unwrap_err(), said, "{keys}");
        }
    }

    #[test]
    fn several_lines_and_trunks_keep_the_files_order() {
        let config = read(
            "[line.pbx]",
            r#"[line.zulu]
kind = "pipe"
input = "-"
output = "out.WAV"
sample-rate = 16_000
[line.alpha]
kind = "audiosocket"
listen = "[::1]:0"
[trunk.zulu]
url = "ws://localhost:8080"
dialect = "exotel"
sample-rate = 8000
[[route]]
line = "alpha"
trunks = ["zulu", "agent"]
[[route]]
line = "zulu"
trunks = ["agent"]
[line.pbx]"#,
        )
        .unwrap();
        assert_eq!(config.lines.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(), ["zulu", "alpha", "pbx"]);
        assert_eq!(config.trunks.iter().map(|trunk| trunk.name.as_str()).collect::<Vec<_>>(), ["zulu", "agent"]);
        let route = |line, trunks: &[usize]| {
            let trunks = trunks.to_vec();
            Route { line, trunks, barge_in: BargeIn::Cloud, sinks: vec![], record: false }
        };
        assert_eq!(config.routes, [route(1, &[0, 1]), route(0, &[1]), route(2, &[1])]);
        assert_eq!(config.line_rate(), Rate::Hz16000);
        let LineKind::Pipe(line) = &config.lines[0].kind else { unreachable!() };
        let output = Some(config::PipeEnd::Wav("out.WAV".into()));
        assert_eq!(line.source, config::PipeSource::Ends { input: config::PipeEnd::Standard, output });
    }

    #[test]
    fn systemds_folders_hold_the_records_and_the_socket_unless_the_file_says_otherwise() {
        let given = |toml: &str| {
            let variables =
                [("RUNTIME_DIRECTORY", "/run/trunkline:/run/more"), ("STATE_DIRECTORY", "/var/lib/trunkline")].into();
            let text = GOOD.replacen("[control]", toml, 1);
            resolve(Path::new("/etc/t.toml"), &text, &Given { variables, ..Given::default() }).unwrap()
        };
        let config = given("[control]");
        assert_eq!(config.control.socket.as_deref(), Some(Path::new("/run/trunkline/control.sock")));
        assert_eq!(config.records.directory.as_deref(), Some(Path::new("/var/lib/trunkline")));
        assert!(!config.records.full_numbers && !config.control.call_info);
        assert_eq!(config.control.drain, Duration::from_secs(30));
        let config = given("[records]\ndirectory = \"kept\"\n[control]\nsocket = \"off\"\ndrain-seconds = 0");
        assert_eq!((config.control.socket, config.control.drain), (None, Duration::ZERO));
        assert_eq!(config.records.directory.as_deref(), Some(Path::new("/etc/kept")));
        let config = read("[control]", "[control]").unwrap();
        assert_eq!((config.control.socket, config.records.directory), (None, None));
    }

    #[test]
    fn what_is_allowed_but_unwise_is_said_at_every_start() {
        let listening = "kind = \"audiosocket\"\nlisten = \"0.0.0.0\"\n";
        let said = |from: &str, to: &str| read(from, to).unwrap().warnings();
        assert_eq!(
            said("wss://agent.example.com/ws\"", "ws://agent.example.com/ws?key=hush\"\ninsecure = true"),
            ["[trunk.agent] insecure: speech and headers go to agent.example.com in the clear"]
        );
        assert_eq!(
            said("[control]", "[control]\nhttp = \"0.0.0.0\"\nhttp-anywhere = true"),
            ["[control] http-anywhere: whoever reaches 0.0.0.0:9464 can read the metrics"]
        );
        assert_eq!(
            said("kind = \"audiosocket\"\n", &format!("{listening}listen-anywhere = true\n")),
            ["[line.pbx] listen-anywhere: whoever reaches 0.0.0.0:9092 can place calls"]
        );
        assert_eq!(said("kind = \"audiosocket\"\n", &format!("{listening}allow = [\"10.0.0.0/8\"]\n")), [""; 0]);
        assert_eq!(
            said("[[route]]", "[trunk.spare]\nurl = \"wss://b.example\"\ndialect = \"binary\"\n[[route]]"),
            ["[trunk.spare] is named by no route"]
        );
    }

    #[test]
    fn the_arithmetic_of_the_pool_is_told() {
        let config = read("[media]", "[media]").unwrap();
        assert_eq!(config.media.pool_bytes(Rate::Hz8000), 8 * (72 << 10) + (16 << 20));
        assert_eq!(
            config.arithmetic(),
            "the downlink pool is 16.6 MiB: 8 calls x 72 KiB = 0.6 MiB reserved, and 16 MiB shared; it holds \
             1085 s of speech at 8000 Hz, one call at most 600 s"
        );
        let config = read("[media]", "[media]\nmax-calls = 200\ndownlink-pool-mib = 64").unwrap();
        assert_eq!(config.media.pool_bytes(config.line_rate()), 64 << 20);
        assert_eq!(
            config.arithmetic(),
            "the downlink pool is 64 MiB (downlink-pool-mib), of which 200 calls x 72 KiB = 14.1 MiB are \
             reserved; it holds 4194 s of speech at 8000 Hz, one call at most 600 s"
        );
    }

    #[test]
    fn a_dialects_options_reach_it() {
        let table = "dialect = \"ozonetel\"\n[trunk.agent.ozonetel]\nomit-event = true";
        let config = read("dialect = \"ozonetel\"", table).unwrap();
        assert_ne!(format!("{:?}", config.trunks[0].options), format!("{:?}", Options::default()));
    }

    #[test]
    fn two_that_write_the_same_file_or_their_own_input_are_told_apart_from_two_that_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("in.wav"), "").unwrap();
        std::os::unix::fs::symlink(at("in.wav"), at("link.wav")).unwrap();
        fs::create_dir(at("sub")).unwrap();
        let said = |one: [&str; 2], other: [&str; 2]| {
            let pipe = |name: &str, [input, output]: [&str; 2]| {
                format!("[line.{name}]\nkind = \"pipe\"\ninput = \"{input}\"\noutput = \"{output}\"\n")
            };
            let route = |name: &str| format!("[[route]]\nline = \"{name}\"\ntrunks = [\"agent\"]\n");
            let text = format!("{}{}{GOOD}{}{}", pipe("a", one), pipe("b", other), route("a"), route("b"));
            let problems = resolve(&at("t.toml"), &text, &Given::default()).err().map(|problems| problems.0);
            problems.unwrap_or_default().into_iter().map(|one| (one.line, one.key, one.wanted)).collect::<Vec<_>>()
        };
        assert_eq!(said(["in.wav", "a.wav"], ["in.wav", "b.wav"]), []);
        assert_eq!(said(["in.wav", "-"], ["-", "b.wav"]), []);
        let emptied = "it is the input too, and would be emptied; wanted another file";
        for same in ["in.wav", "./sub/../in.wav", "link.wav"] {
            assert_eq!(
                said(["in.wav", same], ["-", "-"]),
                [(4, "[line.a] output".to_owned(), emptied.to_owned())],
                "{same}"
            );
        }
        let taken = "[line.a] writes it too; wanted another file";
        for same in ["new.wav", "./new.wav", "sub/../new.wav"] {
            let wanted = [(8, "[line.b] output".to_owned(), taken.to_owned())];
            assert_eq!(said(["in.wav", "new.wav"], ["-", same]), wanted, "{same}");
        }
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_told_where_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed([]).unwrap();
        let (good, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let said = |text: &str| {
            fs::write(folder.path().join("ca.pem"), text).unwrap();
            let dialect = "dialect = \"ozonetel\"\n";
            let text = GOOD.replace(dialect, &format!("{dialect}ca-file = \"ca.pem\"\n"));
            let problems = resolve(&folder.path().join("t.toml"), &text, &Given::default()).err();
            problems.map(|problems| (problems.0[0].line, problems.0[0].key.clone(), problems.0[0].wanted.clone()))
        };
        assert_eq!(said(&good), None);
        assert_eq!(said(&format!("{key}{good}{good}")), None);
        for bad in [&key, "", "-----BEGIN CERTIFICATE-----\nMIIB\n"] {
            let (line, key, wanted) = said(bad).unwrap();
            assert_eq!((line, key.as_str()), (8, "[trunk.agent] ca-file"));
            assert!(wanted.contains("-----BEGIN CERTIFICATE-----"), "{wanted}");
        }
    }

    #[test]
    fn exotels_rate_is_in_the_url_once_however_it_was_named() {
        let trunk = |url: &str, more: &str| {
            let to = format!("url = \"{url}\"\ndialect = \"exotel\"\n{more}");
            read("url = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"\n", &to)
                .map(|config| config.trunks[0].clone())
        };
        for (url, more, target, rate) in [
            ("wss://a.example/ws", "", "/ws", None),
            ("wss://a.example/ws", "sample-rate = 8000\n", "/ws", Some(Rate::Hz8000)),
            ("wss://a.example/ws", "sample-rate = 16000\n", "/ws?sample-rate=16000", Some(Rate::Hz16000)),
            ("wss://a.example/ws?a=b", "sample-rate = 24000\n", "/ws?a=b&sample-rate=24000", Some(Rate::Hz24000)),
            ("wss://a.example/?sample_rate=16000", "", "/?sample_rate=16000", Some(Rate::Hz16000)),
            ("wss://a.example/?sample-rate=16000", "sample-rate = 16000\n", "/?sample-rate=16000", Some(Rate::Hz16000)),
        ] {
            let trunk = trunk(url, more).unwrap();
            assert_eq!((trunk.url.path_and_query.as_str(), trunk.sample_rate), (target, rate), "{url} {more}");
        }
        for (url, more, wanted) in [
            (
                "wss://a.example/?sample-rate=8000&key=hush",
                "sample-rate = 16000\n",
                "its sample-rate is not the trunk's `sample-rate`; write it once",
            ),
            ("wss://a.example/?sample-rate=48000&key=hush", "", "its sample-rate is none of 8000, 16000, 24000"),
            (
                "wss://a.example/?a=1&b=2&c=3&d=hush",
                "",
                "Exotel has at most 3 custom parameters, of 256 characters together",
            ),
        ] {
            let said = trunk(url, more).unwrap_err().to_string();
            assert_eq!(said, format!("t.toml:6: [trunk.agent] url = \"wss://a.example/?...\": {wanted}"));
        }
        let mut wanted = Options::default();
        assert!(
            wanted.exotel.add_parameter("lane", "sales & more") && wanted.exotel.add_parameter("caf\u{e9}", "100%+5")
        );
        let trunk = trunk("wss://a.example/?lane=sales+%26%20more&sample-rate=16000&caf%C3%A9=100%%2B5", "").unwrap();
        assert_eq!(trunk.options.exotel, wanted.exotel);
        assert!(!format!("{trunk:?}").contains("sales"), "a parameter may be a token");
    }

    #[test]
    fn a_rate_that_the_dialect_does_not_have_is_refused() {
        for (dialect, hz, wanted) in [
            ("ozonetel", 16_000, Some("`ozonetel` has only 8000")),
            ("ozonetel", 8000, None),
            ("exotel", 48_000, Some("`exotel` has only 8000, 16000, 24000")),
            ("exotel", 24_000, None),
            ("twilio", 16_000, Some("`twilio` has only 8000")),
            ("plivo", 24_000, Some("`plivo` has only 8000, 16000")),
            ("binary", 48_000, None),
        ] {
            let said = read("dialect = \"ozonetel\"", &format!("dialect = \"{dialect}\"\nsample-rate = {hz}"));
            let problem = said.err().map(|problems| problems.to_string());
            let wanted = wanted.map(|wanted| format!("t.toml:8: [trunk.agent] sample-rate: {wanted}"));
            assert_eq!(problem, wanted, "{dialect} at {hz}");
        }
    }

    /// The names of all dialects, as a problem lists them.
    fn dialects() -> String {
        dialect::NAMES.join(", ")
    }

    /// Where [`dialects`] stand in a problem below.
    const DIALECTS: &str = "{dialects}";

    #[test]
    fn an_openai_trunk_needs_no_url_but_then_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let openai = |keys: &str| {
            let trunk = format!("[trunk.agent]\ndialect = \"openai\"\n{keys}\n");
            let config =
                GOOD.replace("[trunk.agent]\nurl = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"\n", &trunk);
            resolve(&path, &config, &Given::default()).map_err(|problems| problems.0[0].to_string())
        };
        fs::write(folder.path().join("session.json"), r#"{"instructions":"Be brief."}"#).unwrap();
        let config = openai(
            "[trunk.agent.openai]\nmodel = \"m\"\naudio = \"pcmu\"\napi = \"beta\"\nsession-file = \"session.json\"",
        )
        .unwrap();
        let trunk = &config.trunks[0];
        assert_eq!(
            (trunk.url.host.as_str(), trunk.url.path_and_query.as_str()),
            ("api.openai.com", "/v1/realtime?model=m")
        );
        let headers: Vec<_> = trunk.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(headers, [("OpenAI-Beta", "realtime=v1")]);
        let dialect = dialect::open("openai", Role::Vendor, None, Rate::Hz8000, &trunk.options).unwrap();
        assert_eq!(dialect.rate(), Rate::Hz8000);

        let config = openai("url = \"wss://desk.openai.azure.com/openai/v1/realtime?model=deployed\"").unwrap();
        assert_eq!(config.trunks[0].url.path_and_query, "/openai/v1/realtime?model=deployed");
        for (keys, problem) in [
            ("", "openai: missing; without a `url` it needs a `model`, e.g. openai.model = \"gpt-realtime\""),
            (
                "openai.model = \"m\"\nsample-rate = 8000",
                "sample-rate: `openai` has 24000 Hz with this `audio`; leave it out",
            ),
            ("openai.model = \"m\"\nsample-rate = 16000", "sample-rate: `openai` has only 8000, 24000"),
            (
                "openai = { model = \"m\", session-file = \"no.json\" }",
                "session-file = \"no.json\": cannot be read: No such file or directory (os error 2)",
            ),
        ] {
            let told = openai(keys).unwrap_err();
            assert!(told.ends_with(problem), "{told}");
        }
    }

    const BROKEN: &[(&str, &str, &[&str])] = &[
        ("[media]", "[media", &["t.toml:1: not TOML: unclosed table, expected `]`"]),
        (
            "[media]",
            r#"[media]
[media]"#,
            &["t.toml:2: not TOML: duplicate key"],
        ),
        (
            "[media]",
            r#"[media]
max-calls = 1
max-calls = 2"#,
            &["t.toml:3: not TOML: duplicate key"],
        ),
        (
            "[media]",
            r#"account = 7
[media]"#,
            &["t.toml:1: account = 7: wanted a text in quotes"],
        ),
        (
            "[media]",
            r#"acount = "x"
[medja]"#,
            &[
                "t.toml:1: acount: no such key; did you mean `account`? (account, media, control, records, telnyx, events, call-files, recordings, sinks, line, trunk, sink, route)",
                "t.toml:2: medja: no such table; did you mean `media`? (account, media, control, records, telnyx, events, call-files, recordings, sinks, line, trunk, sink, route)",
            ],
        ),
        (
            "[media]",
            r#"[media]
max_calls = 3
max-calls = 0
threads = "2"
cushion-ms = 10.5
uplink-max-ms = 99999999999999999999"#,
            &[
                "t.toml:2: [media] max_calls: no such key; did you mean `max-calls`? (max-calls, threads, downlink-seconds, uplink-max-ms, cushion-ms, downlink-pool-mib)",
                "t.toml:3: [media] max-calls = 0: wanted a whole number from 1 to 2000",
                r#"t.toml:4: [media] threads = "2": wanted a whole number from 1 to 64"#,
                "t.toml:5: [media] cushion-ms = 10.5: wanted a whole number from 0 to 60",
                "t.toml:6: [media] uplink-max-ms = 99999999999999999999: wanted a whole number from 100 to 5000",
            ],
        ),
        (
            "[media]",
            r#"[media]
max-calls = 2000
downlink-pool-mib = 20"#,
            &["t.toml:3: [media] downlink-pool-mib = 20: 2000 calls x 72 KiB are reserved; wanted at least 141"],
        ),
        ("[media]", "media = 3", &["t.toml:1: media = 3: wanted a table: [media]"]),
        (
            "[control]",
            r#"[control]
http = "0.0.0.0""#,
            &[
                r#"t.toml:3: [control] http = "0.0.0.0": others could reach it, and it asks nobody for a password; listen on 127.0.0.1, or set http-anywhere = true"#,
            ],
        ),
        (
            "[control]",
            r#"[control]
http = "no""#,
            &[r#"t.toml:3: [control] http = "no": wanted an IP address and a port, e.g. "127.0.0.1:9464"; or "off""#],
        ),
        (
            "[control]",
            r#"[control]
http = "0.0.0.0:9464"
http-anywhere = 1"#,
            &[
                r#"t.toml:3: [control] http = "0.0.0.0:9464": others could reach it, and it asks nobody for a password; listen on 127.0.0.1, or set http-anywhere = true"#,
                "t.toml:4: [control] http-anywhere = 1: wanted true or false",
            ],
        ),
        (
            "[control]",
            r#"[control]
http = "127.0.0.1:9092""#,
            &["t.toml:4: [line.pbx] listen: 127.0.0.1:9092 is taken by [control] http; wanted another port"],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "AudioSock"
lisen = 5
input = 7"#,
            &[
                r#"t.toml:4: [line.pbx] kind = "AudioSock": no such kind of line; did you mean `audiosocket`? (audiosocket, websocket, pipe, sip, sound)"#,
                "t.toml:5: [line.pbx] lisen: no such key; did you mean `listen`? (kind, listen, allow, listen-anywhere)",
                "t.toml:6: [line.pbx] input: no such key; there are: kind, listen, allow, listen-anywhere",
            ],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"listen = "pbx.local:9092""#,
            &["t.toml:3: [line.pbx] kind: missing; wanted `audiosocket`, `websocket`, `sip`, `sound` or `pipe`"],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "audiosocket"
listen = "0.0.0.0:9092""#,
            &[
                r#"t.toml:5: [line.pbx] listen = "0.0.0.0:9092": others could reach it, and AudioSocket knows no password; listen on 127.0.0.1, or name the PBX: allow = ["192.0.2.10"], or set listen-anywhere = true"#,
            ],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "audiosocket"
listen = "[::]"
allow = []"#,
            &[
                r#"t.toml:5: [line.pbx] listen = "[::]": wanted an IP address and a port, e.g. "127.0.0.1:9092""#,
                r#"t.toml:6: [line.pbx] allow = [...]: wanted at least one range, e.g. ["10.0.0.0/8"]"#,
            ],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "audiosocket"
listen = "10.0.0.1"
allow = [
"10.0.0.1/8",
7,
"any", "10.0.0.0/40"]"#,
            &[
                r#"t.toml:7: [line.pbx] allow = "10.0.0.1/8": not the first address of its range; did you mean `10.0.0.0/8` or `10.0.0.1`?"#,
                "t.toml:8: [line.pbx] allow = 7: wanted a text in quotes",
                r#"t.toml:9: [line.pbx] allow = "any": wanted a range such as `10.0.0.0/8`, or an address"#,
                r#"t.toml:9: [line.pbx] allow = "10.0.0.0/40": wanted a prefix from 0 to 32"#,
            ],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "audiosocket"
bind = 1
input = "-""#,
            &[
                "t.toml:5: [line.pbx] bind: no such key; did you mean `kind`? (kind, listen, allow, listen-anywhere)",
                "t.toml:6: [line.pbx] input: no such key; there are: kind, listen, allow, listen-anywhere",
            ],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "pipe"
input = "no.wav"
output = "no/where.wav"
sample-rate = 44100"#,
            &[
                r#"t.toml:5: [line.pbx] input = "no.wav": cannot be read: No such file or directory (os error 2)"#,
                r#"t.toml:6: [line.pbx] output = "no/where.wav": its folder does not exist"#,
                "t.toml:7: [line.pbx] sample-rate = 44100: wanted 8000, 16000, 24000 or 48000",
            ],
        ),
        (
            r#"kind = "audiosocket""#,
            r#"kind = "pipe"
input = "a.mp3"
output = 3"#,
            &[
                r#"t.toml:5: [line.pbx] input = "a.mp3": not there; make it by `mkfifo a.mp3`, or name a .wav file, or `-`"#,
                "t.toml:6: [line.pbx] output = 3: wanted a FIFO (`mkfifo PATH`), a .wav file, or `-`",
            ],
        ),
        (
            "[line.pbx]",
            r#"[line."a b"]
kind = "pipe"
[line.pbx]"#,
            &[
                "t.toml:3: [line.a b]: a name is 1 to 64 of a-z, A-Z, 0-9, `-` and `_`",
                "t.toml:3: [line.a b]: no [[route]] names this line; its calls would have nowhere to go",
            ],
        ),
        (
            "[line.pbx]",
            r#"[line]
kind = "pipe"
[line.pbx]"#,
            &[r#"t.toml:4: [line] kind = "pipe": wanted a table: [line.NAME]"#],
        ),
        (
            "[line.pbx]",
            "[[line]]",
            &[
                "t.toml:3: line = [...]: wanted tables: [line.NAME]",
                r#"t.toml:9: [[route]] line = "pbx": no such line; there is none"#,
            ],
        ),
        (
            r#"[line.pbx]
kind = "audiosocket""#,
            "",
            &[
                "t.toml:1: line: missing; wanted at least one table [line.NAME]",
                r#"t.toml:8: [[route]] line = "pbx": no such line; there is none"#,
            ],
        ),
        (
            r#"[line.pbx]
kind = "audiosocket""#,
            "[line]",
            &[
                "t.toml:3: [line]: empty; wanted at least one table [line.NAME]",
                r#"t.toml:8: [[route]] line = "pbx": no such line; there is none"#,
            ],
        ),
        (
            "[line.pbx]",
            r#"[line.a]
kind = "pipe"
[line.b]
kind = "pipe"
[line.c]
kind = "audiosocket"
[line.pbx]"#,
            &[
                "t.toml:3: [line.a]: no [[route]] names this line; its calls would have nowhere to go",
                "t.toml:5: [line.b]: no [[route]] names this line; its calls would have nowhere to go",
                "t.toml:5: [line.b] input: `-` is taken by [line.a]; wanted a .wav file",
                "t.toml:5: [line.b] output: `-` is taken by [line.a]; wanted a .wav file",
                "t.toml:7: [line.c]: no [[route]] names this line; its calls would have nowhere to go",
                "t.toml:9: [line.pbx] listen: 127.0.0.1:9092 is taken by [line.c] listen; wanted another port",
            ],
        ),
        (
            "wss://agent.example.com/ws",
            "ftp://agent.example.com/ws?token=hush",
            &[
                r#"t.toml:6: [trunk.agent] url = "ftp://agent.example.com/ws?...": wanted a WebSocket URL such as `wss://agent.example.com/ws`"#,
            ],
        ),
        (
            "wss://agent.example.com/ws",
            "wss://me:hu/sh@agent.example.com/ws?token=hush",
            &[
                r#"t.toml:6: [trunk.agent] url = "wss://***@agent.example.com/ws?...": wanted a port from 1 to 65535, or none"#,
            ],
        ),
        (
            "wss://agent.example.com/ws",
            "me:hush@agent.example.com",
            &[
                r#"t.toml:6: [trunk.agent] url = "***@agent.example.com": wanted a WebSocket URL such as `wss://agent.example.com/ws`"#,
            ],
        ),
        (
            "wss://agent.example.com/ws",
            "ws://agent.example.com/ws?token=hush",
            &[
                r#"t.toml:6: [trunk.agent] url = "ws://agent.example.com/ws?...": ws:// is for an agent on this machine; use wss://, or set insecure = true to send calls in the clear"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozontel""#,
            &[r#"t.toml:7: [trunk.agent] dialect = "ozontel": no such dialect; did you mean `ozonetel`? ({dialects})"#],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "sip"
[trunk.agent.ozonetel]
x = 1"#,
            &[r#"t.toml:7: [trunk.agent] dialect = "sip": no such dialect; there are: {dialects}"#],
        ),
        (
            r#"dialect = "ozonetel""#,
            "dialect = 5",
            &["t.toml:7: [trunk.agent] dialect = 5: no such dialect; there are: {dialects}"],
        ),
        (
            r#"url = "wss://agent.example.com/ws"
dialect = "ozonetel""#,
            "",
            &[
                "t.toml:5: [trunk.agent] url: missing; wanted e.g. `wss://agent.example.com/ws`",
                "t.toml:5: [trunk.agent] dialect: missing; wanted one of {dialects}",
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
sample-rate = 44100
connect-timeout-ms = 1
insecure = "yes"
ca-file = "no.pem"
berer = "hush""#,
            &[
                "t.toml:8: [trunk.agent] sample-rate = 44100: wanted 8000, 16000, 24000 or 48000",
                "t.toml:9: [trunk.agent] connect-timeout-ms = 1: wanted a whole number from 100 to 60000",
                r#"t.toml:10: [trunk.agent] insecure = "yes": wanted true or false"#,
                r#"t.toml:11: [trunk.agent] ca-file = "no.pem": cannot be read: No such file or directory (os error 2)"#,
                "t.toml:12: [trunk.agent] berer: no such key; did you mean `bearer`? (url, dialect, sample-rate, connect-timeout-ms, headers, bearer, basic, jwt, ca-file, insecure, {dialects})",
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
ca-file = "/tmp"
bearer = "hush"
basic = "hush""#,
            &[
                r#"t.toml:8: [trunk.agent] ca-file = "/tmp": cannot be read: it is a folder"#,
                r#"t.toml:9: [trunk.agent] bearer = ***: a secret is never written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
                "t.toml:10: [trunk.agent] basic = ***: beside `bearer`; a request has one authorization, leave out one of the two",
                r#"t.toml:10: [trunk.agent] basic = ***: wanted { user = "NAME", password = { credential = "NAME" } }"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = {}"#,
            &[
                r#"t.toml:8: [trunk.agent] bearer = ***: wanted one source: { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { credental = "x" }"#,
            &[
                "t.toml:8: [trunk.agent] bearer.credental: no such key; did you mean `credential`? (credential, file, env)",
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { credential = "x" }"#,
            &[
                r#"t.toml:8: [trunk.agent] bearer.credential = ***: there are no credentials: $CREDENTIALS_DIRECTORY is not set (systemd: LoadCredential=)"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { credential = "x", env = "Y" }"#,
            &[
                r#"t.toml:8: [trunk.agent] bearer = ***: wanted one source: { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { env = "hush hush" }"#,
            &["t.toml:8: [trunk.agent] bearer.env = ***: wanted the name of an environment variable"],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { env = "NOT_SET" }"#,
            &[r#"t.toml:8: [trunk.agent] bearer.env = "NOT_SET": this environment variable is not set"#],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { env = "sk_live_hush" }"#,
            &["t.toml:8: [trunk.agent] bearer.env = ***: this environment variable is not set"],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
headers = { Cookie = "hush", X-Api-Key = "hush", proxy-authorization = "hush", X-Auth-Token = "hush", X-Shared-Secret = "hush", X-PASSWORD = "hush" }"#,
            &[
                r#"t.toml:8: [trunk.agent] headers.Cookie = ***: this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
                r#"t.toml:8: [trunk.agent] headers.X-Api-Key = ***: this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
                r#"t.toml:8: [trunk.agent] headers.proxy-authorization = ***: this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
                r#"t.toml:8: [trunk.agent] headers.X-Auth-Token = ***: this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
                r#"t.toml:8: [trunk.agent] headers.X-Shared-Secret = ***: this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
                r#"t.toml:8: [trunk.agent] headers.X-PASSWORD = ***: this header holds a secret, and none is written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { file = "no" }"#,
            &["t.toml:8: [trunk.agent] bearer.file = ***: cannot be read: No such file or directory (os error 2)"],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
bearer = { file = 7 }"#,
            &["t.toml:8: [trunk.agent] bearer.file = 7: wanted a text in quotes"],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
basic = { user = "a:b", password = "hush" }"#,
            &[
                r#"t.toml:8: [trunk.agent] basic.user = "a:b": a user's name has no colon and no control character"#,
                r#"t.toml:8: [trunk.agent] basic.password = ***: a secret is never written down here; wanted { credential = "NAME" }, { file = "PATH" } or { env = "NAME" }"#,
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
basic = { usr = "a" }"#,
            &[
                "t.toml:8: [trunk.agent] basic.user: missing; wanted a text in quotes",
                r#"t.toml:8: [trunk.agent] basic.password: missing; wanted e.g. { credential = "NAME" }"#,
                "t.toml:8: [trunk.agent] basic.usr: no such key; did you mean `user`? (user, password)",
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
headers = { Host = "a", "X Y" = "b", sec-websocket-key = "c", X-A = 5, x-b = "1", X-B = "2", X-C = "a\r\nb", Authorization = "hush" }"#,
            &[
                "t.toml:8: [trunk.agent] headers.Host = ***: this header is the handshake's own",
                "t.toml:8: [trunk.agent] headers.X Y = ***: not the name of a header",
                "t.toml:8: [trunk.agent] headers.sec-websocket-key = ***: this header is the handshake's own",
                r#"t.toml:8: [trunk.agent] headers.X-A = ***: wanted a text in quotes, or a secret: { credential = "NAME" }"#,
                "t.toml:8: [trunk.agent] headers.X-B = ***: this header is there already; upper and lower case are the same",
                "t.toml:8: [trunk.agent] headers.X-C = ***: a header's value is ASCII without line breaks",
                "t.toml:8: [trunk.agent] headers.Authorization = ***: use `bearer` or `basic`, or a secret for another scheme",
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
headers = 5"#,
            &[r#"t.toml:8: [trunk.agent] headers = ***: wanted a table, e.g. { X-Site = "depot" }"#],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
[trunk.agent.ozonetel]
omit_event = true
seqid = "yes"
chunk-samples = []
[trunk.agent.exotel]
"#,
            &[
                "t.toml:9: [trunk.agent.ozonetel] omit_event = true: no such option; did you mean `omit-event`? (first-packet-16k, omit-event, chunk-samples)",
                r#"t.toml:10: [trunk.agent.ozonetel] seqid = "yes": it matters to who plays the agent only, and a trunk plays the vendor; leave it out"#,
                "t.toml:11: [trunk.agent.ozonetel] chunk-samples = [...]: wanted a value such as `80`",
                "t.toml:12: [trunk.agent] exotel: options of another dialect; this trunk speaks `ozonetel`",
            ],
        ),
        (
            r#"dialect = "ozonetel""#,
            "dialect = \"ozonetel\"\nsample-rate = 16000",
            &["t.toml:8: [trunk.agent] sample-rate: `ozonetel` has only 8000"],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "binary"
[trunk.agent.binary]
x = 1"#,
            &["t.toml:9: [trunk.agent.binary] x = 1: no such option; there is none"],
        ),
        (
            r#"dialect = "ozonetel""#,
            r#"dialect = "ozonetel"
ozonetel = true
[trunk.agent.ozontel]
"#,
            &[
                "t.toml:8: [trunk.agent] ozonetel = true: wanted a table: [trunk.agent.ozonetel]",
                "t.toml:9: [trunk.agent] ozontel: no such table; did you mean `ozonetel`? (url, dialect, sample-rate, connect-timeout-ms, headers, bearer, basic, jwt, ca-file, insecure, {dialects})",
            ],
        ),
        (
            r#"trunks = ["agent"]"#,
            r#"trunks = ["agnt", "zzz", 4]
sinks = []"#,
            &[
                "t.toml:10: [[route]] trunks = 4: wanted a text in quotes",
                r#"t.toml:10: [[route]] trunks = "agnt": no such trunk; did you mean `agent`? (agent)"#,
                r#"t.toml:10: [[route]] trunks = "zzz": no such trunk; there are: agent"#,
                r#"t.toml:11: [[route]] sinks = [...]: wanted at least one name of a sink, e.g. ["crm"]"#,
            ],
        ),
        (
            r#"trunks = ["agent"]"#,
            r#"trunks = "agent""#,
            &[r#"t.toml:10: [[route]] trunks = "agent": wanted at least one name of a trunk, e.g. ["agent"]"#],
        ),
        (
            r#"trunks = ["agent"]"#,
            "trunks = []",
            &[r#"t.toml:10: [[route]] trunks = [...]: wanted at least one name of a trunk, e.g. ["agent"]"#],
        ),
        (
            r#"line = "pbx"
trunks = ["agent"]"#,
            "",
            &[
                "t.toml:3: [line.pbx]: no [[route]] names this line; its calls would have nowhere to go",
                "t.toml:8: [[route]] line: missing; wanted the name of a line",
                r#"t.toml:8: [[route]] trunks: missing; wanted the names of trunks, e.g. ["agent"]"#,
            ],
        ),
        (
            r#"line = "pbx""#,
            r#"line = "pxb""#,
            &[r#"t.toml:9: [[route]] line = "pxb": no such line; did you mean `pbx`? (pbx)"#],
        ),
        (
            r#"line = "pbx""#,
            r#"line = "zz""#,
            &[
                "t.toml:3: [line.pbx]: no [[route]] names this line; its calls would have nowhere to go",
                r#"t.toml:9: [[route]] line = "zz": no such line; there are: pbx"#,
            ],
        ),
        (
            "[[route]]",
            r#"[[route]]
line = "pbx"
trunks = ["agent"]
[[route]]"#,
            &[
                r#"t.toml:12: [[route]] line = "pbx": this line has its route at line 8 of the file; put all its trunks there"#,
            ],
        ),
        (
            "[[route]]",
            "[route]",
            &[
                "t.toml:3: [line.pbx]: no [[route]] names this line; its calls would have nowhere to go",
                "t.toml:8: route = {...}: wanted tables, each under its own [[route]]",
            ],
        ),
        (
            "[[route]]",
            "[[routes]]",
            &[
                "t.toml:3: [line.pbx]: no [[route]] names this line; its calls would have nowhere to go",
                "t.toml:8: routes: no such table; did you mean `route`? (account, media, control, records, telnyx, events, call-files, recordings, sinks, line, trunk, sink, route)",
            ],
        ),
    ];
}
