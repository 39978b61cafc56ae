//! The config file: read and checked as a whole, never re-checked.
//!
//! [`load`] either gives a [`Config`] in which every name is resolved and every secret is at hand, or all that is wrong
//! with the file at once. Nothing after it looks at the file; when it is read again, [`Config::succeed`] puts what came of
//! that in the place of what is in use.
//!
//! ```text
//!  trunkline.toml -> file (what is written, and where) -> resolve (what it means) -> Config
//!                                                            |
//!                                        secret (credentials, files of mode 0600, environment)
//! ```

use core::{fmt, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, net::SocketAddr, time::Duration};
use std::{env, fs, path::Path, path::PathBuf};

use crate::{
    call::{attention::BargeIn, bridge::Limits},
    dialect,
    leg::websocket::jwt::Signer,
    media::{Rate, pool::BLOCK},
};

mod effective;
mod file;
mod keep;
mod openai;
mod pipe;
mod places;
mod resolve;
mod route_test;
mod secret;
mod sip;
mod sound;
mod succession;
mod telnyx;
mod websocket;

pub use self::{
    effective::{Provenance, Setting, effective},
    keep::{Events, Folder, Keep, Sink, SinkKind, SinkUrl, Spools},
    pipe::{PipeEnd, PipeLine, PipeSource},
    places::Places,
    route_test::RouteTest,
    secret::Secret,
    sip::{Audio, Dial, Dtmf, Hold, Intake, PortRange, Register, Ringing, SessionTimer, SipLine, SipUri, TlsListen},
    sound::{Echo, SoundLine},
    succession::Succession,
    telnyx::Telnyx,
    websocket::{Access, Jwt, Listen, Origin, Pair, WebsocketLine, WebsocketPath},
};
pub(crate) use self::{
    file::no_such,
    resolve::{decoded, exotel_query, is_secret, refused_header, shown_url},
    telnyx::percent_encoded,
    websocket::{ENDPOINT_PATH, ID},
};

/// Reads a config file.
///
/// # Errors
/// [`Problems`] names everything that is wrong with it. A file that is missing is wrong too.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Config, Problems> {
    let whole = |line, wanted| {
        Problems(vec![Problem { file: path.to_owned(), line, key: String::new(), found: String::new(), wanted }])
    };
    let bytes = fs::read(path).map_err(|error| whole(0, format!("cannot be read: {error}")))?;
    let text = core::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
        whole(before + 1, "not UTF-8 text".to_owned())
    })?;
    resolve::resolve(path, text, environment)
}

/// Reads the text of a config file that is or will be at this path.
///
/// # Errors
/// [`Problems`] names everything that is wrong with it.
pub fn parse(path: &Path, text: &str, environment: &dyn Environment) -> Result<Config, Problems> {
    resolve::resolve(path, text, environment)
}

/// All that Trunkline was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose calls these are: `account_sid` and `tenant_id` in the dialects that have them.
    pub account: String,
    /// What the media path may use.
    pub media: Media,
    /// Watching and steering.
    pub control: Control,
    /// What is kept of calls.
    pub records: Records,
    /// Call control at Telnyx; `None`: none.
    pub telnyx: Option<Telnyx>,
    /// What else is kept of them.
    pub keep: Keep,
    /// Where calls come from, in the file's order.
    pub lines: Vec<Line>,
    /// Where agents are, in the file's order.
    pub trunks: Vec<Trunk>,
    /// Who is told of calls, in the file's order.
    pub sinks: Vec<Sink>,
    /// One for each line.
    pub routes: Vec<Route>,
}

