//! Names, certificates, trunks, vendors and sinks, asked.

use core::{net::IpAddr, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use rustls::pki_types::ServerName;
use tokio::{net::lookup_host, task::spawn_local, time::timeout};
use tokio_rustls::TlsConnector;

use super::Site;
use crate::{
    cli::call::{facts_of_nobody, try_out},
    config::{Config, LineKind, Trunk, Url},
    dialect::{Dialect, Facts},
    doctor::{Check, Finding, Status, call, certificate, name},
    leg::{
        sip::resolve::without_prefix,
        websocket::{
            dial::{self, Dialed, Stage},
            dialer,
            jwt::Claims,
            tls::{self, TlsError},
        },
    },
    media::Rate,
};

/// Hosts that have an address.
#[derive(Default)]
pub(super) struct Names {
    known: BTreeSet<String>,
}

impl Names {
    /// Whether it can be dialled.
    pub(super) fn has(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok() || self.known.contains(host)
    }
}

/// Looks up every name of the config; gives those that have an address, and what was found of each.
pub(super) async fn names(config: &Config) -> (Names, Vec<Finding>) {
    let servers = name::servers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let lookups: BTreeMap<String, _> = hosts(config)
        .into_iter()
        .filter(|host| host.parse::<IpAddr>().is_err())
        .map(|host| {
            let asked = host.clone();
            let lookup = spawn_local(async move {
                match timeout(NAME, lookup_host((asked.as_str(), 0))).await {
                    Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect::<Vec<_>>()),
                    Ok(Err(error)) => Err(without_prefix(&error)),
                    Err(_) => Err(format!("the resolver did not answer in {} s", NAME.as_secs())),
                }
            });
            (host, lookup)
        })
        .collect();
    let (mut names, mut findings) = (Names::default(), Vec::new());
    for (host, lookup) in lookups {
        let found = lookup.await.unwrap_or_else(|_| Err("it could not be looked up".to_owned()));
        let finding = name::judge(&host, found.as_deref().map_err(String::as_str), &servers);
        if finding.status == Status::Ok {
            names.known.insert(host);
        }
        findings.push(finding);
    }
    (names, findings)
}

/// Whom the config names.
fn hosts(config: &Config) -> BTreeSet<String> {
    let trunks = config.trunks.iter().map(|trunk| trunk.url.host.clone());
    let lines = config.lines.iter().flat_map(|line| match &line.kind {
        LineKind::Websocket(websocket) => websocket.dial().map(|trunk| trunk.url.host.clone()).into_iter().collect(),
        LineKind::Sip(sip) => super::pbx::peers(sip).map(|(_, uri)| uri.host.clone()).collect(),
        LineKind::Audiosocket { .. } | LineKind::Sound(_) | LineKind::Pipe(_) => Vec::new(),
    });
    let sinks = config.sinks.iter().map(|sink| sink.at.url.host.clone());
    let telnyx = config.telnyx.iter().map(|telnyx| telnyx.api_url.host.clone());
    trunks.chain(lines).chain(sinks).chain(telnyx).collect()
}

/// A trunk: its certificate, its handshake as the daemon makes it, and a short call.
pub(super) async fn trunk(site: &Site, n: usize, names: &Names) -> Vec<Finding> {
    let trunk = &site.config.trunks[n];
    let place = format!("[trunk.{}]", trunk.name);
    if !names.has(&trunk.url.host) {
        return vec![Finding::skip(Check::Trunk, place, NAMELESS)];
    }
    let (shaken, told) =
        tokio::join!(handshake(&place, &trunk.url, trunk.ca_file.as_deref(), site.now), dial_and_call(site, n, trunk));
    let tls_failed = shaken.as_ref().is_some_and(|finding| finding.status == Status::Fail);
    let mut findings: Vec<Finding> = shaken.into_iter().collect();
    match told {
        Ok(told) => findings.extend(told),
        Err(unreached) if tls_failed && unreached.by_tls => {
            findings.push(Finding::skip(Check::Trunk, place, "without TLS there is no handshake: see the line above"));
        }
        Err(unreached) => findings.push(call::judge_handshake(place, Err(&unreached.words))),
    }
    findings
}

