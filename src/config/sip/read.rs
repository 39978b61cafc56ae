//! What a `[line.NAME]` of the kind `sip` says, checked.

use core::{net::IpAddr, net::SocketAddr, time::Duration};

use crate::{
    config::{
        Line, LineKind, Pair,
        file::{Section, Value, no_such},
        is_loopback,
        resolve::{Resolver, address, certificates, is_same_place, is_secret, ranges},
        secret,
        sip::{
            Audio, Dial, Dtmf, Hold, Intake, PortRange, Register, Ringing, SessionTimer, SipLine, SipUri, TlsListen,
            uri::{MAX_TEXT, PORT, TLS_PORT, is_user},
        },
    },
    leg::{
        sip::{
            dial_plan::{DialPlan, Pattern},
            flow::Transport,
        },
        websocket::tls,
    },
    media::{Rate, codec::Codec},
};

impl Resolver<'_> {
    pub(in crate::config) fn sip(&self, name: &str, section: &mut Section<'_>) -> Option<SipLine> {
        let listen = section.require(
            "listen",
            "wanted this machine's address as the PBX reaches it, e.g. \"192.0.2.20:5060\"; on one machine with the PBX, \
             which has port 5060 itself, e.g. \"127.0.0.1:5070\"",
        );
        let address = listen.as_ref().and_then(|value| address(value, PORT, ""));
        let anywhere = section.flag("listen-anywhere");
        let allow = section.get("allow").map(|value| ranges(&value));
        let advertise = section.get("advertise").and_then(|value| advertise(&value, address));
        let register = section.get("register");
        let dial = section.get("dial");
        if anywhere && (allow.is_some() || register.is_some()) {
            section.problem(
                "listen-anywhere",
                "beside `allow` or `register`, which say who may bring calls; leave it out",
            );
        }
        if let (Some(value), Some(address)) = (&listen, address) {
            if !anywhere && allow.is_none() && register.is_none() && !is_loopback(address.ip()) {
                value.problem(
                    "others could reach it and place calls; name the PBX: allow = [\"192.0.2.10\"], or register there, or \
                     set listen-anywhere = true",
                );
            }
            if address.ip().is_unspecified() && !section.has("advertise") {
                value
                    .problem("nobody can call back there; wanted this machine's own address, or `advertise` beside it");
            }
        }
        let (transports, tls) = self.transports(section, address);
        let ca_file = section.get("ca-file").and_then(|value| {
            let path = self.folder.join(value.str()?);
            certificates(&path).map_err(|wanted| value.problem(wanted)).ok().map(|()| path)
        });
        let audio = audio(section);
        let ringing = ringing(section);
        let hold = Hold {
            silence: choice(section, "hold", "way", &[("silence", true), ("nothing", false)]).unwrap_or(true),
            limit: seconds(section.whole("hold-limit-seconds", 0..=86_400, 0)),
        };
        let session_timer = session_timer(section);
        let intake = Intake {
            invites_per_second: section.whole("invites-per-second", 1..=1000, INVITES_PER_SECOND),
            max_unacked: section.whole("max-unacked", 1..=1000, MAX_UNACKED),
        };
        let metadata_headers = section.get("metadata-headers").map(|value| headers(&value)).unwrap_or_default();
        let user_agent = match section.get("user-agent") {
            None => Some(concat!("Trunkline/", env!("CARGO_PKG_VERSION")).to_owned()),
            Some(value) if value.as_str() == Some("off") => None,
            Some(value) => text(&value),
        };
        // Misspelt keys come to light whatever else is wrong.
        let register = register.map(|value| self.register(name, &value, address, advertise, transports.udp));
        let proxy = register.as_ref().and_then(Option::as_ref).map(|register| (&register.registrar, &register.user));
        let dial = dial.map(|value| dialled(name, &value, proxy, register.is_some(), transports.udp));
        Some(SipLine {
            listen: address?,
            udp: transports.udp,
            tcp: transports.tcp,
            tls,
            ca_file,
            advertise,
            allow: allow.unwrap_or_default(),
            register: absent_or(register)?,
            audio,
            ringing,
            hold,
            session_timer,
            intake,
            dial: absent_or(dial)?,
            metadata_headers,
            user_agent,
        })
    }

    fn transports(&self, section: &mut Section<'_>, listen: Option<SocketAddr>) -> (Transports, Option<TlsListen>) {
        let mut transports = Transports { udp: true, tcp: true, tls: false };
        if let Some(value) = section.get("transports") {
            transports = Transports::default();
            for (name, value) in value.texts("wanted at least one of \"udp\", \"tcp\" and \"tls\"") {
                match name {
                    "udp" => transports.udp = true,
                    "tcp" => transports.tcp = true,
                    "tls" => transports.tls = true,
                    _ => value.problem(no_such("transport", name, &["udp", "tcp", "tls"])),
                }
            }
        }
        let tls_listen = section.get("tls-listen");
        let (certificate, key) = (section.get("certificate"), section.get("key"));
        if !transports.tls {
            for value in [&tls_listen, &certificate, &key].into_iter().flatten() {
                value.problem_as(String::new(), "it is for TLS; put \"tls\" into `transports`, or leave it out");
            }
            return (transports, None);
        }
        let address = match tls_listen {
            None => listen.map(|listen| SocketAddr::new(listen.ip(), TLS_PORT)),
            Some(value) => address(&value, TLS_PORT, ""),
        };
        if let (true, Some(listen), Some(tls)) = (transports.tcp, listen, address)
            && is_same_place(listen, tls)
        {
            section.problem("tls-listen", format!("{tls} is taken by `listen`; wanted another port"));
        }
        let (Some(certificate), Some(key)) = (certificate, key) else {
            section.problem("transports", "with \"tls\", wanted the files of `certificate` and `key` (PEM), too");
            return (transports, None);
        };
        let paths = self.kept_file(&certificate).zip(self.kept_file(&key));
        let pair =
            paths.and_then(|(certificate_path, key_path)| match tls::server_config(&certificate_path, &key_path) {
                Ok(_) => Some(Pair { certificate: certificate_path, key: key_path }),
                Err(error) => {
                    certificate.problem(format!("the pair cannot be used: {error}"));
                    None
                }
            });
        (transports, address.zip(pair).map(|(address, pair)| TlsListen { address, pair }))
    }

    fn register(
        &self,
        line: &str,
        value: &Value<'_>,
        listen: Option<SocketAddr>,
        advertise: Option<IpAddr>,
        has_udp: bool,
    ) -> Option<Register> {
        let Some(mut section) = value.section(format!("[line.{line}.register] ")) else {
            value.problem_hidden(format!("wanted a table: [line.{line}.register]"));
            return None;
        };
        let registrar = section.require("registrar", "wanted e.g. \"sip:pbx.example.com\"");
        let backup = section.get("backup-registrar");
        let server = |value: &Value<'_>| {
            let uri = server(value, has_udp)?;
            let is_here = advertise.is_none() && listen.is_some_and(|listen| is_loopback(listen.ip()));
            if is_here && uri.ip().is_some_and(|ip| !is_loopback(ip)) {
                value.problem(
                    "it could not call us back while `listen` is on 127.0.0.1; wanted this machine's address there",
                );
            }
            Some(uri)
        };
        let registrar = registrar.and_then(|value| server(&value));
        let backup = backup.map(|value| server(&value));
        let user = section.require("user", "wanted our extension, e.g. \"201\"").and_then(|value| user(&value));
        let auth_user = section.get("auth-user").map(|value| {
            let name = value.str()?;
            if name.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
                value.problem("wanted a name without quotes, backslashes and control characters");
            }
            Some(name.to_owned())
        });
        let password = match section.get("password") {
            Some(value) => secret::read(&value, self.environment, self.folder),
            None => secret::by_name(&format!("{line}-password"), self.environment),
        };
        let expires = section.whole("expires-seconds", 60..=86_400, EXPIRES_SECONDS);
        section.finish();
        let (auth_user, user) = (absent_or(auth_user)?, user?);
        Some(Register {
            registrar: registrar?,
            backup: absent_or(backup)?,
            auth_user: auth_user.unwrap_or_else(|| user.clone()),
            user,
            password,
            expires: Duration::from_secs(expires.into()),
        })
    }
}

