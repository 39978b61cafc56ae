//! `trunkline doctor`: looks at everything that calls need, and says of each thing how it stands and what mends it.
//!
//! Names come first, because whatever has none need not be dialled; then all peers at once, while this machine is looked
//! at. Each step has a limit of its own:
//!
//! ```text
//!   config --> names (4 s) ----+--> trunks: handshake and call (10 s), PBX (7 s), sinks (4 s) --> findings, in order
//!        \---> clock, daemon --+--> ports, folders, sound (4 s each) ----------------------/
//! ```

use core::{future::Future, pin::Pin, time::Duration};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use hyper::Method;
use serde::Serialize;
use tokio::task::{LocalSet, spawn_local};

use self::network::Names;
use crate::{
    cli::{
        ask::{AskError, At},
        panel::Look,
    },
    clock,
    config::{self, Config, LineKind, ServiceEnvironment},
    control::desk,
    doctor::{self, Check, Finding, Status, certificate, worst},
    exit,
    leg::websocket::tls,
};

mod machine;
mod network;
mod pbx;

/// Says why a site does not work: looks at the config, names, the clock, certificates, trunks, PBXs, ports, sound and disks,
/// and says of each how it stands and what to do about it.
///
/// It makes a short call at each agent, with a second of quiet sound. A line that registers at a PBX is registered and taken
/// back at once, from a port of its own; where the daemon runs, that one is asked instead. Run it by sudo: it can then read
/// the service's secrets, and judges folders and sound cards as the service's user.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// The config file
    #[arg(long, value_name = "FILE", default_value = SERVICE_CONFIG)]
    pub config: PathBuf,
    /// Ask nobody: names, trunks, PBXs and sinks are left out
    #[arg(long)]
    pub offline: bool,
    /// Leave out the short call at each agent; its handshake is made all the same
    #[arg(long)]
    pub no_call: bool,
    /// The daemon's control socket [default: the config's; of the service /run/trunkline/control.sock]
    #[arg(long, value_name = "PATH", env = "TRUNKLINE_SOCKET")]
    pub socket: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
  sudo trunkline doctor
  sudo trunkline doctor --no-call
  trunkline doctor --config my.toml --offline
  sudo trunkline doctor --json

It leaves with 0 when nothing failed, with 78 when the config is wrong, and with 1 when anything else failed. What each
line means: docs/doctor.md.";

/// Whether the daemon runs.
enum Daemon {
    Runs(Box<desk::Status>),
    Down,
    /// It may: its socket is not for us.
    Unknown,
}

impl Daemon {
    fn status(&self) -> Option<&desk::Status> {
        if let Self::Runs(status) = self { Some(status) } else { None }
    }
}

/// Everything that a look at the site shares.
struct Site {
    config: Config,
    daemon: Daemon,
    /// This config's daemon has a control socket, as far as is known.
    has_socket: bool,
    service: machine::Service,
    no_call: bool,
    now: u64,
}

/// What is looked at meanwhile: what it is and its name, for whoever waits, and what comes of it.
type Looking = (Check, String, Pin<Box<dyn Future<Output = Vec<Finding>>>>);

/// Looks, prints, and gives the exit code.
#[must_use]
pub fn doctor(args: &DoctorArgs) -> u8 {
    let findings = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let findings = LocalSet::new().block_on(&runtime, look(args));
            // A resolver that hangs is not waited for.
            runtime.shutdown_background();
            findings
        }
        Err(error) => vec![Finding::fail(
            Check::Config,
            "this process",
            format!("the system refused: {error}"),
            "`ulimit -a` and `free -m` show what is short",
        )],
    };
    let text = if args.json { json(&findings) } else { text(&findings, Look::of_stdout()) };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    exit_code(&findings)
}

fn exit_code(findings: &[Finding]) -> u8 {
    let failed = |check: Option<Check>| {
        let is_it = |finding: &&Finding| check.is_none_or(|check| finding.check == check);
        findings.iter().filter(is_it).any(|finding| finding.status == Status::Fail)
    };
    match (failed(Some(Check::Config)), failed(None)) {
        (true, _) => exit::CONFIG,
        (false, true) => exit::FAILED,
        (false, false) => exit::OK,
    }
}

