//! The dial thread: names, connections and handshakes, so that no media thread ever waits for one.
//!
//! The trunks of a route are tried in order, each within its own `connect-timeout-ms`. The doors of `websocket` lines
//! are here too. What it brings up is handed to
//! the call's media thread; a call that ends first takes its dialling with it.

use std::{borrow::Cow, collections::HashMap, io, net::SocketAddr, path::PathBuf, sync::Arc};

use log::{info, warn};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{LocalSet, spawn_local},
};

use crate::{
    call::{
        EndReason,
        shard::{Answered, Order},
        vitals::Vitals,
    },
    clock,
    config::{Config, Secret, Trunk, WebsocketLine, exotel_query},
    control::messages,
    dialect::{self, Carrier, Dialect, Facts, Role},
    leg::websocket::{
        dial::{Dialed, Stages, dial},
        door::{self, DoorSetup},
        endpoint,
        jwt::{Claims, Unsigned},
        link::Link,
        outbound::{self, OutboundSetup},
        tls,
    },
    media::Rate,
};

/// A call that wants a trunk.
pub struct Request {
    /// The call's number in this process.
    pub seq: u64,
    /// Its id, for the log.
    pub call_id: String,
    /// The trunks to try, in order, by their place in the config.
    pub trunks: Vec<usize>,
    /// The rate of its line.
    pub line_rate: Rate,
    /// Who and what it is, for a server that names the URL to dial.
    pub facts: Box<Facts>,
    /// Closed when the call has ended.
    pub cancelled: oneshot::Receiver<()>,
    /// The call's media thread.
    pub reply: mpsc::Sender<Order>,
}

/// What became of an attempt to reach a trunk.
#[derive(Debug)]
pub struct News {
    /// For which call.
    pub seq: u64,
    /// Which trunk, by its place in the config.
    pub trunk: usize,
    /// When (ms since 1970).
    pub at_ms: u64,
    /// The trunk took the call; or why it did not, in words.
    pub result: Result<Handshake, Unanswered>,
}

/// Why a trunk did not take a call.
#[derive(Clone, Debug)]
pub struct Unanswered {
    /// In words.
    pub words: String,
    /// It was not there at all: no address, no connection, no TLS, no answer. Otherwise it said no to this call.
    pub is_unreachable: bool,
}

/// How a trunk answered.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Who answered.
    pub peer: SocketAddr,
    /// The cipher suite that the server picked; `None`: no TLS.
    pub cipher: Option<&'static str>,
    /// What took how long.
    pub stages: Stages,
}

/// What the dial thread is made of.
pub struct DialSetup {
    /// The trunks, as they are now.
    pub config: watch::Receiver<Arc<Config>>,
    /// What it needs for TLS with them: never older than the config.
    pub roots: watch::Receiver<Arc<Roots>>,
    /// Who wants a trunk.
    pub requests: mpsc::Receiver<Request>,
    /// Lines to be opened for vendors.
    pub doors: mpsc::Receiver<Opening>,
    /// Where it tells how each attempt went; what does not fit is not told.
    pub news: mpsc::Sender<News>,
    /// Where it shows that it lives.
    pub vitals: Arc<Vitals>,
}

/// A `websocket` line to be opened.
pub enum Opening {
    /// Vendors connect to us.
    Door(DoorSetup),
    /// We connect to a vendor.
    Outbound(OutboundSetup),
}

/// What every dial needs: made once for a config, because reading the platform's roots takes time.
#[derive(Default)]
pub struct Roots(HashMap<Option<PathBuf>, Arc<rustls::ClientConfig>>);

impl Roots {
    /// Reads the roots that the config's trunks and SIP lines need.
    ///
    /// # Errors
    /// When a `ca-file` holds no certificate, or the platform has no roots; the message says what to do.
    pub fn load(config: &Config) -> Result<Self, tls::TlsError> {
        let mut roots = HashMap::new();
        let vendors = config.lines.iter().filter_map(|line| line.kind.websocket()?.dial());
        let trunks = config.trunks.iter().chain(vendors).filter(|trunk| trunk.url.secure || trunk.url.asks);
        let pbxs = config.lines.iter().filter_map(|line| line.kind.sip()).filter(|sip| sip.wants_trust());
        for ca_file in trunks.map(|trunk| &trunk.ca_file).chain(pbxs.map(|sip| &sip.ca_file)) {
            if !roots.contains_key(ca_file) {
                roots.insert(ca_file.clone(), tls::client_config(ca_file.as_deref())?);
            }
        }
        Ok(Self(roots))
    }

    /// Whom to trust who is named by this file, or by the platform alone.
    #[must_use]
    pub fn of(&self, ca_file: &Option<PathBuf>) -> Option<&Arc<rustls::ClientConfig>> {
        self.0.get(ca_file)
    }
}