async fn dial_and_call(site: &Site, n: usize, trunk: &Trunk) -> Result<Vec<Finding>, Unreached> {
    let place = format!("[trunk.{}]", trunk.name);
    let (dialed, grammar, facts) = reach(site, n, trunk).await?;
    let mut findings = Vec::new();
    findings.push(call::judge_handshake(place.clone(), Ok((&dialed.peer.to_string(), dialed.stages))));
    let subject = format!("{place} call");
    if site.no_call {
        findings.push(Finding::skip(Check::Call, subject, "not called (--no-call)"));
        return Ok(findings);
    }
    let rate = grammar.rate();
    match timeout(CALL, try_out(dialed, grammar, facts, call::sound(rate))).await {
        Ok(Ok(out)) => {
            let found = call::find(&out.heard, rate);
            let sent_at = out.sent_at.get(call::first_frame());
            let heard_at = found.and_then(|place| {
                let after = out.heard_at.partition_point(|&(first, _)| first <= place);
                out.heard_at.get(after.checked_sub(1)?).map(|&(first, at)| at + rate.duration(place - first))
            });
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            let tried = call::Tried {
                round_trip_ms: heard_at.zip(sent_at).map(|(heard, sent)| ms(heard.saturating_sub(*sent))),
                trouble: out.tried.trouble.map(|words| dial::shown(&words, trunk)),
                ..out.tried
            };
            findings.push(call::judge_call(subject, &tried));
        }
        Ok(Err(error)) => findings.push(Finding::skip(Check::Call, subject, format!("it could not be made: {error}"))),
        Err(_) => {
            let tried = call::Tried {
                seconds: CALL.as_secs_f64(),
                trouble: Some("it did not come to an end".to_owned()),
                was_ended: true,
                ..call::Tried::default()
            };
            findings.push(call::judge_call(subject, &tried));
        }
    }
    Ok(findings)
}

/// Why a trunk was not reached.
struct Unreached {
    words: String,
    /// By what the line on TLS tells, too.
    by_tls: bool,
}

type Reached = (Dialed, Box<dyn Dialect>, Facts);

/// Dials as the daemon does.
async fn reach(site: &Site, n: usize, trunk: &Trunk) -> Result<Reached, Unreached> {
    let roots = (trunk.url.secure || trunk.url.asks).then(|| tls::client_config(trunk.ca_file.as_deref()));
    let roots = roots.transpose().map_err(|error| Unreached { words: error.to_string(), by_tls: true })?;
    let line_rate = site.config.routes.iter().filter(|route| route.trunks.contains(&n)).find_map(|route| {
        let sip = site.config.lines[route.line].kind.sip()?;
        sip.audio.codecs.iter().map(|codec| codec.rate()).max()
    });
    let facts =
        facts_of_nobody(&site.config.account).map_err(|error| Unreached { words: error.to_string(), by_tls: false })?;
    let claims = Claims { tenant_id: facts.account.to_string(), interaction_id: facts.call_sid_or_ours().to_owned() };
    let dialling = async {
        let mut attempt = 1;
        loop {
            let reached =
                dialer::reach(trunk, roots.as_ref(), line_rate.unwrap_or(Rate::Hz8000), &facts, &claims).await;
            match reached {
                Ok((dialed, grammar)) => return Ok((dialed, grammar)),
                Err(refused) if refused.is_worth_a_retry && attempt < trunk.attempts() => attempt += 1,
                Err(refused) => {
                    let by_tls = refused.words.contains(&Stage::Tls.to_string());
                    return Err(Unreached { words: refused.words, by_tls });
                }
            }
        }
    };
    // Each stage has a limit of its own, with better words; this is for what has none.
    let limit = trunk.longest_dial() + Duration::from_secs(1);
    let late = || {
        let words = format!(
            "{}: it was not reached in {} s; look whether the agent is too busy to answer, and at the network on the way",
            trunk.url.authority,
            limit.as_secs_f64()
        );
        Err(Unreached { words, by_tls: false })
    };
    let (dialed, grammar) = timeout(limit, dialling).await.unwrap_or_else(|_| late())?;
    Ok((dialed, grammar, facts))
}

/// A vendor that a line dials. Its handshake is not made: it would take us for the line.
pub(super) async fn vendor(site: &Site, n: usize, names: &Names) -> Vec<Finding> {
    let line = &site.config.lines[n];
    let Some(trunk) = line.kind.websocket().and_then(|line| line.dial()) else { return Vec::new() };
    let place = format!("[line.{}]", line.name);
    if !names.has(&trunk.url.host) {
        return vec![Finding::skip(Check::Trunk, place, NAMELESS)];
    }
    peer(Check::Trunk, place, &trunk.url, trunk.ca_file.as_deref(), site.now).await
}