impl Config {
    /// What is allowed but should not go unsaid at a start.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for Line { name, kind, .. } in &self.lines {
            if let LineKind::Audiosocket { listen, allow } = kind
                && allow.is_empty()
                && !is_loopback(listen.ip())
            {
                warnings.push(format!("[line.{name}] listen-anywhere: whoever reaches {listen} can place calls"));
            }
            if let LineKind::Websocket(line) = kind {
                line.warn(name, &mut warnings);
            }
            if let LineKind::Sip(line) = kind {
                line.warn(name, &mut warnings);
            }
        }
        if let Some(http) = self.control.http
            && !is_loopback(http.ip())
        {
            warnings.push(format!("[control] http-anywhere: whoever reaches {http} can read the metrics"));
        }
        if let Some(Telnyx { webhook_listen, .. }) = &self.telnyx
            && !is_loopback(webhook_listen.ip())
        {
            warnings.push(format!("[telnyx] webhook-anywhere: webhooks come to {webhook_listen} in the clear"));
        }
        for (index, Trunk { name, url, insecure, .. }) in self.trunks.iter().enumerate() {
            if *insecure && url.secure {
                warnings.push(format!("[trunk.{name}] insecure has no effect on wss: certificates are always checked"));
            } else if *insecure && url.is_loopback() {
                warnings.push(format!("[trunk.{name}] insecure is not needed: the agent is on this machine"));
            } else if *insecure {
                let authority = &url.authority;
                warnings.push(format!("[trunk.{name}] insecure: speech and headers go to {authority} in the clear"));
            }
            if !self.routes.iter().any(|route| route.trunks.contains(&index)) {
                warnings.push(format!("[trunk.{name}] is named by no route"));
            }
        }
        for (index, Sink { name, at, insecure, .. }) in self.sinks.iter().enumerate() {
            if *insecure && !at.url.secure && !at.url.is_loopback() {
                warnings.push(format!("[sink.{name}] insecure: what calls were about goes to {at} in the clear"));
            }
            if !self.routes.iter().any(|route| route.sinks.contains(&index)) {
                warnings.push(format!("[sink.{name}] is named by no route"));
            }
        }
        warnings
    }

    /// The highest rate that a line is known to have. AudioSocket tells its rate only call by call and counts as 8 kHz;
    /// calls at a higher rate take more of the pool.
    #[must_use]
    pub fn line_rate(&self) -> Rate {
        highest_rate(self.lines.iter().map(|line| &line.kind))
    }

    /// What a firewall has to let in for each line whose ports are not plain from its `listen`.
    #[must_use]
    pub fn ports(&self) -> Vec<String> {
        let ports = |line: &Line| Some(format!("[line.{}] needs {}", line.name, line.kind.sip()?.ports()));
        self.lines.iter().filter_map(ports).collect()
    }

    /// How the downlink pool comes to its size, in plain words.
    #[must_use]
    pub fn arithmetic(&self) -> String {
        let Media { max_calls, downlink_seconds, downlink_pool_mib, .. } = self.media;
        let rate = self.line_rate();
        let pool = self.media.pool_bytes(rate);
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let reserved = format!(
            "{max_calls} calls x {} KiB = {:.1} MiB",
            (self.media.reserve_bytes(rate) / max_calls) >> 10,
            mib(self.media.reserve_bytes(rate))
        );
        let sum = match downlink_pool_mib {
            Some(set) => format!("{set} MiB (downlink-pool-mib), of which {reserved} are reserved"),
            None => format!("{:.1} MiB: {reserved} reserved, and {} MiB shared", mib(pool), POOL_SHARED_BYTES >> 20),
        };
        format!(
            "the downlink pool is {sum}; it holds {} s of speech at {rate}, one call at most {downlink_seconds} s",
            pool / second_bytes(rate)
        )
    }
}

/// `[media]`: what the media path may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Live calls at once.
    pub max_calls: usize,
    /// Media threads.
    pub threads: usize,
    /// The most of the agent's speech that one call may hold (s).
    pub downlink_seconds: u32,
    /// The most of the agent's speech that all calls may hold (MiB); `None`: see [`Media::pool_bytes`].
    pub downlink_pool_mib: Option<u32>,
    /// The caller's speech beyond this is skipped while the trunk is slow (ms).
    pub uplink_max_ms: u32,
    /// The least time that an utterance's first frame waits in the downlink ring (ms).
    pub cushion_ms: u32,
}

