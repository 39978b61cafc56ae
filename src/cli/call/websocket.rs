//! A call over a WebSocket, in the role of the telephony vendor.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::{
    cli::{
        call::{
            CallError, Ending,
            heard::Outcome,
            random_uuid,
            score::{LEAD_IN, Score},
            vendor::{Farewell, Vendor},
        },
        connection::Connection,
        options::{options, parse_rate, rate_of},
    },
    clock,
    config::{HeaderValue, Secret, Trunk, Url, exotel_query, is_secret, refused_header, shown_url},
    dialect::{self, Dialect, Facts, Role, Text},
    doctor::call::Tried,
    leg::{
        audiosocket::Uuid,
        websocket::{
            dial::{Dialed, dial},
            dialer::send_buffer,
            leg::{Leg, Setup},
            link::Link,
            tls,
            wire::Side,
        },
    },
    media::{Now, Rate, clock::PTIME},
};

/// What is said about a call on a WebSocket.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct WebSocketArgs {
    /// Play a telephony vendor instead, and call the agent at this URL, as in wss://agent.example.com/ws
    #[arg(long, value_name = "URL", requires = "dialect", conflicts_with = "audiosocket", help_heading = HEADING)]
    pub websocket: Option<String>,
    /// What is spoken on the WebSocket
    #[arg(long, value_name = "NAME", value_parser = dialects(), requires = "websocket", help_heading = HEADING)]
    pub dialect: Option<&'static str>,
    /// Trust the certificates of this file, too; `trunkline agent` tells where its own is
    #[arg(long, value_name = "FILE", requires = "websocket", help_heading = HEADING)]
    pub ca: Option<PathBuf>,
    /// Call ws:// on another machine, where everybody on the way can listen in
    #[arg(long, requires = "websocket", help_heading = HEADING)]
    pub insecure: bool,
    /// Add a header to the request, as in 'X-Site: depot'; may be given again. For secrets see the next two
    #[arg(long = "header", id = "headers", value_name = "NAME: VALUE", requires = "websocket", help_heading = HEADING)]
    pub headers: Vec<String>,
    /// Authorize by the token in this file (Bearer)
    #[arg(long, value_name = "FILE", requires = "websocket", conflicts_with = "basic_file", help_heading = HEADING)]
    pub bearer_file: Option<PathBuf>,
    /// Authorize by user:password in this file (Basic)
    #[arg(long, value_name = "FILE", requires = "websocket", help_heading = HEADING)]
    pub basic_file: Option<PathBuf>,
    /// The samples a second to speak [default: what the URL's sample-rate says, else the dialect's own; binary: the WAV's]
    #[arg(long, value_name = "HZ", value_parser = parse_rate, requires = "websocket", help_heading = HEADING)]
    pub sample_rate: Option<Rate>,
    /// Set an option of the dialect, as docs/config.md has them, as in key-style=camel; may be given again
    #[arg(long = "option", id = "options", value_name = "KEY=VALUE", requires = "websocket", help_heading = HEADING)]
    pub options: Vec<String>,
    /// The caller's number
    #[arg(long, value_name = "NUMBER", requires = "websocket", help_heading = HEADING)]
    pub from: Option<String>,
    /// The number called
    #[arg(long, value_name = "NUMBER", requires = "websocket", help_heading = HEADING)]
    pub to: Option<String>,
    /// The number dialled in, where it is another than the one called
    #[arg(long, value_name = "NUMBER", requires = "websocket", help_heading = HEADING)]
    pub did: Option<String>,
    /// Tell the agent more of the call; may be given again
    #[arg(long = "custom", id = "custom", value_name = "KEY=VALUE", requires = "websocket", help_heading = HEADING)]
    pub custom: Vec<String>,
    /// At the end say the dialect's stop and leave it to the agent to close
    #[arg(long, requires = "websocket", conflicts_with = "close_without_stop", help_heading = HEADING)]
    pub stop_without_close: bool,
    /// At the end close without the dialect's stop
    #[arg(long, requires = "websocket", help_heading = HEADING)]
    pub close_without_stop: bool,
}

/// The dialects, for clap.
fn dialects() -> impl TypedValueParser<Value = &'static str> {
    let named = |name: String| dialect::NAMES.iter().copied().find(|&one| one == name);
    PossibleValuesParser::new(dialect::NAMES).try_map(move |name| named(name).ok_or("not one of ours"))
}

/// A call that can be placed.
pub(super) struct Plan {
    trunk: Trunk,
    facts: Facts,
    farewell: Farewell,
}