/// The outer `None` is of a value that is not there, the inner one of a value that is wrong and was reported.
fn absent_or<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

#[derive(Clone, Copy, Default)]
struct Transports {
    udp: bool,
    tcp: bool,
    tls: bool,
}

fn advertise(value: &Value<'_>, listen: Option<SocketAddr>) -> Option<IpAddr> {
    let Ok(ip) = value.as_str().unwrap_or_default().parse::<IpAddr>() else {
        value.problem("wanted the address by which the PBX reaches this machine, without a port, e.g. \"203.0.113.7\"");
        return None;
    };
    if ip.is_unspecified() || ip.is_multicast() {
        value.problem("nobody can call back there; wanted the address by which the PBX reaches this machine");
    } else if listen.is_some_and(|listen| listen.is_ipv4() != ip.is_ipv4()) {
        value.problem("`listen` has an address of the other version of IP; wanted one of the same");
    }
    Some(ip)
}

/// Somebody whom requests are sent to.
fn server(value: &Value<'_>, has_udp: bool) -> Option<SipUri> {
    let uri = uri(value)?;
    if uri.user.is_some() {
        value.problem("wanted the PBX alone, without a user and an `@`");
        return None;
    }
    if uri.transport() == Transport::Udp && !has_udp {
        value.problem("it is reached by UDP; put \"udp\" into `transports`, or end it with ;transport=tcp");
    }
    Some(uri)
}

fn uri(value: &Value<'_>) -> Option<SipUri> {
    let text = value.str()?;
    let parsed = SipUri::parse(text);
    let shown = text.split_once('@').filter(|(user, _)| user.matches(':').count() > 1);
    let shown = shown.map_or_else(|| text.to_owned(), |(_, host)| format!("***@{host}"));
    parsed.map_err(|wanted| value.problem_as(format!("{shown:?}"), wanted)).ok()
}

/// The user part of a URI of ours.
fn user(value: &Value<'_>) -> Option<String> {
    let text = value.str()?;
    if !is_user(text) {
        value.problem("wanted letters, digits and `-_.+*`");
    }
    Some(text.to_owned())
}

/// A short text that goes into a header.
fn text(value: &Value<'_>) -> Option<String> {
    let text = value.str()?;
    if text.len() > MAX_TEXT || !text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        value.problem("wanted at most 64 characters of ASCII, without quotes and backslashes");
    }
    Some(text.to_owned())
}