impl Media {
    /// The size of the downlink pool: what the file says, else two seconds for each call and 16 MiB.
    #[must_use]
    pub fn pool_bytes(&self, rate: Rate) -> usize {
        match self.downlink_pool_mib {
            Some(mib) => (mib as usize).saturating_mul(1 << 20),
            None => self.reserve_bytes(rate).saturating_add(POOL_SHARED_BYTES),
        }
    }

    /// What of the pool is kept for calls that have nothing yet: two seconds of audio for each, in whole blocks, and a
    /// block to begin each of its queues in.
    #[must_use]
    pub fn reserve_bytes(&self, rate: Rate) -> usize {
        self.max_calls.saturating_mul(Limits::reserve(rate) * BLOCK * size_of::<i16>())
    }
}

/// `[control]`: watching and steering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Where `/metrics` and `/health` are served; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// Whether `POST /calls/UUID` may tell of calls to come.
    pub call_info: bool,
    /// Where `trunkline status` and its like find the daemon; `None`: nowhere.
    pub socket: Option<PathBuf>,
    /// How long live calls may go on after SIGTERM or `trunkline drain`.
    pub drain: Duration,
}

/// `[records]`: what is kept of calls that are over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The folder of `records.jsonl` and `open/`; `None`: nothing is kept.
    pub directory: Option<PathBuf>,
    /// Whether phone numbers are kept whole.
    pub full_numbers: bool,
}

/// `[line.NAME]`: where calls come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its name in routes, logs and metrics.
    pub name: String,
    /// What it is.
    pub kind: LineKind,
    /// The file does not have it any more: no call comes by it, and those that it has go on.
    pub is_gone: bool,
}

/// The kinds of line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Asterisk's AudioSocket; Asterisk connects to us.
    Audiosocket {
        /// Where we listen. Port 0 is any free one.
        listen: SocketAddr,
        /// Who may connect; empty: whoever can.
        allow: Vec<Cidr>,
    },
    /// Calls that a cloud brings over WebSockets.
    Websocket(Box<WebsocketLine>),
    /// A PBX that speaks SIP.
    Sip(Box<SipLine>),
    /// A microphone and a speaker.
    Sound(Box<SoundLine>),
    /// Files, FIFOs or a Unix socket of raw audio.
    Pipe(Box<PipeLine>),
}

impl LineKind {
    /// As the config spells it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Audiosocket { .. } => "audiosocket",
            Self::Websocket(_) => "websocket",
            Self::Sip(_) => "sip",
            Self::Sound(_) => "sound",
            Self::Pipe { .. } => "pipe",
        }
    }

    /// What it says as a line of the kind `sip`.
    #[must_use]
    pub const fn sip(&self) -> Option<&SipLine> {
        if let Self::Sip(line) = self { Some(line) } else { None }
    }

    /// What it says as a line of the kind `sound`.
    #[must_use]
    pub const fn sound(&self) -> Option<&SoundLine> {
        if let Self::Sound(line) = self { Some(line) } else { None }
    }

    /// What it says as a line of the kind `websocket`.
    #[must_use]
    pub const fn websocket(&self) -> Option<&WebsocketLine> {
        if let Self::Websocket(line) = self { Some(line) } else { None }
    }
}

/// `[trunk.NAME]`: where an agent is and how to talk to it; or the vendor that a `websocket` line dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Its name in routes, logs and metrics.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// One of [`dialect::NAMES`].
    pub dialect: &'static str,
    /// The rate to speak, from the key or the URL; `None`: the dialect's own.
    pub sample_rate: Option<Rate>,
    /// How long the whole dial may take, from the name to the upgrade.
    pub connect_timeout: Duration,
    /// Request headers beside those of the handshake. No two of the same name, none with a line break.
    pub headers: Vec<(String, HeaderValue)>,
    /// The whole value of the header `Authorization`, from `basic` or `bearer`.
    pub authorization: Option<Secret>,
    /// Signs the token of that header for each call anew, from `jwt`. Not beside the one before.
    pub jwt: Option<Signer>,
    /// Certificates to trust beside the platform's. The file held at least one at the start.
    pub ca_file: Option<PathBuf>,
    /// `ws://` beyond this machine was asked for.
    pub insecure: bool,
    /// What `[trunk.NAME.DIALECT]` says.
    pub options: dialect::Options,
    /// The file does not have it any more: no call is brought to it, and those that it has go on.
    pub is_gone: bool,
}

