//! `[line.NAME]` of the kind `websocket`: who may bring calls, and where they connect.
//!
//! Either the clouds connect to us (`listen`, and a `[[line.NAME.path]]` for each), or we dial theirs (`dial`) and wait
//! there for a call. Anyone who gets in places calls at the operator's cost, so a path that others can reach says whom
//! it lets in, or says by a word of its own that it lets in anyone.

use core::{net::Ipv4Addr, net::SocketAddr, time::Duration};
use std::path::PathBuf;

use crate::{
    config::{
        Cidr, Secret, Trunk, Url,
        file::{Section, Value, no_such},
        is_loopback,
        resolve::{Resolver, Speaker, Speaks, address, check_rate, named, options, ranges, shown_url},
        secret,
    },
    dialect::{self, Direction, Role},
    leg::websocket::{
        jwt::{Algorithm, Verifier},
        tls,
    },
    media::Rate,
};

/// A line whose calls come over WebSockets. We play the agent on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebsocketLine {
    /// Who connects to whom.
    pub origin: Origin,
    /// A call without audio for so long is over; `None`: it may be silent for ever.
    pub media_timeout: Option<Duration>,
}

/// Who connects to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Clouds connect to us.
    Listen(Box<Listen>),
    /// We keep a connection to the vendor dialled, for its next call.
    Dial(Box<Trunk>),
}

/// Where clouds connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where we listen. Port 0 is any free one.
    pub address: SocketAddr,
    /// What we show; `None`: no TLS.
    pub tls: Option<Pair>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Refused requests that one source may have in a minute before all of its are; 0: any number.
    pub max_per_source: u32,
    /// What whoever asks for the dynamic endpoint is told.
    pub endpoint: Option<Url>,
    /// Where calls are taken; at least one.
    pub paths: Vec<WebsocketPath>,
}

/// A certificate and its key. They were good at the start, and are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// PEM, with the certificates of the issuers between it and the root behind it.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// `[[line.NAME.path]]`: where calls are taken, and from whom.
#[derive(Clone, PartialEq, Eq)]
pub struct WebsocketPath {
    /// Begins with `/`; a request has exactly this before its `?`.
    pub path: String,
    /// One of [`dialect::NAMES`]; `None`: told from the first messages.
    pub dialect: Option<&'static str>,
    /// The rate where the vendor names none; `None`: the dialect's own.
    pub sample_rate: Option<Rate>,
    /// Which way audio flows, as far as the dialect leaves it open.
    pub direction: Direction,
    /// What `[line.NAME.path.DIALECT]` says.
    pub options: dialect::Options,
    /// Who may place calls.
    pub access: Access,
}

/// The path itself may be the only secret that a vendor can keep, so it is not printed.
impl core::fmt::Debug for WebsocketPath {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WebsocketPath").field("dialect", &self.dialect).field("access", &self.access).finish()
    }
}

/// Who may place calls: whoever meets one of these; anyone, if there is none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// From these addresses.
    pub allow: Vec<Cidr>,
    /// With this `USER:PASSWORD` (RFC 7617).
    pub basic: Option<Secret>,
    /// With this token (RFC 6750), the same for every call.
    pub bearer: Option<Secret>,
    /// With a token (RFC 6750, RFC 7519).
    pub jwt: Option<Jwt>,
}

/// Which tokens are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// What reads them.
    pub verifier: Verifier,
    /// A token has to name its tenant and its call.
    pub claims_required: bool,
}

impl Access {
    /// Whether nobody is asked anything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.basic.is_none() && self.bearer.is_none() && self.jwt.is_none()
    }
}

impl Listen {
    /// Whether others than this machine's users reach it: directly, or through a proxy.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        !is_loopback(self.address.ip()) || !self.trusted_proxies.is_empty()
    }
}

impl WebsocketLine {
    /// Where it listens, if it does.
    #[must_use]
    pub fn listen(&self) -> Option<&Listen> {
        match &self.origin {
            Origin::Listen(listen) => Some(listen),
            Origin::Dial(_) => None,
        }
    }