async fn look(args: &DoctorArgs) -> Vec<Finding> {
    let now = clock::epoch_ms() / 1000;
    let config = match config::load(&args.config, &ServiceEnvironment) {
        Ok(config) => config,
        Err(problems) => {
            let mut findings: Vec<_> = problems.0.iter().map(of_problem).collect();
            findings.push(machine::clock(now).await);
            findings.push(Finding::skip(Check::Daemon, "all else", "it takes a config that can be read"));
            return findings;
        }
    };
    let mut findings = of_config(&args.config, &config);
    let socket = args.socket.clone().or_else(|| config.control.socket.clone());
    let has_socket = socket.is_some();
    // The daemon of the installed service runs that config and no other.
    let is_service = args.config == Path::new(SERVICE_CONFIG);
    let socket = socket.or_else(|| is_service.then(|| PathBuf::from(SERVICE_SOCKET)));
    let names = async { if args.offline { None } else { Some(network::names(&config).await) } };
    let (clock, asked, names) = tokio::join!(machine::clock(now), ask_daemon(socket), names);
    let service = machine::Service::of(&args.config);
    let (daemon, said) = match asked {
        Some(asked) => of_daemon(asked, service.is_installed()),
        None => {
            (Daemon::Down, Finding::skip(Check::Daemon, "daemon", "this config has no control socket to ask it at"))
        }
    };
    findings.extend([said, clock]);
    let site = Rc::new(Site { config, daemon, has_socket, service, no_call: args.no_call, now });
    findings.extend(own_certificates(&site));
    let here = Rc::clone(&site);
    let mut looks: Vec<Looking> =
        vec![(Check::Port, "this machine".to_owned(), Box::pin(async move { machine::look(&here).await }))];
    match names {
        None => findings.push(Finding::skip(Check::Dns, "all peers", "they are not asked (--offline)")),
        Some((names, found)) => {
            findings.extend(found);
            looks.extend(peers(&site, &Rc::new(names)));
        }
    }
    findings.extend(all(looks).await);
    findings
}

/// All peers, in the order of the config.
fn peers(site: &Rc<Site>, names: &Rc<Names>) -> Vec<Looking> {
    let mut looks: Vec<Looking> = Vec::new();
    for n in 0..site.config.trunks.len() {
        let (site, names) = (Rc::clone(site), Rc::clone(names));
        let label = format!("[trunk.{}]", site.config.trunks[n].name);
        looks.push((Check::Trunk, label, Box::pin(async move { network::trunk(&site, n, &names).await })));
    }
    for (n, line) in site.config.lines.iter().enumerate() {
        let (label, site, names) = (format!("[line.{}]", line.name), Rc::clone(site), Rc::clone(names));
        match &line.kind {
            LineKind::Sip(_) => {
                looks.push((Check::SipOptions, label, Box::pin(async move { pbx::line(&site, n, &names).await })));
            }
            LineKind::Websocket(websocket) if websocket.dial().is_some() => {
                looks.push((Check::Trunk, label, Box::pin(async move { network::vendor(&site, n, &names).await })));
            }
            LineKind::Websocket(_) | LineKind::Audiosocket { .. } | LineKind::Sound(_) | LineKind::Pipe(_) => {}
        }
    }
    if site.config.telnyx.is_some() {
        let (site, names) = (Rc::clone(site), Rc::clone(names));
        looks.push((Check::Sink, "[telnyx]".to_owned(), Box::pin(async move { network::telnyx(&site, &names).await })));
    }
    for n in 0..site.config.sinks.len() {
        let (site, names) = (Rc::clone(site), Rc::clone(names));
        let label = format!("[sink.{}]", site.config.sinks[n].name);
        looks.push((Check::Sink, label, Box::pin(async move { network::sink(&site, n, &names).await })));
    }
    looks
}