impl Trunk {
    /// How often it is dialled before it counts as refusing. A vendor of Exotel's kind tries once more when the
    /// handshake fails (Exotel, "Working with the Stream applet").
    #[must_use]
    pub fn attempts(&self) -> u32 {
        if self.dialect == "exotel" { 2 } else { 1 }
    }

    /// The longest that it may take to be reached, or not.
    #[must_use]
    pub fn longest_dial(&self) -> Duration {
        let asking = if self.url.asks { ASK_LIMIT } else { Duration::ZERO };
        asking + self.connect_timeout * self.attempts()
    }
}

/// The value of a request header. Printed, it keeps itself to itself either way: a plain one may be a token by a name
/// that nobody thought of.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// It stands in the file.
    Plain(String),
    /// It came from elsewhere and is never shown.
    Secret(Secret),
}

impl HeaderValue {
    /// The value for the wire.
    #[must_use]
    pub fn reveal(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(secret) => secret.reveal(),
        }
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[[route]]`: which trunks and sinks serve a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index into [`Config::lines`].
    pub line: usize,
    /// Indices into [`Config::trunks`], in the order in which they are tried; none only where there is a sink.
    pub trunks: Vec<usize>,
    /// What is done when the caller speaks while the agent does.
    pub barge_in: BargeIn,
    /// Indices into [`Config::sinks`].
    pub sinks: Vec<usize>,
    /// Whether its calls are recorded.
    pub record: bool,
}

/// A WebSocket URL (RFC 6455 3), or one of HTTP whose answer names a WebSocket. Printed, it keeps the query, which may hold a token, to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// `wss` or `https`, not `ws` or `http`.
    pub secure: bool,
    /// `https` or `http`: what is there is asked for the URL to dial.
    pub asks: bool,
    /// A name in lower case or an IP address, without brackets.
    pub host: String,
    /// 443 or 80 unless the URL says otherwise.
    pub port: u16,
    /// The request target; begins with `/`.
    pub path_and_query: String,
    /// For the header `Host`: host with brackets where needed, and the port unless it is the scheme's own.
    pub authority: String,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what would do instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::parse_any(text).and_then(|url| if url.asks { Err(WANTED_URL) } else { Ok(url) })
    }

    /// Reads a URL that may also begin with `https://` or `http://`.
    ///
    /// # Errors
    /// Says what would do instead.
    pub fn parse_any(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or(WANTED_URL)?;
        let (secure, asks) = match scheme.to_ascii_lowercase().as_str() {
            "wss" => (true, false),
            "ws" => (false, false),
            "https" => (true, true),
            "http" => (false, true),
            _ => return Err(WANTED_URL),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a user and password do not belong into the URL; use `basic`");
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a URL is visible ASCII; percent-encode the rest (a name: punycode)");
        }
        if target.contains('#') {
            return Err("a URL has no fragment here; leave out the `#` and what follows");
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, after)) => (host, Some(after.strip_prefix(':').ok_or(WANTED_URL)?)),
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let is_v6 = authority.starts_with('[');
        if is_v6 && host.parse::<Ipv6Addr>().is_err() || !is_v6 && !is_host(host) {
            return Err("no host that could be dialled; wanted a name or an address, IPv6 in brackets");
        }
        let own = if secure { 443 } else { 80 };
        let port = match port.map(str::parse) {
            None => own,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err("wanted a port from 1 to 65535, or none"),
        };
        let host = host.to_ascii_lowercase();
        let bracketed = if is_v6 { format!("[{host}]") } else { host.clone() };
        let authority = if port == own { bracketed } else { format!("{bracketed}:{port}") };
        let path_and_query = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { secure, asks, host, port, path_and_query, authority })
    }

    /// Whether the host is this machine: 127.0.0.0/8, `::1` or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(is_loopback)
    }

    /// The whole of it, for the wire only.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.authority, self.path_and_query)
    }

    fn scheme(&self) -> &'static str {
        match (self.asks, self.secure) {
            (false, true) => "wss",
            (false, false) => "ws",
            (true, true) => "https",
            (true, false) => "http",
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme();
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, _)) => (path, "?..."),
            None => (self.path_and_query.as_str(), ""),
        };
        write!(f, "{scheme}://{}{path}{query}", self.authority)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A range of IP addresses, such as `10.0.0.0/8` (RFC 4632 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The first address of the range.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Cidr {
    /// Reads a range, or a lone address as a range of one.
    ///
    /// # Errors
    /// Says what would do instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = || "wanted a range such as `10.0.0.0/8`, or an address".to_owned();
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wanted())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.map(str::parse) {
            None => most,
            Some(Ok(prefix)) if prefix <= most => prefix,
            Some(_) => return Err(format!("wanted a prefix from 0 to {most}")),
        };
        let first = match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask_v4(prefix))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask_v6(prefix))),
        };
        if first == address {
            Ok(Self { address, prefix })
        } else {
            Err(format!("not the first address of its range; did you mean `{first}/{prefix}` or `{address}`?"))
        }
    }

    /// Whether this address is in the range. An IPv4 caller on an IPv6 socket counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => theirs.to_bits() & mask_v4(self.prefix) == ours.to_bits(),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => theirs.to_bits() & mask_v6(self.prefix) == ours.to_bits(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Where secrets can come from beside files; tests bring their own.