    /// Whom it dials, if it does.
    #[must_use]
    pub fn dial(&self) -> Option<&Trunk> {
        match &self.origin {
            Origin::Listen(_) => None,
            Origin::Dial(trunk) => Some(trunk),
        }
    }

    /// Whether each of its calls has a place of its own, which is dialled when somebody tells its id.
    #[must_use]
    pub fn fetches(&self) -> bool {
        self.dial().is_some_and(|trunk| trunk.url.path_and_query.contains(ID))
    }

    /// The highest rate that a call is known to have. Vendors may name others.
    pub(super) fn rate(&self) -> Rate {
        let own = |dialect: Option<&'static str>, rate: Option<Rate>| rate.or_else(|| own_rate(dialect?));
        let rates = match &self.origin {
            Origin::Listen(listen) => listen.paths.iter().filter_map(|path| own(path.dialect, path.sample_rate)).max(),
            Origin::Dial(trunk) => own(Some(trunk.dialect), trunk.sample_rate),
        };
        rates.unwrap_or(Rate::Hz8000)
    }

    /// What is allowed but should not go unsaid.
    pub(super) fn warn(&self, name: &str, warnings: &mut Vec<String>) {
        match &self.origin {
            Origin::Listen(listen) if listen.is_reachable() => {
                let address = listen.address;
                if listen.tls.is_none() && !is_loopback(address.ip()) {
                    warnings.push(format!(
                        "[line.{name}] plain-anywhere: speech and passwords come to {address} in the clear"
                    ));
                }
                if listen.paths.iter().any(|path| path.access.is_open()) {
                    warnings.push(format!("[line.{name}] anyone: whoever reaches {address} can place calls"));
                }
            }
            Origin::Dial(trunk) if trunk.insecure && !trunk.url.secure && !trunk.url.is_loopback() => {
                let authority = &trunk.url.authority;
                warnings.push(format!("[line.{name}] insecure: speech and headers go to {authority} in the clear"));
            }
            Origin::Listen(_) | Origin::Dial(_) => {}
        }
    }
}

/// The rate that a dialect has when nobody says one.
fn own_rate(dialect: &'static str) -> Option<Rate> {
    let opened = dialect::open(dialect, Role::Agent, None, Rate::Hz8000, &dialect::Options::default())?;
    Some(opened.rate())
}

