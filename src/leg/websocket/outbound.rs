//! The vendor that a `websocket` line dials: one connection stands there and waits for the next call.
//!
//! When a call begins on it, it is handed over and the next one is dialled. A vendor that cannot be reached is tried
//! again after 1, 2, 4 and up to 30 s, each with some chance in it, so that a hundred boxes do not come back at once; the
//! log is told when that changes, not every time.
//!
//! A PBX has no call to wait for: each of its calls has a place of its own, whose id somebody tells us. There one
//! connection is made, once, and its call begins at once.

use core::time::Duration;
use std::{io, net::SocketAddr, sync::Arc};

use log::{info, warn};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::spawn_local,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::{Config, ID, LineKind, Trunk},
    control::messages,
    dialect::{self, Direction, Role, Text},
    leg::websocket::{
        dial::{Dialed, dial},
        dialer::{authorized, send_buffer},
        door::{Arrival, House, PATIENCE, Place, arrival, farewell, hand_over, hear_more, hear_start, say_what_is_due},
        jwt::Claims,
        link::Link,
        liveness::{Beat, Liveness},
        welcome::{Expected, Start, Step, Welcome, close_frame},
        wire::Side,
    },
    media::Rate,
};

/// What it is made of.
pub struct OutboundSetup {
    /// The lines.
    pub config: Arc<Config>,
    /// Which of them this is.
    pub line: usize,
    /// Where calls go.
    pub arrivals: mpsc::Sender<Arrival>,
    /// How the daemon is.
    pub house: watch::Receiver<House>,
    /// Calls to be fetched, where each has a place of its own; `None`: one connection stands there.
    pub ids: Option<mpsc::Receiver<Fetch>>,
    /// No more calls are wanted.
    pub closed: CancellationToken,
}

/// One call that waits for us.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// By what its PBX knows it.
    pub id: String,
    /// By what we will.
    pub call_id: Text,
}

/// Keeps a connection dialled, until the line is closed or the daemon goes down.
pub async fn serve(setup: OutboundSetup, tls: Option<Arc<ClientConfig>>) {
    let OutboundSetup { config, line, arrivals, mut house, ids, closed } = setup;
    if let Some(ids) = ids {
        return fetch_all(&config, line, &arrivals, ids, tls).await;
    }
    let LineKind::Websocket(websocket) = &config.lines[line].kind else { return };
    let Some(trunk) = websocket.dial() else { return };
    // Which call it will be is not known before it begins.
    let claims = Claims { tenant_id: config.account.clone(), ..Claims::default() };
    let (mut backoff, mut trouble) = (Backoff::default(), Trouble::default());
    // No seat: then no call is asked for.
    loop {
        let is_wanted = tokio::select! {
            told = house.wait_for(|house| house.accepting || house.draining) => told.is_ok_and(|house| !house.draining),
            () = closed.cancelled() => false,
        };
        if !is_wanted {
            return;
        }
        let began = Instant::now();
        let words = match stand(trunk, tls.as_ref(), &claims, line, &mut house, &closed, &mut trouble).await {
            Ok(Some(arrived)) => {
                backoff = Backoff::default();
                if let Err(error) = hand_over(&arrivals, Ok(arrived)).await {
                    warn!(line = trunk.name, error:%; "a call was lost before it began");
                }
                continue;
            }
            // The daemon goes down or has no seat, or the line is closed.
            Ok(None) => continue,
            Err(words) => words,
        };
        if began.elapsed() > STOOD_WELL {
            backoff = Backoff::default();
            trouble.told = None;
        }
        if trouble.is_new(&words) {
            warn!(
                message_id = messages::VENDOR_LOST, line = trunk.name, reason = words;
                "the vendor is not connected: it is tried again and again"
            );
        }
        tokio::select! {
            () = sleep(backoff.next(chance())) => {}
            _ = house.wait_for(|house| house.draining) => {}
            () = closed.cancelled() => {}
        }
    }
}

/// Fetches each call whose id is told, until the daemon goes down.
async fn fetch_all(
    config: &Arc<Config>,
    line: usize,
    arrivals: &mpsc::Sender<Arrival>,
    mut ids: mpsc::Receiver<Fetch>,
    tls: Option<Arc<ClientConfig>>,
) {
    while let Some(Fetch { id, call_id }) = ids.recv().await {
        let (config, arrivals, tls) = (Arc::clone(config), arrivals.clone(), tls.clone());
        spawn_local(async move {
            let LineKind::Websocket(websocket) = &config.lines[line].kind else { return };
            let Some(trunk) = websocket.dial() else { return };
            let mut trunk = trunk.clone();
            trunk.url.path_and_query = trunk.url.path_and_query.replace(ID, &id);
            let claims = Claims { tenant_id: config.account.clone(), ..Claims::default() };
            let reason = match fetch(&trunk, tls.as_ref(), &claims, line).await {
                Ok(mut arrived) => {
                    arrived.facts.call_id = call_id.clone();
                    hand_over(&arrivals, Ok(arrived)).await.map_err(|error| error.to_string())
                }
                Err(words) => Err(words),
            };
            if let Err(reason) = reason {
                let call_id = call_id.as_str();
                warn!(call_id, line = trunk.name, reason; "a call could not be fetched");
            }
        });
    }
}