pub trait Environment {
    /// The value of an environment variable.
    fn var(&self, name: &str) -> Option<String>;

    /// The folder in which systemd put the unit's credentials (systemd.exec(5), `$CREDENTIALS_DIRECTORY`).
    fn credentials_dir(&self) -> Option<PathBuf>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        env::var(name).ok()
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
    }
}

/// What the service will have, as far as this process can see it: outside of the service there are no credentials, and
/// `check` looks for them where the unit takes them from.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceEnvironment;

impl Environment for ServiceEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        ProcessEnvironment.var(name)
    }

    fn credentials_dir(&self) -> Option<PathBuf> {
        // Only root can read it. To anybody else there is no such folder, as before.
        let secrets = || Some(PathBuf::from(SECRETS)).filter(|folder| folder.read_dir().is_ok());
        ProcessEnvironment.credentials_dir().or_else(secrets)
    }
}

/// `LoadCredential=` of the unit.
const SECRETS: &str = "/etc/trunkline/secrets";

/// One thing that is wrong with a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line in it, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// The table and key, e.g. `[trunk.agent] dialect`; may be empty.
    pub key: String,
    /// The value that was found, or nothing. Never a secret.
    pub found: String,
    /// What is wrong with it and what would do.
    pub wanted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if !self.found.is_empty() {
                write!(f, " = {}", self.found)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.wanted)
    }
}

/// All that is wrong with a config file, in the order of its lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl core::error::Error for Problems {}

/// Whether an address is this machine's own, also when it is an IPv4 one in IPv6 clothes.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn highest_rate<'a>(kinds: impl Iterator<Item = &'a LineKind>) -> Rate {
    kinds
        .map(|kind| match kind {
            LineKind::Audiosocket { .. } => Rate::Hz8000,
            LineKind::Pipe(line) => line.sample_rate,
            LineKind::Websocket(line) => line.rate(),
            LineKind::Sip(line) => line.rate(),
            LineKind::Sound(line) => line.rate,
        })
        .max()
        .unwrap_or(Rate::Hz8000)
}