/// All at once; whoever sits at a terminal sees what is waited for.
async fn all(looks: Vec<Looking>) -> Vec<Finding> {
    let waiting: Rc<RefCell<BTreeMap<usize, String>>> = Rc::default();
    let mut tasks = Vec::new();
    for (n, (check, label, look)) in looks.into_iter().enumerate() {
        waiting.borrow_mut().insert(n, label.clone());
        let waiting = Rc::clone(&waiting);
        let task = spawn_local(async move {
            let findings = look.await;
            waiting.borrow_mut().remove(&n);
            findings
        });
        tasks.push((check, label, task));
    }
    let progress = io::stderr().is_terminal().then(|| {
        spawn_local(async move {
            loop {
                tokio::time::sleep(SHOW_EVERY).await;
                let labels: Vec<_> = waiting.borrow().values().cloned().collect();
                eprint!("\r\x1b[Kwaiting for {}", labels.join(", "));
            }
        })
    });
    let mut findings = Vec::new();
    for (check, label, task) in tasks {
        // One that panicked has said so on stderr, which a script does not read.
        findings.extend(task.await.unwrap_or_else(|_| {
            vec![Finding::fail(
                check,
                label,
                "this check broke off",
                "it is a bug of trunkline: report what it said above",
            )]
        }));
    }
    if let Some(progress) = progress {
        progress.abort();
        eprint!("\r\x1b[K");
    }
    findings
}

fn of_problem(problem: &config::Problem) -> Finding {
    let config::Problem { file, line, key, found, wanted } = problem;
    let place = if *line > 0 { format!("{}:{line}", file.display()) } else { file.display().to_string() };
    let key = match (key.as_str(), found.as_str()) {
        ("", _) => String::new(),
        (key, "") => format!("{key}: "),
        (key, found) => format!("{key} = {found}: "),
    };
    let words = format!("{key}{wanted}");
    let is_root = rustix::process::geteuid().is_root();
    if *line == 0 && wanted.contains("No such file") {
        let fix = format!("`sudo trunkline config init --output {}` asks five questions and writes it", file.display());
        return Finding::fail(Check::Config, place, words, fix);
    }
    if !is_root && (wanted.contains("Permission denied") || wanted.contains("no credentials")) {
        return Finding::fail(Check::Config, place, words, "it is not for this user: run this by sudo");
    }
    Finding::fail_in_words(Check::Config, place, &words, "mend it, until `sudo trunkline check` says \"good\"")
}

fn of_config(path: &Path, config: &Config) -> Vec<Finding> {
    let (lines, trunks, sinks) = (config.lines.len(), config.trunks.len(), config.sinks.len());
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut said = format!("{} is good: {}, {}", path.display(), count(lines, "line"), count(trunks, "trunk"));
    if sinks > 0 {
        said += &format!(", {}", count(sinks, "sink"));
    }
    let mut findings = vec![Finding::ok(Check::Config, "config", said)];
    findings.extend(config.warnings().into_iter().map(|warning| {
        Finding::warn(Check::Config, "config", warning, "see that it is meant so; docs/config.md has the key")
    }));
    findings
}

async fn ask_daemon(socket: Option<PathBuf>) -> Option<Result<desk::Status, AskError>> {
    let at = At { socket: socket? };
    Some(at.ask(Method::GET, "/status").await.and_then(|said| at.understand(&said)))
}

/// `is_installed`: as a service, which is meant to run.
fn of_daemon(asked: Result<desk::Status, AskError>, is_installed: bool) -> (Daemon, Finding) {
    let (check, subject) = (Check::Daemon, "daemon");
    match asked {
        Ok(status) => {
            let desk::Status { version, pid, uptime_seconds, calls, problems, .. } = &status;
            let said =
                format!("trunkline {version} runs (pid {pid}) for {uptime_seconds} s, with {} calls", calls.len());
            let finding = if problems.is_empty() {
                Finding::ok(check, subject, said)
            } else {
                let problems = problems.join("; ");
                Finding::warn(check, subject, format!("{said}: {problems}"), "`trunkline status` shows more")
            };
            (Daemon::Runs(Box::new(status)), finding)
        }
        Err(error) if error.is_nobody() && is_installed => (
            Daemon::Down,
            Finding::warn(
                check,
                subject,
                "the service does not run",
                "once nothing here fails: `sudo systemctl enable --now trunkline`; `journalctl -u trunkline -n 20` has why it \
                 ended",
            ),
        ),
        Err(error) if error.is_nobody() => (Daemon::Down, Finding::skip(check, subject, "it does not run")),
        Err(error) => (Daemon::Unknown, of_no_answer(&error, rustix::process::geteuid().is_root())),
    }
}