/// One of these names.
fn choice<T: Copy>(section: &mut Section<'_>, key: &'static str, kind: &str, all: &[(&'static str, T)]) -> Option<T> {
    let value = section.get(key)?;
    let found = value.as_str().unwrap_or_default();
    let chosen = all.iter().find(|(name, _)| *name == found).map(|(_, chosen)| *chosen);
    if chosen.is_none() {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        value.problem(no_such(kind, found, &names));
    }
    chosen
}

fn seconds(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn audio(section: &mut Section<'_>) -> Audio {
    let mut codecs = vec![Codec::G722, Codec::Pcma, Codec::Pcmu];
    if let Some(value) = section.get("codecs") {
        codecs.clear();
        for (name, value) in value.texts("wanted at least one codec, e.g. [\"pcma\", \"pcmu\"]") {
            match CODECS.iter().find(|(known, _)| *known == name) {
                None => value.problem(no_such("codec", name, &CODECS.map(|(known, _)| known))),
                Some((_, codec)) if codecs.contains(codec) => {
                    value.problem("it is there already; leave out one of the two");
                }
                Some((_, codec)) => codecs.push(*codec),
            }
        }
    }
    let rtp_ports = section.get("rtp-ports").and_then(|value| port_range(&value)).unwrap_or(RTP_PORTS);
    let timeout = seconds(section.whole("media-timeout-seconds", 0..=3600, MEDIA_TIMEOUT_SECONDS));
    let jitter_min = section.whole("jitter-min-ms", 20..=120, 20);
    let jitter_max = section.whole("jitter-max-ms", 20..=120, 120);
    if jitter_min > jitter_max {
        section.problem("jitter-min-ms", format!("more than the {jitter_max} of `jitter-max-ms`; wanted at most that"));
    }
    Audio {
        codecs,
        rtp_ports,
        dtmf: choice(section, "dtmf", "way", &Dtmf::ALL).unwrap_or_default(),
        mask_dtmf: section.flag("mask-dtmf"),
        nat: section.flag("nat"),
        dscp: u8::try_from(section.whole("dscp", 0..=63, EXPEDITED_FORWARDING)).unwrap_or_default(),
        timeout,
        jitter_min: Duration::from_millis(jitter_min.into()),
        jitter_max: Duration::from_millis(jitter_max.into()),
    }
}

fn port_range(value: &Value<'_>) -> Option<PortRange> {
    let ends = value.as_str().and_then(|text| text.split_once('-'));
    let ends = ends.and_then(|(first, last)| first.trim().parse::<u16>().ok().zip(last.trim().parse::<u16>().ok()));
    match ends {
        Some((first, last)) if first >= 1024 && first < last => Some(PortRange { first, last }),
        _ => {
            value.problem(format!("wanted two ports from 1024 to 65535, the lower first, e.g. \"{RTP_PORTS}\""));
            None
        }
    }
}

fn ringing(section: &mut Section<'_>) -> Ringing {
    let tone = choice(section, "ringing", "way", &[("180", false), ("tone", true)]).unwrap_or(false);
    let limit = section.whole("ring-timeout-seconds", 5..=180, RING_TIMEOUT_SECONDS);
    let mut refuse_status = REFUSE_STATUS;
    if let Some(value) = section.get("refuse-status") {
        match value.integer().and_then(|status| u16::try_from(status).ok()) {
            Some(status) if REFUSE_STATUSES.contains(&status) => refuse_status = status,
            _ => {
                let all: Vec<_> = REFUSE_STATUSES.iter().map(u16::to_string).collect();
                value.problem(format!("wanted one of {}", all.join(", ")));
            }
        }
    }
    let fallback = section.get("fallback").and_then(|value| {
        let uri = uri(&value)?;
        if uri.user.is_none() {
            value.problem("wanted who is called instead, e.g. \"sip:300@pbx.example.com\"");
        }
        Some(uri)
    });
    if fallback.is_some() && section.has("refuse-status") {
        section.problem("refuse-status", "beside `fallback`, which takes the call instead; leave out one of the two");
    }
    Ringing { tone, limit: Duration::from_secs(limit.into()), refuse_status, fallback }
}

fn session_timer(section: &mut Section<'_>) -> SessionTimer {
    let expires = section.whole("session-expires-seconds", 90..=86_400, 1800);
    // RFC 4028 5: nobody may ask for less than 90 s.
    let min = section.whole("min-session-expires-seconds", 90..=86_400, 90);
    if min > expires {
        section.problem(
            "min-session-expires-seconds",
            format!("more than the {expires} of `session-expires-seconds`; wanted at most that"),
        );
    }
    SessionTimer { expires: Duration::from_secs(expires.into()), min: Duration::from_secs(min.into()) }
}

fn headers(value: &Value<'_>) -> Vec<String> {
    let mut headers: Vec<String> = Vec::new();
    for (name, value) in value.texts("wanted at least one name of a header, e.g. [\"X-Campaign\"]") {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
        if !name.bytes().all(is_token) || name.len() > MAX_TEXT {
            value.problem("not the name of a header");
        } else if TOLD_ANYWAY.iter().any(|told| told.eq_ignore_ascii_case(name)) {
            value.problem("the agent is told this header anyway; leave it out");
        } else if is_secret(name) || name.to_ascii_lowercase().ends_with("authorization") {
            value.problem("by its name this header may hold a secret, which is not for the agent; leave it out");
        } else if headers.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            value.problem("this header is there already; upper and lower case are the same");
        } else if headers.len() == MAX_HEADERS {
            value.problem(format!("wanted at most {MAX_HEADERS} headers"));
        } else {
            headers.push(name.to_owned());
        }
    }
    headers
}

/// `registered`: the registrar and our user there, where we register; `registers`: that we do, rightly or wrongly.
fn dialled(
    line: &str,
    value: &Value<'_>,
    registered: Option<(&SipUri, &String)>,
    registers: bool,
    has_udp: bool,
) -> Option<Dial> {
    let Some(mut section) = value.section(format!("[line.{line}.dial] ")) else {
        value.problem(format!("wanted a table: [line.{line}.dial]"));
        return None;
    };
    let plan = section.require("plan", "wanted the numbers that may be called, e.g. [\"2??\", \"+49*\"]");
    let patterns = plan.map(|value| {
        let texts =
            value.texts("wanted at least one pattern, e.g. \"2??\" or \"+49*\"; without the table nobody is called");
        let pattern = |(text, value): (&str, Value<'_>)| Pattern::parse(text).map_err(|it| value.problem(it)).ok();
        texts.into_iter().filter_map(pattern).collect::<Vec<_>>()
    });
    let domains = section.get("domains").map(|value| domains(&value)).unwrap_or_default();
    let proxy = match section.get("proxy") {
        Some(value) => server(&value, has_udp),
        None => {
            if !registers {
                section.problem("proxy", "missing; wanted who reaches the numbers, e.g. \"sip:192.0.2.10\"");
            }
            registered.map(|(registrar, _)| registrar.clone())
        }
    };
    let own = registered.map_or("trunkline", |(_, user)| user);
    let from = section.get("from").map_or_else(|| Some(own.to_owned()), |value| user(&value));
    let display_name = section.get("display-name").and_then(|value| text(&value));
    let answer_timeout = section.whole("answer-timeout-seconds", 5..=180, ANSWER_TIMEOUT_SECONDS);
    section.finish();
    Some(Dial {
        plan: DialPlan::new(patterns?, domains),
        proxy: proxy?,
        from: from?,
        display_name,
        answer_timeout: Duration::from_secs(answer_timeout.into()),
    })
}

/// Hosts that a `sip:` URI to be called may name, as [`DialPlan`] compares them.
fn domains(value: &Value<'_>) -> Vec<String> {
    let mut domains = Vec::new();
    for (text, value) in value.texts("wanted at least one host, e.g. [\"pbx.example.com\"]") {
        match SipUri::parse(&format!("sip:{text}")) {
            Ok(uri) if uri.user.is_none() && uri.transport.is_none() => {
                let host = uri.bracketed_host();
                domains
                    .push(uri.port.filter(|port| *port != PORT).map_or(host.clone(), |port| format!("{host}:{port}")));
            }
            Ok(_) | Err(_) => value.problem("wanted a host, and a port unless 5060, e.g. \"pbx.example.com\""),
        }
    }
    domains
}

/// Reports lines that have too few ports for their calls, and those that would take each other's.
pub(in crate::config) fn check_ports(sections: &[(&str, Section<'_>)], lines: &[Option<Line>], max_calls: usize) {
    let mut earlier: Vec<(&str, &SipLine)> = Vec::new();
    for ((name, section), line) in sections.iter().zip(lines) {
        let Some(Line { kind: LineKind::Sip(line), .. }) = line else { continue };
        let range = line.audio.rtp_ports;
        let pairs = range.pairs().count();
        if pairs < max_calls {
            section.problem(
                "rtp-ports",
                format!("{range} is enough for {pairs} calls; wanted two ports for each of the {max_calls} calls"),
            );
        }
        let listens = [line.listen.port(), line.tls.as_ref().map_or(0, |tls| tls.address.port())];
        if let Some(port) = listens.into_iter().find(|port| (range.first..=range.last).contains(port)) {
            section.problem("rtp-ports", format!("{port} is the port of SIP itself; wanted ports without it"));
        }
        let is_taken = |other: &&(&str, &SipLine)| {
            let (one, other) = (line, other.1);
            let same_ip = one.listen.ip() == other.listen.ip()
                || one.listen.ip().is_unspecified()
                || other.listen.ip().is_unspecified();
            same_ip && range.overlaps(other.audio.rtp_ports)
        };
        if let Some((other, taken)) = earlier.iter().find(is_taken) {
            let taken = taken.audio.rtp_ports;
            section.problem("rtp-ports", format!("[line.{other}] has {taken}; wanted ports of its own"));
        }
        earlier.push((name, line));
    }
}

/// Every key of the kind.
pub(in crate::config) const KEYS: &[&str] = &[
    "listen",
    "listen-anywhere",
    "allow",
    "advertise",
    "register",
    "dial",
    "transports",
    "tls-listen",
    "certificate",
    "key",
    "ca-file",
    "codecs",
    "rtp-ports",
    "media-timeout-seconds",
    "jitter-min-ms",
    "jitter-max-ms",
    "dtmf",
    "mask-dtmf",
    "nat",
    "dscp",
    "ringing",
    "ring-timeout-seconds",
    "refuse-status",
    "fallback",
    "hold",
    "hold-limit-seconds",
    "session-expires-seconds",
    "min-session-expires-seconds",
    "invites-per-second",
    "max-unacked",
    "metadata-headers",
    "user-agent",
];

/// Every codec that a line may have, as the config spells it.
const CODECS: [(&str, Codec); 5] = [
    ("g722", Codec::G722),
    ("pcma", Codec::Pcma),
    ("pcmu", Codec::Pcmu),
    ("l16-16000", Codec::L16(Rate::Hz16000)),
    ("l16-8000", Codec::L16(Rate::Hz8000)),
];

/// Above the ports that Linux gives out by itself (`net.ipv4.ip_local_port_range`, to 60999), and beside Asterisk's
/// (10000 to 20000) and FreeSWITCH's (16384 to 32768), so that it may be on one machine with them. Two for each call.
const RTP_PORTS: PortRange = PortRange { first: 61_000, last: 64_999 };

/// EF, 101110 (RFC 3246).
const EXPEDITED_FORWARDING: u32 = 46;

/// A phone that went away without BYE is gone by then.
const MEDIA_TIMEOUT_SECONDS: u32 = 60;

/// Short enough for a PBX that forgot us, long enough for one that counts requests.
const EXPIRES_SECONDS: u32 = 300;

/// Longer than most PBXs let one phone ring before they go on.
const RING_TIMEOUT_SECONDS: u32 = 30;

/// Four rings and a voice mail's beep.
const ANSWER_TIMEOUT_SECONDS: u32 = 30;

/// More than a PBX of a site brings when its queue opens, less than a flood.
const INVITES_PER_SECOND: u32 = 10;
const MAX_UNACKED: u32 = 16;

/// Service Unavailable, upon which PBXs try the next way to the same number.
const REFUSE_STATUS: u16 = 503;

/// Those that say something about the called one or the service, not about the request (RFC 3261 21.4 to 21.6).
const REFUSE_STATUSES: &[u16] = &[403, 404, 408, 410, 480, 486, 500, 502, 503, 504, 600, 603, 604];

/// What an agent is told of every call.
const TOLD_ANYWAY: &[&str] = &["From", "To", "P-Asserted-Identity", "Diversion"];

const MAX_HEADERS: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;
    use crate::config::{Config, Environment, Problems, load};

    /// One variable and, as credentials, the files of a folder.
    struct Given(PathBuf);

    impl Environment for Given {
        fn var(&self, name: &str) -> Option<String> {
            (name == "SIP_PASSWORD").then(|| "hush-hush".to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            Some(self.0.clone())
        }
    }

    const REST: &str = "[trunk.agent]\nurl = \"wss://agent.example.com/ws\"\ndialect = \"ozonetel\"\n\
                        [[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n";

    fn read_in(folder: &Path, keys: &str) -> Result<Config, Problems> {
        let path = folder.join("t.toml");
        fs::write(&path, format!("[line.pbx]\nkind = \"sip\"\n{keys}\n{REST}")).unwrap();
        load(&path, &Given(folder.to_owned()))
    }

    fn line(config: &Config) -> &SipLine {
        let LineKind::Sip(line) = &config.lines[0].kind else { panic!("another kind") };
        line
    }

    const EXTENSION: &str =
        "listen = \"192.0.2.20\"\nregister = { registrar = \"sip:pbx.example.com\", user = \"201\" }";

    #[test]
    fn two_keys_make_an_extension_and_the_rest_has_its_default() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pbx-password"), "hush-hush\n").unwrap();
        let config = read_in(folder.path(), EXTENSION).unwrap();
        let line = line(&config);
        assert_eq!((line.listen.to_string().as_str(), line.udp, line.tcp), ("192.0.2.20:5060", true, true));
        assert!(line.tls.is_none() && line.ca_file.is_none() && line.dial.is_none() && !line.takes_anyone());
        assert_eq!(line.public_ip().to_string(), "192.0.2.20");
        let register = line.register.as_ref().unwrap();
        assert_eq!((register.registrar.to_string().as_str(), register.registrar.port()), ("sip:pbx.example.com", 5060));
        assert_eq!((register.user.as_str(), register.auth_user.as_str()), ("201", "201"));
        assert_eq!(register.password.as_ref().unwrap().reveal(), "hush-hush", "the credential LINE-password");
        assert_eq!((register.expires, register.backup.as_ref()), (Duration::from_secs(300), None));
        let audio = &line.audio;
        assert_eq!(audio.codecs, [Codec::G722, Codec::Pcma, Codec::Pcmu]);
        assert_eq!((audio.rtp_ports.first, audio.rtp_ports.last, audio.dtmf), (61_000, 64_999, Dtmf::Auto));
        assert_eq!((audio.mask_dtmf, audio.nat, audio.dscp), (false, false, 46));
        assert_eq!(audio.timeout, Some(Duration::from_secs(60)));
        assert_eq!((audio.jitter_min, audio.jitter_max), (Duration::from_millis(20), Duration::from_millis(120)));
        let ringing = Ringing { tone: false, limit: Duration::from_secs(30), refuse_status: 503, fallback: None };
        assert_eq!(line.ringing, ringing);
        assert_eq!(line.hold, Hold { silence: true, limit: None });
        let timer = SessionTimer { expires: Duration::from_secs(1800), min: Duration::from_secs(90) };
        assert_eq!(line.session_timer, timer);
        assert_eq!(line.intake, Intake { invites_per_second: 10, max_unacked: 16 });
        assert!(line.metadata_headers.is_empty());
        assert!(line.user_agent.as_ref().unwrap().starts_with("Trunkline/"));
        assert_eq!((config.line_rate(), config.warnings()), (Rate::Hz16000, Vec::new()));
        assert_eq!(
            config.ports(),
            ["[line.pbx] needs udp 192.0.2.20:5060, tcp 192.0.2.20:5060 and udp 61000-64999 for audio"]
        );
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let folder = tempfile::tempdir().unwrap();
        tls::throwaway_ca(folder.path(), &[]).unwrap();
        let config = read_in(
            folder.path(),
            r#"
listen = "0.0.0.0:5080"
advertise = "203.0.113.7"
transports = ["tls", "udp"]
tls-listen = "0.0.0.0:5081"
certificate = "server.pem"
key = { credential = "server-key.pem" }
ca-file = "server.pem"
allow = ["192.0.2.10", "198.51.100.0/24"]
codecs = ["pcmu", "l16-16000", "l16-8000"]
rtp-ports = "10001-10017"
media-timeout-seconds = 0
jitter-min-ms = 40
jitter-max-ms = 40
dtmf = "info"
mask-dtmf = true
nat = true
dscp = 0
ringing = "tone"
ring-timeout-seconds = 20
fallback = "sip:300@pbx.example.com"
hold = "nothing"
hold-limit-seconds = 600
session-expires-seconds = 600
min-session-expires-seconds = 120
invites-per-second = 50
max-unacked = 100
metadata-headers = ["X-Campaign", "Subject"]
user-agent = "off"
[line.pbx.register]
registrar = "sips:PBX.example.com"
backup-registrar = "sip:[2001:db8::1]:5070;transport=TCP"
user = "201"
auth-user = "auth 201"
password = { env = "SIP_PASSWORD" }
expires-seconds = 3600
[line.pbx.dial]
plan = ["2??", "+49 (30) *"]
domains = ["PBX.example.com:5060", "192.0.2.10:5080"]
proxy = "sip:192.0.2.10;transport=tcp"
from = "+4930123456"
display-name = "Front desk"
answer-timeout-seconds = 45
"#,
        )
        .unwrap();
        let line = line(&config);
        assert_eq!((line.udp, line.tcp, line.public_ip().to_string().as_str()), (true, false, "203.0.113.7"));
        let tls = line.tls.as_ref().unwrap();
        assert_eq!((tls.address.port(), &tls.pair.key), (5081, &folder.path().join("server-key.pem")));
        assert_eq!(line.allow.len(), 2);
        let register = line.register.as_ref().unwrap();
        assert_eq!((register.registrar.transport(), register.registrar.port()), (Transport::Tls, 5061));
        let backup = register.backup.as_ref().unwrap();
        assert_eq!(backup.to_string(), "sip:[2001:db8::1]:5070;transport=tcp");
        assert_eq!((register.auth_user.as_str(), register.expires), ("auth 201", Duration::from_secs(3600)));
        assert_eq!(register.password.as_ref().unwrap().reveal(), "hush-hush");
        let audio = &line.audio;
        assert_eq!(audio.codecs, [Codec::Pcmu, Codec::L16(Rate::Hz16000), Codec::L16(Rate::Hz8000)]);
        assert_eq!(
            audio.rtp_ports.pairs().collect::<Vec<_>>(),
            [10002, 10004, 10006, 10008, 10010, 10012, 10014, 10016]
        );
        assert_eq!((audio.dtmf, audio.mask_dtmf, audio.nat, audio.dscp), (Dtmf::Info, true, true, 0));
        assert_eq!(
            (audio.timeout, audio.jitter_min, audio.jitter_max),
            (None, Duration::from_millis(40), audio.jitter_min)
        );
        assert!(line.ringing.tone);
        assert_eq!(line.ringing.fallback.as_ref().unwrap().to_string(), "sip:300@pbx.example.com");
        assert_eq!(line.hold, Hold { silence: false, limit: Some(Duration::from_secs(600)) });
        assert_eq!(line.session_timer.min, Duration::from_secs(120));
        assert_eq!(line.intake, Intake { invites_per_second: 50, max_unacked: 100 });
        assert_eq!((line.metadata_headers.join(" ").as_str(), line.user_agent.as_ref()), ("X-Campaign Subject", None));
        let dial = line.dial.as_ref().unwrap();
        assert_eq!((dial.from.as_str(), dial.display_name.as_deref()), ("+4930123456", Some("Front desk")));
        assert_eq!((dial.proxy.transport(), dial.answer_timeout), (Transport::Tcp, Duration::from_secs(45)));
        assert!(dial.plan.target("sip:201@pbx.example.com").is_ok());
        assert!(dial.plan.target("sip:201@192.0.2.10:5080").is_ok());
        assert!(dial.plan.target("+493099").is_ok() && dial.plan.target("+4830").is_err());
        assert_eq!(config.warnings(), [""; 0]);
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn calls_out_go_through_the_registrar_in_the_name_of_the_extension() {
        let folder = tempfile::tempdir().unwrap();
        let config = read_in(folder.path(), &format!("{EXTENSION}\ndial = {{ plan = [\"2??\"] }}")).unwrap();
        let dial = line(&config).dial.as_ref().unwrap();
        assert_eq!((dial.proxy.to_string().as_str(), dial.from.as_str()), ("sip:pbx.example.com", "201"));
        assert!(dial.plan.target("sip:201@pbx.example.com").is_err(), "a URI only where its host is listed");
    }

    #[test]
    fn what_is_allowed_but_unwise_is_said() {
        let folder = tempfile::tempdir().unwrap();
        for (keys, said) in [
            (
                "listen = \"192.0.2.20\"\nlisten-anywhere = true",
                &["[line.pbx] listen-anywhere: whoever reaches 192.0.2.20:5060 can place calls"][..],
            ),
            (
                "listen = \"192.0.2.20\"\nallow = [\"0.0.0.0/0\"]",
                &["[line.pbx] allow: whoever reaches 192.0.2.20:5060 can place calls"],
            ),
            (
                "listen = \"192.0.2.20\"\nallow = [\"10.0.0.0/8\", \"8.8.8.0/24\"]",
                &["[line.pbx] allow: speech goes to 8.8.8.0/24 over the Internet in the clear"],
            ),
            (
                "listen = \"10.0.0.1\"\nregister = { registrar = \"sip:8.8.8.8\", user = \"201\", \
                 backup-registrar = \"sip:8.8.4.4;transport=tls\" }",
                &[
                    "[line.pbx.register] registrar: calls go to sip:8.8.8.8 over the Internet in the clear, and from a \
                     digest with MD5 the password can be guessed",
                    "[line.pbx.register] backup-registrar: speech goes to sip:8.8.4.4;transport=tls over the Internet in \
                     the clear",
                ],
            ),
            (
                "listen = \"127.0.0.1:5070\"\ndial = { plan = [\"2??\", \"00*\"], proxy = \"sip:127.0.0.1\" }",
                &["[line.pbx.dial] plan: `00*` lets calls go to numbers at any price"],
            ),
            ("listen = \"127.0.0.1:5070\"", &[]),
            ("listen = \"100.64.0.1\"\nallow = [\"100.64.0.2\", \"fd00::1\", \"192.168.0.0/16\"]", &[]),
        ] {
            assert_eq!(read_in(folder.path(), keys).unwrap().warnings(), said, "{keys}");
        }
    }

    #[test]
    fn what_cannot_work_or_lets_strangers_in_is_refused_with_what_would_do() {
        let folder = tempfile::tempdir().unwrap();
        tls::throwaway_ca(folder.path(), &[]).unwrap();
        fs::write(folder.path().join("bad.pem"), "rubbish").unwrap();
        let here = |more: &str| format!("listen = \"127.0.0.1:5070\"\n{more}");
        let registered = |more: &str| {
            format!(
                "listen = \"192.0.2.20\"\nregister = {{ registrar = \"sip:pbx.example.com\", user = \"201\", {more} }}"
            )
        };
        let registrar =
            |uri: &str| format!("listen = \"192.0.2.20\"\nregister = {{ registrar = \"{uri}\", user = \"1\" }}");
        let dial = |more: &str| format!("{EXTENSION}\ndial = {{ {more} }}");
        let tls = |more: &str| here(&format!("transports = [\"tls\"]\n{more}"));
        let pair = "certificate = \"server.pem\"\nkey = \"server-key.pem\"";
        for (keys, words) in [
            (String::new(), "listen: missing; wanted this machine's address as the PBX reaches it"),
            ("listen = \"pbx\"".to_owned(), "wanted an IP address and a port, e.g. \"127.0.0.1:5060\""),
            ("listen = \"192.0.2.20\"".to_owned(), "others could reach it and place calls; name the PBX"),
            ("listen = \"0.0.0.0\"\nallow = [\"10.0.0.0/8\"]".to_owned(), "or `advertise` beside it"),
            (format!("{EXTENSION}\nlisten-anywhere = true"), "beside `allow` or `register`"),
            (here("allow = []"), "wanted at least one range"),
            (here("advertise = \"203.0.113.7:5060\""), "without a port, e.g. \"203.0.113.7\""),
            (here("advertise = \"2001:db8::1\""), "an address of the other version of IP"),
            (here("advertise = \"0.0.0.0\""), "nobody can call back there"),
            (here("transport = [\"udp\"]"), "no such key; did you mean `transports`?"),
            (here("transports = []"), "wanted at least one of \"udp\", \"tcp\" and \"tls\""),
            (here("transports = [\"ucp\"]"), "no such transport; did you mean"),
            (here(pair), "certificate: it is for TLS; put \"tls\" into `transports`"),
            (here("tls-listen = \"127.0.0.1\""), "tls-listen: it is for TLS"),
            (tls(""), "with \"tls\", wanted the files of `certificate` and `key`"),
            (tls("certificate = \"bad.pem\"\nkey = \"server-key.pem\""), "bad.pem has no certificate"),
            (
                here(&format!("transports = [\"tcp\", \"tls\"]\ntls-listen = \"127.0.0.1:5070\"\n{pair}")),
                "taken by `listen`",
            ),
            (tls(&format!("{pair}\ntls-listen = \"127.0.0.1:9464\"")), "127.0.0.1:9464 is taken by [control] http"),
            (here("ca-file = \"none.pem\""), "cannot be read"),
            (here("register = 5"), "wanted a table: [line.pbx.register]"),
            (here("register = { user = \"1\" }"), "[line.pbx.register] registrar: missing; wanted e.g."),
            (here("register = { registrar = \"sip:localhost\" }"), "user: missing; wanted our extension"),
            (
                here("register = { registrar = \"sip:192.0.2.1\", user = \"1\" }"),
                "could not call us back while `listen`",
            ),
            (registrar("pbx.example.com"), "wanted a SIP URI such as"),
            (registrar("https://pbx.example.com"), "wanted a SIP URI such as"),
            (registrar("sip:201@pbx.example.com"), "wanted the PBX alone, without a user"),
            (
                registrar("sip:201:hush@pbx.example.com"),
                "registrar = \"***@pbx.example.com\": a password does not belong",
            ),
            (registrar("sip:pbx.example.com:0"), "wanted a port from 1 to 65535"),
            (registrar("sip:pbx.example.com;lr"), "wanted no parameter but `;transport=udp`"),
            (registrar("sips:pbx.example.com;transport=udp"), "sips: goes by TLS"),
            (registrar("sip:pbx..com"), "no host that could be reached"),
            (registrar("sip:pbx.com?X=1"), "without brackets, commas, quotes and a `?`"),
            (
                format!("transports = [\"tcp\"]\n{}", registrar("sip:pbx.example.com")),
                "it is reached by UDP; put \"udp\" into `transports`, or end it with ;transport=tcp",
            ),
            (registered("user-name = \"1\""), "[line.pbx.register] user-name: no such key"),
            (registered("auth-user = \"a\\\"b\""), "wanted a name without quotes"),
            (registered("password = \"hush\""), "a secret is never written down here"),
            (registered("password = { env = \"NO_SUCH\" }"), "this environment variable is not set"),
            (registered("expires-seconds = 10"), "wanted a whole number from 60 to 86400"),
            (
                registered("backup-registrar = \"pbx2\""),
                "[line.pbx.register] backup-registrar = \"pbx2\": wanted a SIP URI",
            ),
            (here("register = { registrar = \"sip:localhost\", user = \"2 1\" }"), "wanted letters, digits and"),
            (here("codecs = []"), "wanted at least one codec"),
            (here("codecs = [\"opus\"]"), "no such codec; there are: g722, pcma, pcmu, l16-16000, l16-8000"),
            (here("codecs = [\"pcma\", \"pcma\"]"), "it is there already"),
            (here("rtp-ports = 10000"), "wanted two ports from 1024 to 65535, the lower first"),
            (here("rtp-ports = \"20000-10000\""), "the lower first"),
            (here("rtp-ports = \"80-10000\""), "from 1024"),
            (here("rtp-ports = \"10001-10016\""), "is enough for 7 calls; wanted two ports for each of the 8 calls"),
            (here("rtp-ports = \"5000-5999\""), "5070 is the port of SIP itself"),
            (here("jitter-min-ms = 80\njitter-max-ms = 60"), "more than the 60 of `jitter-max-ms`"),
            (here("jitter-max-ms = 500"), "wanted a whole number from 20 to 120"),
            (here("dtmf = \"inband\""), "no such way; there are: auto, rfc4733, info"),
            (here("dscp = 64"), "wanted a whole number from 0 to 63"),
            (here("ringing = \"183\""), "no such way; did you mean `180`?"),
            (here("refuse-status = 200"), "wanted one of 403, 404,"),
            (here("refuse-status = 401"), "wanted one of 403, 404,"),
            (here("fallback = \"sip:pbx.example.com\""), "wanted who is called instead, e.g."),
            (
                here("fallback = \"sip:300@pbx\"\nrefuse-status = 486"),
                "beside `fallback`, which takes the call instead",
            ),
            (here("fallback = \"sip:3%200@pbx\""), "wanted a user of letters, digits"),
            (here("hold = \"music\""), "no such way; there are: silence, nothing"),
            (here("session-expires-seconds = 60"), "wanted a whole number from 90 to 86400"),
            (
                here("session-expires-seconds = 120\nmin-session-expires-seconds = 180"),
                "more than the 120 of `session-expires-seconds`",
            ),
            (here("invites-per-second = 0"), "wanted a whole number from 1 to 1000"),
            (here("metadata-headers = []"), "wanted at least one name of a header"),
            (here("metadata-headers = [\"X A\"]"), "not the name of a header"),
            (here("metadata-headers = [\"diversion\"]"), "the agent is told this header anyway"),
            (here("metadata-headers = [\"Proxy-Authorization\"]"), "by its name this header may hold a secret"),
            (here("metadata-headers = [\"X-A\", \"x-a\"]"), "this header is there already"),
            (here("user-agent = \"a\\u000ab\""), "wanted at most 64 characters of ASCII"),
            (here("dial = { plan = [\"2??\"] }"), "[line.pbx.dial] proxy: missing; wanted who reaches the numbers"),
            (here("dial = true"), "wanted a table: [line.pbx.dial]"),
            (dial(""), "[line.pbx.dial] plan: missing; wanted the numbers that may be called"),
            (dial("plan = []"), "wanted at least one pattern"),
            (dial("plan = [\"2xx\"]"), "a pattern is digits, `+`, `*` and `#`"),
            (dial("plan = [\"2+\"]"), "a `+` is at the beginning"),
            (dial("plan = [\"2\"], domains = [\"sip:pbx\"]"), "wanted a host, and a port unless 5060"),
            (dial("plan = [\"2\"], domains = [\"a@pbx.example.com\"]"), "wanted a host, and a port unless 5060"),
            (dial("plan = [\"2\"], from = \"a b\""), "wanted letters, digits and"),
            (dial("plan = [\"2\"], display-name = \"a\\\"b\""), "without quotes and backslashes"),
            (dial("plan = [\"2\"], answer-timeout-seconds = 1"), "wanted a whole number from 5 to 180"),
        ] {
            let said = read_in(folder.path(), &keys).map(|_| keys.clone()).unwrap_err().to_string();
            assert!(said.contains(words), "with\n{keys}\n{said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn two_lines_do_not_take_each_others_ports() {
        let folder = tempfile::tempdir().unwrap();
        let second = |keys: &str| {
            let keys = format!(
                "listen = \"127.0.0.1:5070\"\n[line.b]\nkind = \"sip\"\n{keys}\n[[route]]\nline = \"b\"\ntrunks = [\"agent\"]"
            );
            read_in(folder.path(), &keys)
        };
        let said = second("listen = \"127.0.0.1:5080\"").unwrap_err().to_string();
        assert!(said.ends_with("[line.b] rtp-ports: [line.pbx] has 61000-64999; wanted ports of its own"), "{said}");
        let said = second("listen = \"127.0.0.1:5070\"\nrtp-ports = \"20000-20999\"").unwrap_err().to_string();
        assert!(said.ends_with("[line.b] listen: 127.0.0.1:5070 is taken by [line.pbx] listen; wanted another port"));
        assert_eq!(second("listen = \"127.0.0.1:5080\"\nrtp-ports = \"20000-20999\"").unwrap().ports().len(), 2);
        assert!(second("listen = \"127.0.0.2:5070\"").is_ok(), "ports of another address");
    }
}