fn second_bytes(rate: Rate) -> usize {
    rate.hz() as usize * size_of::<i16>()
}

/// A DNS name or an IPv4 address. A last label that begins with a digit is an address or a mistake: resolvers read
/// `127.1` as 127.0.0.1.
fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.parse::<Ipv4Addr>().is_ok()
        || host.len() <= 253
            && host.split('.').all(is_label)
            && !host.split('.').next_back().is_some_and(|last| last.starts_with(|first: char| first.is_ascii_digit()))
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(prefix))).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(prefix))).unwrap_or(0)
}

/// An `https://` URL has so long to name the WebSocket to dial (Exotel's own limit for a handshake).
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(10);

const WANTED_URL: &str = "wanted a WebSocket URL such as `wss://agent.example.com/ws`";

/// What the default pool has beside the reserve: a burst of 17 minutes at 8 kHz, however many calls share it.
const POOL_SHARED_BYTES: usize = 16 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_what_the_dial_and_the_request_need() {
        let url = Url::parse("WSS://Agent.Example.com/ws?token=abc").unwrap();
        assert_eq!((url.secure, url.host.as_str(), url.port), (true, "agent.example.com", 443));
        assert_eq!((url.authority.as_str(), url.path_and_query.as_str()), ("agent.example.com", "/ws?token=abc"));
        let url = Url::parse("ws://[::1]:8080?x").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.authority.as_str()), ("::1", 8080, "[::1]:8080"));
        assert_eq!(url.path_and_query, "/?x");
        assert_eq!(Url::parse("ws://10.0.0.1:80").unwrap().authority, "10.0.0.1");
    }

    #[test]
    fn a_url_that_could_smuggle_or_mislead_is_refused() {
        for bad in [
            "agent.example.com/ws",
            "https://agent.example.com",
            "wss://",
            "wss://:443/",
            "wss://a b/",
            "wss://a/\r\nX: y",
            "wss://a/b#c",
            "wss://u:p@a/",
            "wss://u:p@a?q",
            "wss://a:0/",
            "wss://a:65536/",
            "wss://a:/",
            "wss://a:1:2/",
            "wss://[::1/",
            "wss://[::1]x/",
            "wss://[127.0.0.1]/",
            "wss://::1/",
            "ws://127.1/",
            "ws://0x7f.0.0.1/",
            "ws://a..b/",
            "wss://\u{fc}ber.example/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, loopback) in [
            ("ws://127.0.0.1/", true),
            ("ws://127.8.8.8:99/", true),
            ("ws://[::1]/", true),
            ("ws://LOCALHOST:1/", true),
            ("ws://localhost.example.com/", false),
            ("ws://128.0.0.1/", false),
            ("ws://[::2]/", false),
        ] {
            assert_eq!(Url::parse(url).unwrap().is_loopback(), loopback, "{url}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_not_shown() {
        let url = Url::parse("wss://a.example:444/ws?token=hush").unwrap();
        assert_eq!(format!("{url} {url:?}"), "wss://a.example:444/ws?... wss://a.example:444/ws?...");
    }

    #[test]
    fn a_range_holds_its_own_addresses_only() {
        let has = |range: &str, address: &str| Cidr::parse(range).unwrap().contains(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.255.255.255"));
        assert!(!has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(has("0.0.0.0/0", "8.8.8.8"));
        assert!(!has("0.0.0.0/0", "::1"));
        assert!(has("192.168.1.7", "192.168.1.7"));
        assert!(!has("192.168.1.7", "192.168.1.6"));
        assert!(has("fd00::/8", "fdff::1"));
        assert!(has("::/0", "2001:db8::1"));
        assert!(!has("fd00::/8", "fe80::1"));
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        for bad in ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0/8", "fd00::/129", "any"] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Cidr::parse("10.0.0.5/8").unwrap_err(),
            "not the first address of its range; did you mean `10.0.0.0/8` or `10.0.0.5`?"
        );
    }
}