/// Dials where one call waits. Its start comes by itself.
async fn fetch(
    trunk: &Trunk,
    tls: Option<&Arc<ClientConfig>>,
    claims: &Claims,
    line: usize,
) -> Result<Arrival, String> {
    let trunk = &*authorized(trunk, claims).map_err(|error| error.to_string())?;
    let Reached { stream, mut link, mut welcome, peer, .. } = reach(trunk, tls).await?;
    let words = match timeout(PATIENCE, hear_start(&stream, &mut link, &mut welcome)).await {
        Ok(Ok(Step::Begun(start))) => {
            let place = Place { line, path: 0, side: Side::Client, peer };
            let made = arrival(place, stream, link, *start, &trunk.options, Direction::Both);
            return made.map_err(|error| error.to_string());
        }
        Ok(Ok(Step::Over(end))) => end.to_string(),
        Ok(Ok(Step::Wait)) => return Err(NO_START.to_owned()),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => {
            welcome.close(PROTOCOL, NO_START);
            NO_START.to_owned()
        }
    };
    farewell(stream, link, welcome.out()).await;
    Err(words)
}

/// A connection on which no call has begun.
struct Reached {
    stream: TcpStream,
    link: Link,
    welcome: Welcome,
    peer: SocketAddr,
    cipher: Option<&'static str>,
}

async fn reach(trunk: &Trunk, tls: Option<&Arc<ClientConfig>>) -> Result<Reached, String> {
    let opened = dialect::open(trunk.dialect, Role::Agent, trunk.sample_rate, Rate::Hz8000, &trunk.options);
    let buffer = opened.map_or(16 * 1024, |dialect| send_buffer(&*dialect));
    let Dialed { stream, tls, read_ahead, peer, cipher, .. } =
        dial(trunk, tls, buffer).await.map_err(|error| error.to_string())?;
    let stream = TcpStream::from_std(stream).map_err(|error| error.to_string())?;
    let expected = Expected {
        side: Side::Client,
        dialect: Some(trunk.dialect),
        tie_break: trunk.dialect,
        rate: trunk.sample_rate,
        options: &trunk.options,
        needs_start: false,
    };
    Ok(Reached { stream, link: Link::new(tls, read_ahead), welcome: Welcome::new(&expected), peer, cipher })
}

/// Dials, and waits for a call. `None`: there is no use in waiting any more.
async fn stand(
    trunk: &Trunk,
    tls: Option<&Arc<ClientConfig>>,
    claims: &Claims,
    line: usize,
    house: &mut watch::Receiver<House>,
    closed: &CancellationToken,
    trouble: &mut Trouble,
) -> Result<Option<Arrival>, String> {
    let trunk = &*authorized(trunk, claims).map_err(|error| error.to_string())?;
    let Reached { stream, mut link, mut welcome, peer, cipher } = reach(trunk, tls).await?;
    if trouble.is_over() {
        info!(line = trunk.name, dialect = trunk.dialect, peer:%, cipher = cipher.unwrap_or("none"); "the vendor is connected");
    }
    let heard = tokio::select! {
        heard = wait(&stream, &mut link, &mut welcome) => Some(heard.map_err(|error| error.to_string())?),
        _ = house.wait_for(|house| !house.accepting) => None,
        () = closed.cancelled() => None,
    };
    let Some(heard) = heard else {
        farewell(stream, link, &close_frame(Side::Client, GOING_AWAY, "")).await;
        return Ok(None);
    };
    match heard {
        Ok(start) => {
            let place = Place { line, path: 0, side: Side::Client, peer };
            let made = arrival(place, stream, link, *start, &trunk.options, Direction::Both);
            made.map(Some).map_err(|error| error.to_string())
        }
        Err(words) => {
            farewell(stream, link, welcome.out()).await;
            Err(words)
        }
    }
}

/// Waits for a call, however long. The vendor answers pings meanwhile, or is gone.
async fn wait(stream: &TcpStream, link: &mut Link, welcome: &mut Welcome) -> io::Result<Result<Box<Start>, String>> {
    let mut liveness = Liveness::new(clock::now(), PING_EVERY);
    loop {
        match welcome.handle() {
            Step::Begun(start) => return Ok(Ok(start)),
            Step::Over(end) => return Ok(Err(end.to_string())),
            Step::Wait => {}
        }
        say_what_is_due(stream, link, welcome).await?;
        let until_ping = liveness.poll_timeout().saturating_sub(clock::now());
        tokio::select! {
            heard = hear_more(stream, link, welcome) => {
                heard?;
                liveness.handle_data();
                continue;
            }
            () = sleep(until_ping) => {}
        }
        match liveness.poll(clock::now()) {
            Beat::Nothing => {}
            Beat::SendPing => welcome.ping(&liveness.ping_payload()),
            Beat::Dead => {
                welcome.close(PROTOCOL, "two pings were not answered");
                return Ok(Err("it did not answer two pings".to_owned()));
            }
        }
    }
}