impl Resolver<'_> {
    pub(super) fn websocket(&self, name: &str, section: &mut Section<'_>) -> Option<WebsocketLine> {
        let seconds = section.whole("media-timeout-seconds", 0..=3600, MEDIA_TIMEOUT_SECONDS);
        let dial = section.get("dial");
        let origin = if let Some(value) = dial {
            if let Some(key) = section.entries().map(|(key, _)| key).find(|key| LISTEN_KEYS.contains(key)) {
                section.problem(key, "a line either listens or dials; leave out `dial`, or this");
                section.ignore(LISTEN_KEYS);
            }
            let table = format!("line.{name}");
            let speaker = Speaker { table: &table, noun: "websocket line", role: Role::Agent };
            let trunk = self.dialled(name, section, "dial", Some(value), &speaker);
            if let Some(dialect) = trunk.as_ref().map(|trunk| trunk.dialect).filter(|name| !dialect::has_start(name)) {
                section.problem(
                    "dialect",
                    format!("`{dialect}` has no start, so every connection would be a call at once; wanted another"),
                );
            }
            if let Some(trunk) = &trunk {
                // Told without the URL, which may be secret.
                let places = trunk.url.path_and_query.matches(ID).count();
                match (trunk.dialect, places) {
                    ("asterisk", 1) => {}
                    ("asterisk", _) => section.problem(
                        "dial",
                        "Asterisk makes an id for each call; wanted it once, as {id}, e.g. \
                         \"ws://127.0.0.1:8088/media/{id}\"",
                    ),
                    ("audiofork", _) => section.problem("dial", "FreeSWITCH connects to us; wanted `listen`"),
                    (_, 0) => {}
                    _ => section.problem("dial", "an {id} in the URL is for `asterisk` alone"),
                }
            }
            trunk.map(|trunk| Origin::Dial(Box::new(trunk)))
        } else {
            self.listen(name, section).map(|listen| Origin::Listen(Box::new(listen)))
        };
        let media_timeout = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Some(WebsocketLine { origin: origin?, media_timeout })
    }

    fn listen(&self, name: &str, section: &mut Section<'_>) -> Option<Listen> {
        let listen = section.get("listen");
        let certificate = section.get("certificate");
        let key = section.get("key");
        let (plain, plain_anywhere) = (section.flag("plain"), section.flag("plain-anywhere"));
        let proxies = section.get("trusted-proxies").map(|value| ranges(&value)).unwrap_or_default();
        let max_per_source = section.whole("max-per-source", 0..=100_000, MAX_PER_SOURCE);
        let endpoint = section.get("endpoint").and_then(|value| endpoint(&value));
        let mut paths = section.array_of_tables_in(&format!("line.{name}."), "path");
        let address = match &listen {
            None => Some((Ipv4Addr::LOCALHOST, PORT).into()),
            Some(value) => address(value, PORT, ""),
        };
        let is_remote = address.is_some_and(|address: SocketAddr| !is_loopback(address.ip()));
        if plain && !plain_anywhere && is_remote {
            section.problem(
                "plain",
                "others could reach it, and hear calls and passwords; wanted `certificate` and `key`, a `listen` on \
                 127.0.0.1, or plain-anywhere = true",
            );
        }
        let tls = self.pair(section, certificate, key, plain || plain_anywhere);
        let is_reachable = is_remote || !proxies.is_empty();
        let mut taken = vec!["/health"];
        if endpoint.is_some() {
            taken.push(ENDPOINT_PATH);
        }
        if paths.is_empty() {
            section.problem("path", format!("missing; wanted at least one [[line.{name}.path]]"));
        }
        let mut read = Vec::new();
        for section in &mut paths {
            let path = section.require("path", "wanted e.g. \"/ws\"").and_then(|value| path(&value, &mut taken));
            let rest = self.path_of_line(name, section, is_reachable);
            section.finish();
            read.push(path.zip(rest).map(|(path, rest)| WebsocketPath { path: path.to_owned(), ..rest }));
        }
        Some(Listen {
            address: address?,
            tls: tls?,
            trusted_proxies: proxies,
            max_per_source,
            endpoint,
            paths: read.into_iter().collect::<Option<_>>()?,
        })
    }

    /// `None`: it was reported. `Some(None)`: no TLS.
    fn pair(
        &self,
        section: &Section<'_>,
        certificate: Option<Value<'_>>,
        key: Option<Value<'_>>,
        plain: bool,
    ) -> Option<Option<Pair>> {
        let (certificate, key) = match (certificate, key) {
            (None, None) if plain => return Some(None),
            (None, None) => {
                section.problem(
                    "certificate",
                    "missing; wanted the files of `certificate` and `key` (PEM), or plain = true on 127.0.0.1",
                );
                return None;
            }
            (Some(value), None) | (None, Some(value)) => {
                value.problem("`certificate` and `key` come together");
                return None;
            }
            (Some(value), Some(_)) if plain => {
                value.problem("beside `plain`; leave out one of the two");
                return None;
            }
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let paths = self.kept_file(&certificate).zip(self.kept_file(&key));
        let (certificate_path, key_path) = paths?;
        if let Err(error) = tls::server_config(&certificate_path, &key_path) {
            certificate.problem(format!("the pair cannot be used: {error}"));
            return None;
        }
        Some(Some(Pair { certificate: certificate_path, key: key_path }))
    }

    /// A file that is read again later: its path, or a credential of systemd's.
    pub(super) fn kept_file(&self, value: &Value<'_>) -> Option<PathBuf> {
        let wanted = r#"wanted a path, or { credential = "NAME" }"#;
        if value.as_table().is_none() {
            return self.path(value, wanted);
        }
        let mut section = value.section_in_line()?;
        let credential = section.get("credential");
        let file = section.get("file");
        section.finish();
        match (credential, file) {
            (Some(value), None) => {
                let folder = self.environment.credentials_dir();
                secret::credential(value.str()?, folder.as_deref()).map_err(|wanted| value.problem(wanted)).ok()
            }
            (None, Some(value)) => self.path(&value, wanted),
            (Some(_), Some(_)) | (None, None) => {
                value.problem(wanted);
                None
            }
        }
    }

    /// All of a path but the path itself.
    fn path_of_line(&self, line: &str, section: &mut Section<'_>, is_reachable: bool) -> Option<WebsocketPath> {
        let dialect = match section.get("dialect") {
            None => Some(None),
            Some(value) if value.as_str() == Some("auto") => Some(None),
            Some(value) => {
                let names: Vec<_> = core::iter::once("auto").chain(dialect::NAMES.iter().copied()).collect();
                named(&value, &names).map(|name| (name != "auto").then_some(name))
            }
        };
        let sample_rate = section.rate("sample-rate");
        let direction = section.get("direction").map_or(Direction::Both, |value| match value.as_str() {
            Some("both") => Direction::Both,
            Some("uplink") => Direction::Uplink,
            _ => {
                value.problem("wanted \"both\" or \"uplink\"");
                Direction::Both
            }
        });
        let table = format!("line.{line}.path");
        let speaker = Speaker { table: &table, noun: "websocket line", role: Role::Agent };
        let speaks = dialect.map_or(Speaks::Unknown, |dialect| dialect.map_or(Speaks::Any, Speaks::One));
        let options = options(&speaker, section, speaks, self.folder);
        check_rate(section, dialect.flatten(), sample_rate);

        let allow = section.get("allow").map(|value| ranges(&value)).unwrap_or_default();
        let basic = section.get("basic").map(|value| self.user_and_password(&value));
        let bearer = section.get("bearer").map(|value| self.bearer_of_path(&value));
        let jwt = section.get("jwt").map(|value| self.jwt_of_path(&value));
        let anyone = section.flag("anyone");
        let is_asked = !allow.is_empty() || basic.is_some() || bearer.is_some() || jwt.is_some();
        if anyone && is_asked {
            section.problem(
                "anyone",
                "beside `allow`, `basic`, `bearer` or `jwt`, which would let in nobody more; leave it out",
            );
        } else if !anyone && !is_asked && section.is_known() && is_reachable {
            section.problem(
                "",
                "anyone could place calls here; wanted one of `allow`, `basic`, `bearer` and `jwt`, or anyone = true",
            );
        }
        let access = Access { allow, basic: basic.flatten(), bearer: bearer.flatten(), jwt: jwt.flatten() };
        Some(WebsocketPath { path: String::new(), dialect: dialect?, sample_rate, direction, options, access })
    }

    fn bearer_of_path(&self, value: &Value<'_>) -> Option<Secret> {
        let token = secret::read(value, self.environment, self.folder)?;
        if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            value.problem_hidden("a bearer token is visible ASCII without blanks");
            return None;
        }
        Some(token)
    }

    fn jwt_of_path(&self, value: &Value<'_>) -> Option<Jwt> {
        let Some(mut section) = value.section_in_line() else {
            value.problem_hidden(r#"wanted { algorithm = "RS256", key = "PATH" }"#);
            return None;
        };
        let names = Algorithm::ALL.map(Algorithm::name);
        let algorithm =
            section.require("algorithm", &format!("wanted one of {}", names.join(", "))).and_then(|value| {
                let found = value.as_str().unwrap_or_default();
                let algorithm = Algorithm::from_name(found);
                if algorithm.is_none() {
                    value.problem(no_such("algorithm", found, &names));
                }
                algorithm
            });
        let key = section.require("key", "wanted the path of a public key (PEM); for HS256 a secret");
        let issuer = section.get("issuer").and_then(|value| value.str().map(str::to_owned));
        let audience = section.get("audience").and_then(|value| value.str().map(str::to_owned));
        let claims_required = section.get("claims").is_some_and(|value| match value.as_str() {
            Some("required") => true,
            Some("optional") => false,
            _ => {
                value.problem("wanted \"required\" or \"optional\"");
                false
            }
        });
        section.finish();
        let (algorithm, value) = (algorithm?, key?);
        let key = if algorithm == Algorithm::Hs256 {
            secret::read(&value, self.environment, self.folder)
        } else if value.as_table().is_some() {
            secret::read_key(&value, self.environment, self.folder)
        } else {
            // A public key is no secret: its file may have any mode.
            let path = self.path(&value, "wanted the path of a public key (PEM)")?;
            let text = secret::contents(&path).map_err(|error| value.problem(format!("cannot be read: {error}")));
            text.ok().map(Secret::new)
        };
        let verifier = Verifier::new(algorithm, &key?).map_err(|error| value.problem_hidden(error.to_string())).ok()?;
        Some(Jwt { verifier: verifier.with_issuer(issuer).with_audience(audience), claims_required })
    }
}