impl Plan {
    /// What the command line says, checked.
    pub(super) fn open(args: &WebSocketArgs, url: &str, uuid: Uuid) -> Result<Self, CallError> {
        let dialect = args.dialect.unwrap_or("binary"); // clap has seen to it that there is one
        let at_fault = |why: &str| CallError::Url(shown_url(url), why.to_owned());
        let mut found = Url::parse(url).map_err(at_fault)?;
        if !found.secure && !args.insecure && !found.is_loopback() {
            return Err(at_fault("ws:// is for an agent on this machine; use wss://, or add --insecure"));
        }
        let mut options = options(&args.options, Some(dialect), Role::Vendor).map_err(CallError::Option)?;
        let mut rate = args.sample_rate;
        if dialect == "exotel" {
            exotel_query(&mut found, &mut rate, &mut options).map_err(at_fault)?;
        } else {
            rate = rate.or_else(|| rate_of(found.path_and_query.split_once('?')?.1));
        }
        if let Some(rate) = rate
            && !dialect::rates(dialect).contains(&rate)
        {
            return Err(CallError::Rate(dialect, rate));
        }
        let trunk = Trunk {
            name: "call".to_owned(),
            url: found,
            dialect,
            sample_rate: rate,
            connect_timeout: CONNECT_TIMEOUT,
            headers: headers(&args.headers)?,
            authorization: authorization(args)?,
            jwt: None,
            ca_file: args.ca.clone(),
            insecure: args.insecure,
            options,
            is_gone: false,
        };
        let farewell = match (args.stop_without_close, args.close_without_stop) {
            (true, _) => Farewell::StopOnly,
            (false, true) => Farewell::CloseOnly,
            (false, false) => Farewell::Whole,
        };
        Ok(Self { trunk, facts: facts(args, uuid)?, farewell })
    }