/// Runs the dial thread until its mailbox closes.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run(setup: DialSetup) -> io::Result<()> {
    let DialSetup { config, roots, mut requests, mut doors, news, vitals } = setup;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    LocalSet::new().block_on(&runtime, async move {
        spawn_local(async move { vitals.answer(|| true).await });
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { break };
                    let config = Arc::clone(&config.borrow());
                    spawn_local(serve(config, Arc::clone(&roots.borrow()), news.clone(), request));
                }
                Some(opening) = doors.recv() => open(&roots.borrow(), opening),
            }
        }
    });
    Ok(())
}

fn open(roots: &Roots, opening: Opening) {
    match opening {
        Opening::Door(setup) => drop(spawn_local(door::serve(setup))),
        Opening::Outbound(setup) => {
            let dialled = setup.config.lines[setup.line].kind.websocket().and_then(WebsocketLine::dial);
            let tls = dialled.and_then(|trunk| roots.of(&trunk.ca_file).cloned());
            drop(spawn_local(outbound::serve(setup, tls)));
        }
    }
}

async fn serve(config: Arc<Config>, roots: Arc<Roots>, news: mpsc::Sender<News>, request: Request) {
    let Request { seq, call_id, trunks, line_rate, facts, mut cancelled, reply } = request;
    let claims = Claims { tenant_id: facts.account.to_string(), interaction_id: facts.call_sid_or_ours().to_owned() };
    // The control thread is behind by thousands of attempts, or gone.
    let tell = |trunk, result| drop(news.try_send(News { seq, trunk, at_ms: clock::epoch_ms(), result }));
    let mut reason = EndReason::TrunkRefused;
    for index in trunks {
        let trunk = &config.trunks[index];
        let tls = roots.of(&trunk.ca_file);
        for attempt in 1..=trunk.attempts() {
            let reached = tokio::select! {
                // Closed or told: either way the caller is gone.
                _ = &mut cancelled => return,
                reached = reach(trunk, tls, line_rate, &facts, &claims) => reached,
            };
            match reached {
                Ok((Dialed { stream, tls, read_ahead, peer, cipher, stages }, dialect)) => {
                    info!(
                        message_id = messages::TRUNK_ANSWERED, call_id, leg = "trunk", trunk = trunk.name,
                        dialect = trunk.dialect, peer:%, cipher = cipher.unwrap_or("none"),
                        dns_ms = stages.dns.as_millis() as u64, connect_ms = stages.connect.as_millis() as u64,
                        tls_ms = stages.tls.as_millis() as u64, upgrade_ms = stages.upgrade.as_millis() as u64;
                        "trunk answered"
                    );
                    tell(index, Ok(Handshake { peer, cipher, stages }));
                    let answered = Answered { stream, link: Link::new(tls, read_ahead), dialect };
                    // Nobody listens any more when the call has just ended, and then its socket closes with this answer.
                    let _ = reply.send(Order::Trunk { seq, result: Ok(Box::new(answered)) }).await;
                    return;
                }
                Err(refused) => {
                    let Refused { agent, words, is_timeout, is_unreachable, is_worth_a_retry } = refused;
                    reason = if is_timeout { EndReason::TrunkTimeout } else { EndReason::TrunkRefused };
                    warn!(
                        message_id = messages::TRUNK_REFUSED, call_id, leg = "trunk", trunk = trunk.name,
                        dialect = trunk.dialect, peer = agent, attempt, error = words;
                        "trunk did not take the call"
                    );
                    tell(index, Err(Unanswered { words, is_unreachable }));
                    if !is_worth_a_retry {
                        break;
                    }
                }
            }
        }
    }
    let _ = reply.send(Order::Trunk { seq, result: Err(reason) }).await;
}

/// Why a trunk was not reached.
struct Refused {
    agent: String,
    words: String,
    is_timeout: bool,
    is_unreachable: bool,
    is_worth_a_retry: bool,
}

/// Dials a trunk, once it is known where it is.
async fn reach(
    trunk: &Trunk,
    tls: Option<&Arc<rustls::ClientConfig>>,
    line_rate: Rate,
    facts: &Facts,
    claims: &Claims,
) -> Result<(Dialed, Box<dyn Dialect>), Refused> {
    let asked = if trunk.url.asks { Some(whom_to_dial(trunk, tls, facts).await?) } else { None };
    let trunk = asked.as_ref().unwrap_or(trunk);
    let trunk = &*authorized(trunk, claims).map_err(|error| Refused::by(trunk, error.to_string()))?;
    let Some(dialect) = dialect::open(trunk.dialect, Role::Vendor, trunk.sample_rate, line_rate, &trunk.options) else {
        // The config knows no other dialects than these.
        return Err(Refused::by(trunk, "there is no such dialect".to_owned()));
    };
    match dial(trunk, tls, send_buffer(&*dialect)).await {
        Ok(dialed) => Ok((dialed, dialect)),
        Err(error) => Err(Refused {
            words: error.to_string(),
            is_timeout: error.is_timeout(),
            is_unreachable: error.is_unreachable(),
            is_worth_a_retry: error.is_worth_a_retry(),
            agent: error.agent,
        }),
    }
}