/// A path that no other has.
fn path<'f>(value: &Value<'f>, taken: &mut Vec<&'f str>) -> Option<&'f str> {
    let path = value.str()?;
    if !path.starts_with('/') || path.len() > MAX_PATH || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        value.problem("a path begins with `/` and is visible ASCII");
        return None;
    }
    if path.contains(['?', '#']) {
        value.problem("a path ends before the `?`; a vendor's query is free");
        return None;
    }
    if taken.contains(&path) {
        value.problem("this path is taken; wanted another");
        return None;
    }
    taken.push(path);
    Some(path)
}

fn endpoint(value: &Value<'_>) -> Option<Url> {
    let text = value.str()?;
    match Url::parse(text) {
        Ok(url) if url.secure || url.is_loopback() => Some(url),
        Ok(_) => {
            value.problem_as(format!("{:?}", shown_url(text)), "vendors connect by wss:// only");
            None
        }
        Err(wanted) => {
            value.problem_as(format!("{:?}", shown_url(text)), wanted);
            None
        }
    }
}

/// What stands in `dial` for the id of a call.
pub(crate) const ID: &str = "{id}";

/// Where a vendor asks for the URL to connect to.
pub(crate) const ENDPOINT_PATH: &str = "/api/ingest/exotel-endpoint";