/// Somebody is there, and what it said is of no use.
fn of_no_answer(error: &AskError, is_root: bool) -> Finding {
    let (check, subject, words) = (Check::Daemon, "daemon", error.to_string());
    if error.is_forbidden() && !is_root {
        Finding::warn(check, subject, words, "run this by sudo")
    } else if error.is_hung() {
        let restart = "`sudo systemctl restart trunkline`, if calls are stuck as well: it ends them";
        Finding::fail(check, subject, words, restart)
    } else if error.is_foreign() {
        let restart = "`sudo systemctl restart trunkline` takes the program that is installed; its calls end";
        Finding::warn(check, subject, words, restart)
    } else {
        Finding::warn(check, subject, words, "`journalctl -u trunkline -n 20` may have why")
    }
}

/// Those that we show to whoever connects.
fn own_certificates(site: &Site) -> Vec<Finding> {
    let pairs = site.config.lines.iter().filter_map(|line| {
        let pair = match &line.kind {
            LineKind::Websocket(websocket) => websocket.listen()?.tls.as_ref()?,
            LineKind::Sip(sip) => &sip.tls.as_ref()?.pair,
            LineKind::Audiosocket { .. } | LineKind::Sound(_) | LineKind::Pipe(_) => return None,
        };
        Some((&line.name, &pair.certificate))
    });
    pairs
        .map(|(name, file)| {
            let until = tls::file_valid_until(file).map_err(|error| error.to_string());
            let until = until.as_ref().map(|until| *until).map_err(String::as_str);
            certificate::judge_own(format!("[line.{name}] certificate"), &file.display().to_string(), until, site.now)
        })
        .collect()
}

fn text(findings: &[Finding], look: Look) -> String {
    let width = |finding: &Finding| finding.subject.chars().count();
    let wide = findings.iter().map(width).filter(|&wide| wide <= WIDEST).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let status = finding.status.name();
        let colour = match finding.status {
            Status::Ok => "32",
            Status::Skip => "2",
            Status::Warn => "33",
            Status::Fail => "31",
        };
        let status = if look.colours { format!("\x1b[{colour}m{status:<4}\x1b[0m") } else { format!("{status:<4}") };
        text += &format!("{status}  {:<wide$}  {finding}\n", doctor::line(&finding.subject));
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let verdict = match worst(findings) {
        Status::Fail => "what failed keeps calls from working",
        Status::Warn => "calls can work",
        Status::Ok | Status::Skip => "all is well",
    };
    text + &format!(
        "\n{} ok, {} warn, {} fail, {} skip: {verdict}.\n",
        count(Status::Ok),
        count(Status::Warn),
        count(Status::Fail),
        count(Status::Skip)
    )
}

fn json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Told<'f> {
        status: Status,
        findings: &'f [Finding],
    }
    let mut text = serde_json::to_string_pretty(&Told { status: worst(findings), findings }).expect("words only");
    text.push('\n');
    text
}

/// What the unit runs.
const SERVICE_CONFIG: &str = "/etc/trunkline/trunkline.toml";

/// Where its control socket is, unless the config says otherwise.
const SERVICE_SOCKET: &str = "/run/trunkline/control.sock";

const SHOW_EVERY: Duration = Duration::from_millis(300);