/// Telnyx, where commands go.
pub(super) async fn telnyx(site: &Site, names: &Names) -> Vec<Finding> {
    let Some(telnyx) = &site.config.telnyx else { return Vec::new() };
    let place = "[telnyx] api-url".to_owned();
    if !names.has(&telnyx.api_url.host) {
        return vec![Finding::skip(Check::Tls, place, NAMELESS)];
    }
    peer(Check::Sink, place, &telnyx.api_url, None, site.now).await
}

/// A sink: its certificate, and whether it takes connections.
pub(super) async fn sink(site: &Site, n: usize, names: &Names) -> Vec<Finding> {
    let sink = &site.config.sinks[n];
    let place = format!("[sink.{}]", sink.name);
    if !names.has(&sink.at.url.host) {
        return vec![Finding::skip(Check::Sink, place, NAMELESS)];
    }
    peer(Check::Sink, place, &sink.at.url, sink.ca_file.as_deref(), site.now).await
}

/// Its certificate, and whether it takes connections.
async fn peer(check: Check, place: String, url: &Url, ca_file: Option<&Path>, now: u64) -> Vec<Finding> {
    let (shaken, connected) = tokio::join!(handshake(&place, url, ca_file, now), connection(check, place.clone(), url));
    shaken.into_iter().chain([connected]).collect()
}

async fn connection(check: Check, place: String, url: &Url) -> Finding {
    match dial::connect(&url.host, url.port, STEP).await {
        Ok(_) => Finding::ok(check, place, format!("{}:{} takes connections", url.host, url.port)),
        Err(error) => Finding::fail_in_words(check, place, &error.to_string(), "check the port"),
    }
}

/// The handshake of TLS alone. Nothing where there is no TLS, or no connection: other lines tell that.
async fn handshake(place: &str, url: &Url, ca_file: Option<&Path>, now: u64) -> Option<Finding> {
    if !url.secure {
        return None;
    }
    secure(&format!("{place} TLS"), (&url.host, url.port), ca_file, true, now).await
}

/// The same for whatever speaks TLS at a host and port; `http` or something else.
pub(super) async fn secure(
    subject: &str,
    (host, port): (&str, u16),
    ca_file: Option<&Path>,
    http: bool,
    now: u64,
) -> Option<Finding> {
    let untrusted = |error: &TlsError| {
        Finding::fail_in_words(Check::Tls, subject, &error.to_string(), "`apt install ca-certificates`, or set ca-file")
    };
    let config = match tls::client_config(ca_file) {
        Ok(config) if http => config,
        Ok(config) => {
            let mut config = rustls::ClientConfig::clone(&config);
            config.alpn_protocols.clear();
            Arc::new(config)
        }
        Err(error) => return Some(untrusted(&error)),
    };
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let stream = dial::connect(host, port, STEP).await.ok()?;
    let Ok(connected) = timeout(STEP, TlsConnector::from(config).connect(name, stream)).await else {
        return Some(Finding::fail(
            Check::Tls,
            subject,
            format!("{host}:{port} did not bring the TLS handshake to an end in {} s", STEP.as_secs()),
            "something takes connections there but does not answer: check the port",
        ));
    };
    Some(match connected {
        Ok(stream) => {
            let (_, connection) = stream.get_ref();
            let until = connection.peer_certificates().and_then(|chain| tls::valid_until(chain.first()?));
            certificate::judge_peer(subject, (host, port), Ok(until), now)
        }
        Err(error) => match fault(&error) {
            Some(fault) => certificate::judge_peer(subject, (host, port), Err(fault), now),
            None => Finding::fail_in_words(Check::Tls, subject, &tls::explain(&error), "check the port"),
        },
    })
}

fn fault(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

const NAMELESS: &str = "its name has no address: see the line on DNS";

/// Half of what the resolver takes by itself (resolv.conf(5), two tries of 5 s), and more than one that works does.
const NAME: Duration = Duration::from_secs(4);

/// For a connection to any of a name's addresses; and for TLS upon it.
const STEP: Duration = Duration::from_secs(4);

/// A second of sound, as long again to answer, and goodbye.
const CALL: Duration = Duration::from_millis(4500);