/// Every key of the kind, but for the dialects' tables.
pub(super) const KEYS: &[&str] = &[
    "listen",
    "certificate",
    "key",
    "plain",
    "plain-anywhere",
    "trusted-proxies",
    "max-per-source",
    "endpoint",
    "path",
    "media-timeout-seconds",
    "dial",
    "dialect",
    "sample-rate",
    "connect-timeout-ms",
    "headers",
    "bearer",
    "basic",
    "ca-file",
    "insecure",
];

/// Those of a line that listens.
const LISTEN_KEYS: &[&str] = &[
    "listen",
    "certificate",
    "key",
    "plain",
    "plain-anywhere",
    "trusted-proxies",
    "max-per-source",
    "endpoint",
    "path",
];

/// The usual port of services that take calls by WebSocket where 443 is somebody else's.
const PORT: u16 = 8443;

/// A vendor whose `stop` was lost, and whose connection stays, has hung up by then.
const MEDIA_TIMEOUT_SECONDS: u32 = 60;

/// One every two seconds: more than a vendor that tries again and again, less than it takes to guess a password.
const MAX_PER_SOURCE: u32 = 30;

const MAX_PATH: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::{Config, Environment, Line, LineKind, Problems, load};

    /// One variable and, as credentials, the files of a folder.
    struct Given(Option<PathBuf>);

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            match name {
                "SECRET" => Some("thirty-two-bytes-of-shared-secret".to_owned()),
                "JWT_PUBLIC_KEY" => Some(fs::read_to_string(RSA).unwrap().replace('\n', "\\n")),
                _ => None,
            }
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            self.0.clone()
        }
    }

    const RSA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa-public.pem");

    fn read_in(folder: &Path, keys: &str) -> Result<Config, Problems> {
        let text = format!(
            "[line.c]\nkind = \"websocket\"\n{keys}\n[trunk.agent]\nurl = \"wss://agent.example.com/ws\"\n\
             dialect = \"ozonetel\"\n[[route]]\nline = \"c\"\ntrunks = [\"agent\"]\n"
        );
        let path = folder.join("t.toml");
        fs::write(&path, text).unwrap();
        load(&path, &Given(Some(folder.to_owned())))
    }

    fn listen(config: &Config) -> &Listen {
        let Line { kind: LineKind::Websocket(line), .. } = &config.lines[0] else { panic!("another kind") };
        line.listen().unwrap()
    }

    const WS: &str = "[[line.c.path]]\npath = \"/ws\"";

    #[test]
    fn what_is_not_said_has_its_default() {
        let folder = tempfile::tempdir().unwrap();
        let config = read_in(folder.path(), &format!("plain = true\n{WS}")).unwrap();
        let Listen { address, tls, trusted_proxies, max_per_source, endpoint, paths } = listen(&config);
        assert_eq!((address.to_string().as_str(), tls.as_ref(), *max_per_source), ("127.0.0.1:8443", None, 30));
        assert!(trusted_proxies.is_empty() && endpoint.is_none());
        let WebsocketPath { path, dialect, sample_rate, direction, access, .. } = &paths[0];
        assert_eq!((path.as_str(), *dialect, *sample_rate, *direction), ("/ws", None, None, Direction::Both));
        assert!(access.is_open());
        let LineKind::Websocket(line) = &config.lines[0].kind else { unreachable!() };
        assert_eq!(line.media_timeout, Some(Duration::from_secs(60)));
        assert_eq!((config.line_rate(), config.warnings()), (Rate::Hz8000, Vec::new()));
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let folder = tempfile::tempdir().unwrap();
        tls::throwaway_ca(folder.path(), &[]).unwrap();
        let config = read_in(
            folder.path(),
            &format!(
                r#"
listen = "0.0.0.0:443"
certificate = "server.pem"
key = {{ credential = "server-key.pem" }}
media-timeout-seconds = 0
trusted-proxies = ["10.0.0.0/8"]
max-per-source = 5
endpoint = "wss://voice.example.com/v1/ingest?sample-rate=16000"
[[line.c.path]]
path = "/v1/ingest"
sample-rate = 24000
direction = "uplink"
allow = ["192.0.2.0/24"]
basic = {{ user = "exotel", password = {{ env = "SECRET" }} }}
jwt = {{ algorithm = "RS256", key = "{RSA}", issuer = "rtaa", audience = "us", claims = "required" }}
exotel = {{ chunk-bytes = 1600 }}
[[line.c.path]]
path = "/from-env"
dialect = "exotel"
jwt = {{ algorithm = "RS256", key = {{ env = "JWT_PUBLIC_KEY" }} }}
[line.c.path.exotel]
numbers = "numbers"
[[line.c.path]]
path = "/secret-8f3a"
dialect = "ozonetel"
anyone = true
[[line.c.path]]
path = "/v1/realtime"
dialect = "openai"
bearer = {{ env = "SECRET" }}
"#
            ),
        )
        .unwrap();
        let listen = listen(&config);
        assert_eq!(listen.tls.as_ref().unwrap().key, folder.path().join("server-key.pem"));
        assert_eq!(listen.endpoint.as_ref().unwrap().reveal(), "wss://voice.example.com/v1/ingest?sample-rate=16000");
        let ingest = &listen.paths[0];
        assert_eq!((ingest.sample_rate, ingest.direction), (Some(Rate::Hz24000), Direction::Uplink));
        assert_eq!(listen.paths[3].access.bearer.as_ref().unwrap().reveal(), "thirty-two-bytes-of-shared-secret");
        let access = &ingest.access;
        assert_eq!(access.basic.as_ref().unwrap().reveal(), "exotel:thirty-two-bytes-of-shared-secret");
        assert!(access.jwt.as_ref().unwrap().claims_required);
        assert_eq!(config.line_rate(), Rate::Hz24000);
        let warnings = config.warnings();
        assert_eq!(warnings, ["[line.c] anyone: whoever reaches 0.0.0.0:443 can place calls"]);
        let printed = format!("{config:?}");
        assert!(!printed.contains("thirty-two") && !printed.contains("8f3a"), "{printed}");
    }

    #[test]
    fn a_line_may_dial_its_vendor_instead() {
        let folder = tempfile::tempdir().unwrap();
        let keys = "dial = \"wss://vendor.example.com/agent\"\ndialect = \"ozonetel\"\nozonetel = { seqid = false }";
        let config = read_in(folder.path(), keys).unwrap();
        let LineKind::Websocket(line) = &config.lines[0].kind else { unreachable!() };
        let trunk = line.dial().unwrap();
        assert_eq!(
            (trunk.name.as_str(), trunk.url.host.as_str(), trunk.dialect),
            ("c", "vendor.example.com", "ozonetel")
        );
        assert!(line.listen().is_none());
    }

    #[test]
    fn what_would_let_strangers_in_or_cannot_work_is_refused_with_what_would_do() {
        let folder = tempfile::tempdir().unwrap();
        tls::throwaway_ca(folder.path(), &[]).unwrap();
        tls::throwaway_ca(&folder.path().join("other"), &[]).unwrap();
        fs::write(folder.path().join("bad.pem"), "rubbish").unwrap();
        let pair = "certificate = \"server.pem\"\nkey = \"server-key.pem\"";
        let path = |more: &str| format!("plain = true\n{WS}\n{more}");
        let remote = |more: &str| format!("listen = \"192.0.2.1\"\n{pair}\n{WS}\n{more}");
        for (keys, words) in [
            (WS.to_owned(), "missing; wanted the files of `certificate` and `key` (PEM), or plain = true"),
            (format!("listen = \"0.0.0.0:80\"\nplain = true\n{WS}\nanyone = true"), "or plain-anywhere = true"),
            (format!("plain = true\n{pair}\n{WS}"), "beside `plain`; leave out one of the two"),
            (format!("key = \"server-key.pem\"\n{WS}"), "`certificate` and `key` come together"),
            (format!("certificate = \"none.pem\"\nkey = \"server-key.pem\"\n{WS}"), "none.pem cannot be read"),
            (format!("certificate = \"bad.pem\"\nkey = \"server-key.pem\"\n{WS}"), "bad.pem has no certificate"),
            (format!("certificate = \"server.pem\"\nkey = \"other/server-key.pem\"\n{WS}"), "the pair cannot be used"),
            (format!("certificate = {{ file = 5 }}\nkey = {{ x = 1 }}\n{WS}"), "wanted a path, or { credential"),
            ("plain = true".to_owned(), "missing; wanted at least one [[line.c.path]]"),
            (remote(""), "anyone could place calls here; wanted one of `allow`, `basic`, `bearer` and `jwt`, or"),
            (format!("plain = true\ntrusted-proxies = [\"127.0.0.1\"]\n{WS}"), "anyone could place calls here"),
            (remote("anyone = true\nallow = [\"192.0.2.0/24\"]"), "beside `allow`, `basic`, `bearer` or `jwt`"),
            (remote("allow = []"), "wanted at least one range"),
            (remote("basic = { user = \"a\", password = \"b\" }"), "a secret is never written down here"),
            (format!("plain = true\n{WS}\n{WS}"), "this path is taken; wanted another"),
            ("plain = true\n[[line.c.path]]\npath = \"/health\"".to_owned(), "this path is taken"),
            ("plain = true\n[[line.c.path]]\npath = \"ws\"".to_owned(), "a path begins with `/`"),
            ("plain = true\n[[line.c.path]]\npath = \"/ws?a=b\"".to_owned(), "a path ends before the `?`"),
            ("plain = true\n[[line.c.path]]\ndialect = \"auto\"".to_owned(), "path: missing; wanted e.g. \"/ws\""),
            (path("dialect = \"ozontel\""), "did you mean `ozonetel`? (auto, "),
            (path("dialect = \"ozonetel\"\nsample-rate = 16000"), "`ozonetel` has only 8000"),
            (path("dialect = \"ozonetel\"\nexotel = {}"), "options of another dialect; this websocket line speaks"),
            (path("ozonetel = { first-packet-16k = true }"), "a websocket line plays the agent; leave it out"),
            (path("direction = \"downlink\""), "wanted \"both\" or \"uplink\""),
            (path("bearer = \"hush\""), "a secret is never written down here"),
            (path("headers = {}"), "headers: no such table"),
            (
                "dial = \"wss://vendor.example.com/\"\ndialect = \"binary\"".to_owned(),
                "`binary` has no start, so every connection would be a call at once",
            ),
            (
                "dial = \"ws://127.0.0.1:8088/media/1\"\ndialect = \"asterisk\"".to_owned(),
                "wanted it once, as {id}, e.g. \"ws://127.0.0.1:8088/media/{id}\"",
            ),
            (
                "dial = \"wss://vendor.example.com/{id}\"\ndialect = \"exotel\"".to_owned(),
                "an {id} in the URL is for `asterisk` alone",
            ),
            (
                "dial = \"wss://vendor.example.com/\"\ndialect = \"audiofork\"".to_owned(),
                "FreeSWITCH connects to us; wanted `listen`",
            ),
            (path("jwt = { algorithm = \"RS512\", key = \"k\" }"), "no such algorithm; there are: RS256, ES256, HS256"),
            (path("jwt = { algorithm = \"none\", key = \"k\" }"), "no such algorithm"),
            (path("jwt = { algorithm = \"RS256\", key = \"none.pem\" }"), "cannot be read"),
            (path("jwt = { algorithm = \"RS256\", key = \"server.pem\" }"), "wanted an RSA public key in PEM"),
            (path(&format!("jwt = {{ algorithm = \"ES256\", key = \"{RSA}\" }}")), "wanted a P-256 public key in PEM"),
            (path("jwt = { algorithm = \"HS256\", key = \"hush\" }"), "a secret is never written down here"),
            (path("jwt = { algorithm = \"HS256\", key = { env = \"SECRET\" }, claims = 1 }"), "wanted \"required\""),
            (format!("plain = true\nendpoint = \"ws://voice.example.com/\"\n{WS}"), "vendors connect by wss:// only"),
            (format!("plain = true\nmax-per-source = -1\n{WS}"), "wanted a whole number from 0 to 100000"),
            (
                "dial = \"ws://vendor.example.com/\"\ndialect = \"ozonetel\"".to_owned(),
                "is for a vendor on this machine",
            ),
            ("dial = \"https://vendor.example.com/\"\ndialect = \"ozonetel\"".to_owned(), "wanted a WebSocket URL"),
            (
                "dial = \"wss://vendor.example.com/\"\nplain = true\ndialect = \"exotel\"".to_owned(),
                "either listens or dials",
            ),
            ("dial = \"wss://vendor.example.com/\"".to_owned(), "dialect: missing; wanted one of"),
        ] {
            let said = read_in(folder.path(), &keys).map(|_| keys.clone()).unwrap_err().to_string();
            assert!(said.contains(words), "with\n{keys}\n{said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }
}