/// The trunk with the URL that its server names for this call.
async fn whom_to_dial(trunk: &Trunk, tls: Option<&Arc<rustls::ClientConfig>>, facts: &Facts) -> Result<Trunk, Refused> {
    let url = endpoint::ask(trunk, tls, facts).await.map_err(|error| Refused {
        is_timeout: error.is_timeout(),
        is_unreachable: error.is_unreachable(),
        ..Refused::by(trunk, format!("{}: {error}", trunk.url.authority))
    })?;
    let mut named = Trunk { url, ..trunk.clone() };
    if named.dialect == "exotel" {
        exotel_query(&mut named.url, &mut named.sample_rate, &mut named.options)
            .map_err(|words| Refused::by(trunk, format!("{} named a URL, but {words}", trunk.url.authority)))?;
    }
    Ok(named)
}

impl Refused {
    /// For good, before it was dialled.
    fn by(trunk: &Trunk, words: String) -> Self {
        Self {
            agent: trunk.url.authority.clone(),
            words,
            is_timeout: false,
            is_unreachable: false,
            is_worth_a_retry: false,
        }
    }
}

/// The trunk as it is dialled for this call: one that wants a token has a fresh one.
pub(super) fn authorized<'t>(trunk: &'t Trunk, claims: &Claims) -> Result<Cow<'t, Trunk>, Unsigned> {
    let Some(signer) = &trunk.jwt else { return Ok(Cow::Borrowed(trunk)) };
    let token = signer.sign(claims, clock::epoch_ms() / 1000)?;
    let authorization = Some(Secret::new(format!("Bearer {}", token.reveal())));
    Ok(Cow::Owned(Trunk { authorization, ..trunk.clone() }))
}

/// Half a second of what this dialect sends, so that the kernel cannot hide a backlog from the uplink.
#[must_use]
pub fn send_buffer(dialect: &dyn Dialect) -> usize {
    let bytes_a_sample = match dialect.expected().carrier {
        Carrier::Array => 7,
        Carrier::Base64 => 3,
        Carrier::Raw => 2,
    };
    (dialect.rate().samples(500) * bytes_a_sample).max(16 * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::net::Ipv4Addr;
    use std::path::Path;

    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        config::{self, Environment},
        leg::websocket::{
            dial::accept,
            jwt::{Algorithm, Verifier},
        },
    };

    struct Key;

    impl Environment for Key {
        fn var(&self, _: &str) -> Option<String> {
            Some(include_str!("../../../tests/keys/rsa-private.pem").to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            None
        }
    }

    #[tokio::test]
    async fn each_call_brings_a_token_of_its_own() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let text = format!(
            "[line.pbx]\nkind = \"audiosocket\"\n[trunk.agent]\nurl = \"ws://{}/v1/ingest\"\ndialect = \"rtaa\"\n\
             jwt = {{ key = {{ env = \"KEY\" }} }}\n[[route]]\nline = \"pbx\"\ntrunks = [\"agent\"]\n",
            listener.local_addr().unwrap()
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trunkline.toml");
        std::fs::write(&path, text).unwrap();
        let config = Arc::new(config::load(Path::new(&path), &Key).unwrap());
        let public = Secret::new(include_str!("../../../tests/keys/rsa-public.pem"));
        let verifier = Verifier::new(Algorithm::Rs256, &public).unwrap();
        let server = tokio::spawn(async move {
            let mut told = Vec::new();
            for _ in 0..2 {
                let accepted = accept(listener.accept().await.unwrap().0, None).await.unwrap();
                let token =
                    accepted.request.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
                told.push(verifier.verify(&token, clock::epoch_ms() / 1000).unwrap());
            }
            told
        });
        let (news, mut heard) = mpsc::channel(8);
        let (reply, mut orders) = mpsc::channel(8);
        for (seq, call) in [(0, "one"), (1, "two")] {
            let (_dialing, cancelled) = oneshot::channel();
            let request = Request {
                seq,
                call_id: call.to_owned(),
                trunks: vec![0],
                line_rate: Rate::Hz8000,
                facts: Box::new(Facts {
                    account: "harbour".try_into().unwrap(),
                    call_sid: call.try_into().unwrap(),
                    ..Facts::default()
                }),
                cancelled,
                reply: reply.clone(),
            };
            serve(Arc::clone(&config), Arc::new(Roots(HashMap::new())), news.clone(), request).await;
            assert!(heard.recv().await.unwrap().result.is_ok());
            assert!(matches!(orders.recv().await, Some(Order::Trunk { result: Ok(_), .. })));
        }
        let told: Vec<_> =
            server.await.unwrap().into_iter().map(|claims| (claims.tenant_id, claims.interaction_id)).collect();
        assert_eq!(told, [("harbour".to_owned(), "one".to_owned()), ("harbour".to_owned(), "two".to_owned())]);
    }
}