/// How long to wait before the next attempt.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    /// `chance` is from 0 to 255.
    fn next(&mut self, chance: u8) -> Duration {
        let whole = Duration::from_secs(1 << self.failures.min(5)).min(LONGEST_WAIT);
        self.failures += 1;
        // From three quarters of it to the whole.
        whole - whole / 4 * u32::from(chance) / 255
    }
}

/// What kept the vendor away when that was last told.
#[derive(Debug, Default)]
struct Trouble {
    told: Option<String>,
    was_well: bool,
}

impl Trouble {
    /// Whether this is another trouble than the last.
    fn is_new(&mut self, words: &str) -> bool {
        if self.told.as_deref() == Some(words) {
            return false;
        }
        *self = Self { told: Some(words.to_owned()), was_well: false };
        true
    }

    /// It is well; whether that is news.
    fn is_over(&mut self) -> bool {
        !core::mem::replace(&mut self.was_well, true)
    }
}

fn chance() -> u8 {
    let mut byte = [0];
    // The kernel's generator does not fail once the machine has booted.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A connection that stood for so long is no sign that the next one will not.
const STOOD_WELL: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(20);

/// RFC 6455 7.4.1.
const GOING_AWAY: u16 = 1001;
const PROTOCOL: u16 = 1002;

const NO_START: &str = "no start came in time";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use core::net::Ipv4Addr;
    use std::path::PathBuf;

    use tokio::{net::TcpListener, task::LocalSet};

    use super::*;
    use crate::{
        config::{self, Environment, Secret},
        leg::websocket::{
            dial::accept,
            jwt::{Algorithm, Verifier},
        },
    };

    const KEY: &str = "thirty-two bytes of shared secret";

    struct Key;

    impl Environment for Key {
        fn var(&self, _: &str) -> Option<String> {
            Some(KEY.to_owned())
        }

        fn credentials_dir(&self) -> Option<PathBuf> {
            None
        }
    }

    #[tokio::test]
    async fn a_vendor_that_wants_a_token_gets_one_with_each_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let text = format!(
            "account = \"harbour\"\n[line.cloud]\nkind = \"websocket\"\ndial = \"ws://{}/agent\"\n\
             dialect = \"ozonetel\"\njwt = {{ key = {{ env = \"KEY\" }}, algorithm = \"HS256\" }}\n[trunk.agent]\n\
             url = \"ws://127.0.0.1:9/\"\ndialect = \"ozonetel\"\n[[route]]\nline = \"cloud\"\ntrunks = [\"agent\"]\n",
            listener.local_addr().unwrap()
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trunkline.toml");
        std::fs::write(&path, text).unwrap();
        let config = Arc::new(config::load(&path, &Key).unwrap_or_else(|problems| panic!("{problems}")));
        let verifier = Verifier::new(Algorithm::Hs256, &Secret::new(KEY)).unwrap();
        let (arrivals, _arrived) = mpsc::channel(1);
        let (_house, told) = watch::channel(House { accepting: true, draining: false, healthy: true, pubsub: None });
        let vendor = async {
            let accepted = accept(listener.accept().await.unwrap().0, None).await.unwrap();
            let token = accepted.request.header("authorization").unwrap().strip_prefix("Bearer ").unwrap();
            verifier.verify(token, clock::epoch_ms() / 1000).unwrap()
        };
        let setup =
            OutboundSetup { config, line: 0, arrivals, house: told, ids: None, closed: CancellationToken::new() };
        let told = LocalSet::new()
            .run_until(async {
                tokio::select! {
                    claims = vendor => claims,
                    () = serve(setup, None) => unreachable!("it dials until it goes down"),
                }
            })
            .await;
        assert_eq!(told, Claims { tenant_id: "harbour".to_owned(), interaction_id: String::new() });
    }

    #[test]
    fn the_waits_double_up_to_half_a_minute_and_each_has_some_chance_in_it() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..8).map(|_| backoff.next(0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(Backoff::default().next(255), Duration::from_millis(750));
    }

    #[test]
    fn a_trouble_is_told_once_until_it_changes() {
        let mut trouble = Trouble::default();
        assert!(trouble.is_new("no answer") && !trouble.is_new("no answer"));
        assert!(trouble.is_new("401") && trouble.is_over() && !trouble.is_over());
        assert!(!trouble.is_new("401"), "a vendor that comes and goes fills no log");
    }
}