/// Longer than this a subject stands out of its column.
const WIDEST: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colours: false, bars: false };

    #[test]
    fn each_finding_is_one_line_with_its_next_step() {
        let findings = [
            Finding::ok(Check::Clock, "clock", "2027-01-15 UTC"),
            Finding::fail(Check::Tls, "[trunk.agent] TLS", "it has expired", "renew it"),
        ];
        assert_eq!(
            text(&findings, PLAIN),
            "ok    clock              2027-01-15 UTC\n\
             fail  [trunk.agent] TLS  it has expired. Next: renew it\n\
             \n1 ok, 0 warn, 1 fail, 0 skip: what failed keeps calls from working.\n"
        );
        assert!(text(&findings, Look { colours: true, ..PLAIN }).contains("\x1b[31mfail\x1b[0m  [trunk.agent]"));
    }

    #[test]
    fn the_exit_code_tells_a_wrong_config_from_a_wrong_site() {
        let of = |check, status| exit_code(&[Finding { status, ..Finding::ok(check, "", "") }]);
        assert_eq!(of(Check::Config, Status::Fail), 78);
        assert_eq!(of(Check::Tls, Status::Fail), 1);
        assert_eq!(of(Check::Config, Status::Warn), 0);
        assert_eq!(of(Check::Tls, Status::Skip), 0);
    }

    #[test]
    fn a_problem_of_the_config_keeps_its_place_and_its_next_step() {
        let problem = config::Problem {
            file: "/etc/t.toml".into(),
            line: 3,
            key: "[trunk.agent] dialect".to_owned(),
            found: "\"ozontel\"".to_owned(),
            wanted: "no such dialect; did you mean `ozonetel`?".to_owned(),
        };
        let finding = of_problem(&problem);
        assert_eq!(finding.subject, "/etc/t.toml:3");
        assert_eq!(finding.found, "[trunk.agent] dialect = \"ozontel\": no such dialect");
        assert_eq!(finding.fix.as_deref(), Some("did you mean `ozonetel`?"));
        let missing = config::Problem {
            line: 0,
            key: String::new(),
            found: String::new(),
            wanted: "cannot be read: No such file or directory (os error 2)".to_owned(),
            ..problem
        };
        let finding = of_problem(&missing);
        assert!(finding.fix.is_some_and(|fix| fix.contains("trunkline config init --output /etc/t.toml")));
    }

    #[test]
    fn a_check_that_breaks_off_is_no_success() {
        let broken: Looking = (Check::Trunk, "[trunk.agent]".to_owned(), Box::pin(async { panic!("a bug") }));
        let well: Looking = (Check::Sink, String::new(), Box::pin(async { vec![Finding::ok(Check::Sink, "", "")] }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let findings = LocalSet::new().block_on(&runtime, all(vec![broken, well]));
        let told = [(Check::Trunk, Status::Fail), (Check::Sink, Status::Ok)];
        assert_eq!(findings.iter().map(|finding| (finding.check, finding.status)).collect::<Vec<_>>(), told);
    }

    #[test]
    fn only_whoever_may_not_ask_is_sent_to_sudo() {
        use tokio::{
            io::{AsyncReadExt as _, AsyncWriteExt as _},
            net::UnixListener,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let said = |answer: &'static [u8]| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _ = std::fs::remove_file(&path);
            let asked = runtime.block_on(async {
                let listener = UnixListener::bind(&path).expect("a socket");
                let there = async {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer).await;
                };
                tokio::join!(ask_daemon(Some(path.clone())), there).0.expect("a socket is named")
            });
            let (daemon, finding) = of_daemon(asked, true);
            assert!(matches!(daemon, Daemon::Unknown));
            (finding.status, finding.fix.unwrap_or_default())
        };
        // It ends at once.
        let (status, fix) = said(b"");
        assert!(status == Status::Fail && fix.contains("systemctl restart trunkline"), "{fix}");
        let (status, fix) = said(b"HTTP/1.1 200 OK\r\nserver: trunkline/0.0.1\r\ncontent-length: 2\r\n\r\n{}");
        assert!(status == Status::Warn && fix.contains("systemctl restart trunkline"), "{fix}");
        let (status, fix) = said(b"HTTP/1.1 503 no\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}");
        assert!(status == Status::Warn && fix.contains("journalctl"), "{fix}");
    }

    #[test]
    fn a_service_that_does_not_run_is_told_with_how_to_start_it() {
        let nobody = || {
            let socket = Some("/nonexistent/control.sock".into());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(ask_daemon(socket)).expect("a socket is named")
        };
        let (daemon, finding) = of_daemon(nobody(), true);
        assert!(matches!(daemon, Daemon::Down) && finding.status == Status::Warn);
        assert!(finding.fix.is_some_and(|fix| fix.contains("systemctl enable --now trunkline")));
        assert_eq!(of_daemon(nobody(), false).1.status, Status::Skip);
    }
}