    /// Places it.
    pub(super) fn place(self, score: &Score, digits: &[u8], interrupted: &AtomicBool) -> Result<Outcome, CallError> {
        let Self { trunk, facts, farewell } = self;
        let grammar = dialect::open(trunk.dialect, Role::Vendor, trunk.sample_rate, score.rate, &trunk.options);
        let Some(grammar) = grammar else { return Err(CallError::Rate(trunk.dialect, score.rate)) };
        let config = if trunk.url.secure { Some(tls::client_config(trunk.ca_file.as_deref())) } else { None };
        let config = config.transpose().map_err(|error| CallError::Tls(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CallError::System)?;
        runtime.block_on(async {
            let dialed = tokio::select! {
                dialed = dial(&trunk, config.as_ref(), send_buffer(&*grammar)) => dialed.map_err(CallError::Dial)?,
                () = until(interrupted) => return Err(CallError::System(io::ErrorKind::Interrupted.into())),
            };
            let now = clock::now();
            let (connection, leg) = connected(dialed, grammar, facts, score.rate, now)?;
            let mut vendor = Vendor::new(leg, score, digits, farewell, now);
            let stop = async {
                tokio::select! {
                    () = until(interrupted) => {}
                    () = show_progress(now, score.end), if io::stderr().is_terminal() => {}
                }
            };
            connection.run(&mut vendor, stop).await;
            if io::stderr().is_terminal() {
                eprint!("\r\x1b[K"); // clears the line for the summary
            }
            Ok(vendor.outcome())
        })
    }
}

fn connected(
    dialed: Dialed,
    dialect: Box<dyn Dialect>,
    facts: Facts,
    rate: Rate,
    now: Now,
) -> Result<(Connection, Leg), CallError> {
    let Dialed { stream, tls, read_ahead, .. } = dialed;
    let connection = Connection::new(stream, Link::new(tls, read_ahead)).map_err(CallError::System)?;
    let (side, epoch_ms) = (Side::Client, clock::epoch_ms());
    Ok((connection, Leg::new(Setup { side, dialect, facts, rate, now, epoch_ms, ping_every: PING_EVERY })))
}

/// What came of a call that only asks whether there can be one.
pub(in crate::cli) struct TriedOut {
    /// How it went; whether what was played came back is not in it.
    pub(in crate::cli) tried: Tried,
    /// When each frame of the sound was sent.
    pub(in crate::cli) sent_at: Vec<Now>,
    /// What was heard, at the dialect's rate.
    pub(in crate::cli) heard: Vec<i16>,
    /// When the samples from this place on were heard.
    pub(in crate::cli) heard_at: Vec<(usize, Now)>,
}

/// Calls the agent that was dialled, plays this at the dialect's own rate, and hangs up a while after.
///
/// # Errors
/// The system refuses.
pub(in crate::cli) async fn try_out(
    dialed: Dialed,
    grammar: Box<dyn Dialect>,
    facts: Facts,
    samples: Vec<i16>,
) -> Result<TriedOut, CallError> {
    let rate = grammar.rate();
    let frames = samples.len().div_ceil(rate.frame());
    let end = LEAD_IN + frames as u64 + (LISTENED.as_millis() / PTIME.as_millis()) as u64;
    let score = Score { rate, samples, repeat: 1, marks: false, frames, end };
    let now = clock::now();
    let (connection, leg) = connected(dialed, grammar, facts, rate, now)?;
    let mut vendor = Vendor::new(leg, &score, &[], Farewell::Whole, now);
    connection.run(&mut vendor, core::future::pending()).await;
    let Outcome { sent, heard, ended_by, trouble, listen_only, .. } = vendor.outcome();
    let mut out = TriedOut {
        tried: Tried {
            seconds: (sent.ended - sent.began).as_secs_f64(),
            first_voice_ms: heard.first_voice.map(|at| at.saturating_sub(sent.began).as_secs_f64() * 1000.0),
            round_trip_ms: None,
            trouble,
            was_ended: ended_by != Ending::Caller,
            listen_only,
        },
        sent_at: sent.at,
        heard: Vec::new(),
        heard_at: Vec::new(),
    };
    for stretch in heard.stretches.into_iter().filter(|stretch| stretch.rate == rate) {
        let before = out.heard.len();
        out.heard_at.extend(stretch.arrivals.iter().map(|&(place, at)| (before + place, at)));
        out.heard.extend(stretch.samples);
    }
    Ok(out)
}

/// A call of nobody in particular, for this account.
///
/// # Errors
/// There is no randomness.
pub(in crate::cli) fn facts_of_nobody(account: &str) -> Result<Facts, CallError> {
    let facts = facts(&WebSocketArgs::default(), random_uuid()?)?;
    Ok(Facts { account: Text::try_from(account).unwrap_or_default(), ..facts })
}

/// Until somebody stops us.
async fn until(interrupted: &AtomicBool) {
    while !interrupted.load(Relaxed) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn show_progress(began: Now, end: u64) {
    loop {
        eprint!("\r{} s of {} s", (clock::now() - began).as_secs().min(end / 50), end / 50);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn headers(given: &[String]) -> Result<Vec<(String, HeaderValue)>, CallError> {
    let mut headers: Vec<(String, HeaderValue)> = Vec::new();
    for text in given {
        // What is wrong with it may be that it is a secret, so only the name is repeated.
        let name = text.split(':').next().unwrap_or_default().trim();
        let refused = |why: &str| CallError::Header(name.to_owned(), why.to_owned());
        let (_, value) = text.split_once(':').ok_or_else(|| refused("write 'Name: value'"))?;
        let value = value.trim();
        if let Some(why) = refused_header(name) {
            return Err(refused(why));
        }
        if name.eq_ignore_ascii_case("authorization") || is_secret(name) {
            let why = "who is on this machine can read a command line; use --bearer-file or --basic-file, or a trunk \
                       of a config file with a header from a credential";
            return Err(refused(why));
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(refused("this header is there already; upper and lower case are the same"));
        }
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            return Err(refused("a header's value is ASCII without line breaks"));
        }
        headers.push((name.to_owned(), HeaderValue::Plain(value.to_owned())));
    }
    Ok(headers)
}

/// The value of the header `Authorization` (RFC 7617 2, RFC 6750 2.1).
fn authorization(args: &WebSocketArgs) -> Result<Option<Secret>, CallError> {
    if let Some(path) = &args.bearer_file {
        let token = secret(path)?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CallError::Secret(path.clone(), "a bearer token is visible ASCII without blanks".to_owned()));
        }
        return Ok(Some(Secret::new(format!("Bearer {token}"))));
    }
    let Some(path) = &args.basic_file else { return Ok(None) };
    let pair = secret(path)?;
    if !pair.contains(':') {
        return Err(CallError::Secret(path.clone(), "wanted user:password".to_owned()));
    }
    Ok(Some(Secret::new(format!("Basic {}", base64_simd::STANDARD.encode_to_string(pair)))))
}

/// The one line of a file.
fn secret(path: &Path) -> Result<String, CallError> {
    let refused = |why: String| CallError::Secret(path.to_owned(), why);
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    match text {
        "" => Err(refused("it is empty".to_owned())),
        _ if text.contains(char::is_control) => Err(refused("it has more than one line".to_owned())),
        _ => Ok(text.to_owned()),
    }
}

/// Who and what the call is. Ids are made of its UUID.
fn facts(args: &WebSocketArgs, uuid: Uuid) -> Result<Facts, CallError> {
    let text = |flag: &'static str, given: &Option<String>| {
        let long = CallError::Fact(flag, "wanted at most 128 bytes");
        Text::try_from(given.as_deref().unwrap_or_default()).map_err(|_| long)
    };
    let own = |id: &str| Text::try_from(id).unwrap_or_default();
    let id: String = uuid.0.iter().take(12).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    let ucid = format!("{}{:04}", clock::epoch_ms(), u16::from_be_bytes([uuid.0[0], uuid.0[1]]) % 10_000);
    let mut facts = Facts {
        ucid: own(&ucid),
        stream_sid: own(&id),
        call_id: own(&id),
        call_sid: own(&uuid.to_string()),
        account: own("trunkline"),
        from: text("--from", &args.from)?,
        to: text("--to", &args.to)?,
        did: text("--did", &args.did)?,
        ..Facts::default()
    };
    for pair in &args.custom {
        let (key, value) = pair.split_once('=').ok_or(CallError::Fact("--custom", "write KEY=VALUE"))?;
        if !facts.custom.add(key, value) {
            return Err(CallError::Fact("--custom", "these are too many, or one of them is too long"));
        }
    }
    Ok(facts)
}

const HEADING: &str = "On a WebSocket";

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// From the name's lookup to the upgrade.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const PING_EVERY: Now = Now::from_secs(20);

/// An agent that echoes does so at once, and one that greets within a second or so.
const LISTENED: Duration = Duration::from_millis(1500);

/// How often we look if somebody stops us.
const LOOK_EVERY: Duration = Duration::from_millis(20);
