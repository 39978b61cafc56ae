//! This machine, looked at: its clock, ports, folders and sound.

use core::{net::SocketAddr, time::Duration};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{TcpListener, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use tokio::{
    task::{spawn_blocking, spawn_local},
    time::timeout,
};

use super::{Daemon, SERVICE_CONFIG, Site};
use crate::{
    config::{Config, LineKind},
    doctor::{
        Check, Finding,
        account::{self, Account, Owned, gid_of},
        clock,
        disk::{self, Shut},
        port,
        sound::{self, Card, Device, Unit},
    },
    leg::sound::Way,
};

/// The clock, by what whoever keeps it has told the kernel.
pub(super) async fn clock(now: u64) -> Finding {
    let asked = spawn_blocking(|| {
        let mut command = Command::new("timedatectl");
        command.args(["show", "--property=NTPSynchronized", "--value"]).stdin(Stdio::null()).stderr(Stdio::null());
        let said = command.output().ok()?.stdout;
        match said.trim_ascii() {
            b"yes" => Some(true),
            b"no" => Some(false),
            _ => None,
        }
    });
    let told = timeout(ASKED, asked).await.ok().and_then(Result::ok).flatten();
    // systemd-timesyncd(8) makes it.
    let by_file = || Path::new("/run/systemd/timesync/synchronized").exists().then_some(true);
    clock::judge(now, clock::BUILT, told.or_else(by_file))
}

/// The rest: what is a matter of microseconds, and on threads of their own sound cards, folders and files, which may be on
/// something that does not answer.
pub(super) async fn look(site: &Site) -> Vec<Finding> {
    let mut findings = ports(site).await;
    findings.extend(rtp(&site.config));
    let (files, sounds, folders) = tokio::join!(files(site), sounds(site), folders(site));
    findings.extend(files);
    findings.extend(sounds);
    findings.extend(folders);
    findings
}

/// Who runs the config: the installed service, or whoever calls us.
#[derive(Clone)]
pub(super) struct Service {
    unit: Option<Unit>,
    account: Option<Account>,
    audio: Option<u32>,
    /// We are that account, so that what we may do tells.
    is_us: bool,
}

impl Service {
    /// The unit counts where this is the config that it runs.
    pub(super) fn of(config: &Path) -> Self {
        let [passwd, group] = ["/etc/passwd", "/etc/group"].map(|file| fs::read_to_string(file).unwrap_or_default());
        let unit = (config == Path::new(SERVICE_CONFIG)).then(unit).flatten();
        let own = rustix::process::geteuid().as_raw();
        let account = match &unit {
            Some(unit) => Account::find(unit.user.as_deref().unwrap_or("root"), &passwd, &group)
                .map(|account| account.with(unit.groups(), &group)),
            None => Account::of_uid(own, &passwd, &group),
        };
        let is_us = account.as_ref().is_some_and(|account| account.uid == own);
        Self { unit, account, audio: gid_of("audio", &group), is_us }
    }

    /// It is the service's config, and there is one.
    pub(super) const fn is_installed(&self) -> bool {
        self.unit.is_some()
    }

    fn name(&self) -> String {
        self.account.as_ref().map_or_else(|| "this user".to_owned(), |account| account.name.clone())
    }
}

/// The unit and its drop-ins, if it is installed; /etc goes before /run before /usr (systemd.unit(5)).
fn unit() -> Option<Unit> {
    let folders = ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    let text = folders.iter().find_map(|folder| fs::read_to_string(format!("{folder}/trunkline.service")).ok())?;
    let mut drop_ins: BTreeMap<String, PathBuf> = BTreeMap::new();
    for folder in folders.iter().rev() {
        let Ok(entries) = fs::read_dir(format!("{folder}/trunkline.service.d")) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".conf")) {
                drop_ins.insert(name.to_owned(), path.clone());
            }
        }
    }
    let more: Vec<String> = drop_ins.values().filter_map(|path| fs::read_to_string(path).ok()).collect();
    Some(Unit::read(core::iter::once(text.as_str()).chain(more.iter().map(String::as_str))))
}

async fn ports(site: &Site) -> Vec<Finding> {
    let service = &site.service;
    let may_bind_all = service.unit.is_none() && service.account.as_ref().is_some_and(|account| account.uid == 0);
    let first_free = (!may_bind_all).then(|| {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
        text.trim().parse().unwrap_or(1024)
    });
    let is_starting = service.is_installed() && site.daemon.status().is_none() && is_starting().await;
    wanted(&site.config)
        .into_iter()
        .map(|wanted| {
            // Nobody is to find a port taken because of us, least of all the daemon.
            let refused = if is_taken(&wanted) {
                Some(io::ErrorKind::AddrInUse)
            } else if is_starting {
                return port::judge_untried(&wanted);
            } else {
                bind(&wanted).err().map(|error| error.kind())
            };
            let in_use = refused == Some(io::ErrorKind::AddrInUse);
            let owner = if in_use { owner(&wanted) } else { None };
            let may_be_ours = may_be_the_daemon(site, owner.as_ref().map(|owner| owner.name.as_str()));
            let daemon = site.daemon.status().map(|status| status.pid);
            port::judge(&wanted, &port::Facts { refused, owner, daemon, may_be_ours, first_free })
        })
        .collect()
}

/// Whether it may be the daemon that has something, where nobody could be asked: by the name of the process, as far as it
/// is known.
fn may_be_the_daemon(site: &Site, owner: Option<&str>) -> bool {
    let is_trunkline = |name: &str| name == env!("CARGO_PKG_NAME");
    match &site.daemon {
        Daemon::Runs(_) => false,
        Daemon::Unknown => owner.is_none_or(is_trunkline),
        // Nobody is where its socket would be, and it may have none.
        Daemon::Down => !site.has_socket && owner.is_some_and(is_trunkline),
    }
}

/// Every port that the config listens on. Port 0 is any.
fn wanted(config: &Config) -> Vec<port::Wanted> {
    let mut wanted = Vec::new();
    let mut add = |key: String, address: SocketAddr, udp: bool| {
        if address.port() != 0 {
            wanted.push(port::Wanted { key, address, udp });
        }
    };
    for line in &config.lines {
        let key = format!("[line.{}] listen", line.name);
        match &line.kind {
            LineKind::Audiosocket { listen, .. } => add(key, *listen, false),
            LineKind::Websocket(websocket) => {
                if let Some(listen) = websocket.listen() {
                    add(key, listen.address, false);
                }
            }
            LineKind::Sip(sip) => {
                for (is_on, udp) in [(sip.udp, true), (sip.tcp, false)] {
                    if is_on {
                        add(key.clone(), sip.listen, udp);
                    }
                }
                if let Some(tls) = &sip.tls {
                    add(format!("[line.{}] tls-listen", line.name), tls.address, false);
                }
            }
            LineKind::Sound(_) | LineKind::Pipe(_) => {}
        }
    }
    if let Some(http) = config.control.http {
        add("[control] http".to_owned(), http, false);
    }
    if let Some(telnyx) = &config.telnyx {
        add("[telnyx] webhook-listen".to_owned(), telnyx.webhook_listen, false);
    }
    wanted
}

/// The unit is about to run, so that its ports may be bound at any moment.
async fn is_starting() -> bool {
    let asked = in_time(|| {
        let mut command = Command::new("systemctl");
        command.args(["show", "--property=ActiveState", "--value", "trunkline"]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).output()
    });
    let said = asked.await.and_then(Result::ok);
    said.is_some_and(|said| said.stdout.trim_ascii() == b"activating")
}

/// Whether the kernel lists somebody at this very address. One at all addresses is left for `bind` to tell: it may be of
/// the other family only.
fn is_taken(wanted: &port::Wanted) -> bool {
    let table = match (wanted.udp, wanted.address.is_ipv6()) {
        (true, false) => "udp",
        (true, true) => "udp6",
        (false, false) => "tcp",
        (false, true) => "tcp6",
    };
    let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    port::listeners(&text, wanted.udp).any(|(address, _)| address == wanted.address)
}

fn bind(wanted: &port::Wanted) -> io::Result<()> {
    if wanted.udp { UdpSocket::bind(wanted.address).map(drop) } else { TcpListener::bind(wanted.address).map(drop) }
}

/// Who has a port: the process with its socket. Those of others are shown to root only.
fn owner(wanted: &port::Wanted) -> Option<port::Owner> {
    let tables = if wanted.udp { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            let found = port::listeners(&text, wanted.udp);
            let in_the_way = found.filter(|(address, _)| port::is_in_the_way(*address, wanted.address));
            in_the_way.map(|(_, inode)| format!("socket:[{inode}]")).collect::<Vec<_>>()
        })
        .collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has_it = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .any(|link| link.to_str().is_some_and(|link| inodes.iter().any(|inode| inode == link)))
    };
    let pid = processes.into_iter().find(has_it)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(port::Owner { pid, name })
}

fn rtp(config: &Config) -> Vec<Finding> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let ephemeral = port::range(&read("ip_local_port_range"));
    let reserved = port::ranges(&read("ip_local_reserved_ports"));
    let lines = config.lines.iter().filter_map(|line| Some((&line.name, line.kind.sip()?)));
    lines
        .map(|(name, sip)| {
            let key = format!("[line.{name}] rtp-ports");
            port::judge_rtp(&key, sip.audio.rtp_ports, config.media.max_calls, ephemeral, &reserved)
        })
        .collect()
}

async fn sounds(site: &Site) -> Vec<Finding> {
    let service = &site.service;
    let lines: Vec<_> =
        site.config.lines.iter().filter_map(|line| Some((line.name.clone(), line.kind.sound()?.clone()))).collect();
    let mut findings = Vec::new();
    // All are opened meanwhile, the two ways of a line one after the other: they may be one card.
    let looks: Vec<_> = lines
        .iter()
        .map(|(name, line)| {
            let running = site.daemon.status().and_then(|status| status.lines.iter().find(|known| known.name == *name));
            let told = running.and_then(|line| line.card.clone());
            let (input, output) = (line.input.clone(), line.output.clone());
            spawn_local(async move {
                match told {
                    Some(says) => [Card::OfDaemon(says.clone()), Card::OfDaemon(says)],
                    None => [card(&input, Way::Input).await, card(&output, Way::Output).await],
                }
            })
        })
        .collect();
    for ((name, line), look) in lines.iter().zip(looks) {
        let broken = |_| [(); 2].map(|()| Card::Refused("this check broke off".to_owned()));
        let cards = look.await.unwrap_or_else(broken);
        for ((way, device), card) in [(Way::Input, &line.input), (Way::Output, &line.output)].into_iter().zip(cards) {
            let key = format!("[line.{name}] {}", way.key());
            let card = match card {
                Card::Refused(why) if may_be_held(site, &why) => Card::Held,
                card => card,
            };
            findings.push(sound::judge_card(&key, device, &card));
        }
    }
    if lines.is_empty() {
        return findings;
    }
    let rights = sound::Rights {
        account: service.account.as_ref(),
        unit: service.unit.as_ref(),
        audio: service.audio,
        // What a unit gives is not ours, even if we are its user.
        devices: &devices(service.is_us && service.unit.is_none()),
    };
    findings.push(sound::judge_rights(&rights));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Rtprio).current.unwrap_or(u64::MAX);
    // Root needs no limit to be raised for it.
    let limit = if rustix::process::geteuid().is_root() { u64::MAX } else { limit };
    findings.push(sound::judge_realtime(service.unit.as_ref(), limit));
    findings
}

/// Whether a card is refused because the daemon may hold it. The words name the thread that does, where the kernel tells.
fn may_be_held(site: &Site, why: &str) -> bool {
    let Some(said) = why.strip_prefix("another program") else { return false };
    let thread = said.split_once("(process ").and_then(|(_, said)| said.split(')').next());
    let process = thread.and_then(|thread| {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        fs::read_to_string(format!("/proc/{}/comm", pid.trim())).ok()
    });
    may_be_the_daemon(site, process.as_deref().map(str::trim))
}

/// The card, as the daemon would open it. ALSA may take its time, and some of its plugins for ever.
#[cfg(feature = "sound")]
async fn card(device: &str, way: Way) -> Card {
    let name = device.to_owned();
    let looking = spawn_blocking(move || crate::leg::sound::alsa::look(&name, way));
    match timeout(SOUND, looking).await {
        Ok(Ok(Ok(formats))) => Card::There(formats),
        Ok(Ok(Err(fault))) => Card::Refused(fault.words),
        Ok(Err(_)) | Err(_) => {
            Card::Refused(format!("{device} did not answer; another name of it may: `trunkline devices`"))
        }
    }
}

/// A config with such a line is refused before.
#[cfg(not(feature = "sound"))]
async fn card(_: &str, _: Way) -> Card {
    Card::Refused("this trunkline was built without sound cards".to_owned())
}

fn devices(try_them: bool) -> Vec<Device> {
    let entries = fs::read_dir("/dev/snd").into_iter().flatten();
    let may = |path: &Path| try_them.then(|| access(path, Access::READ_OK | Access::WRITE_OK).is_ok());
    let mut devices: Vec<_> = entries
        .filter_map(|entry| {
            let (path, found) = (entry.as_ref().ok()?.path(), entry.as_ref().ok()?.metadata().ok()?);
            let is_card = path.file_name()?.to_str()?.starts_with(['c', 'p']);
            is_card.then(|| Device { file: path.display().to_string(), owned: owned(&found), may: may(&path) })
        })
        .collect();
    devices.sort_by(|a, b| a.file.cmp(&b.file));
    devices
}

fn owned(found: &fs::Metadata) -> Owned {
    Owned { mode: found.mode(), uid: found.uid(), gid: found.gid() }
}

async fn folders(site: &Site) -> Vec<Finding> {
    let Site { config, service, .. } = site;
    let keep = &config.keep;
    // systemd names it to the service ($STATE_DIRECTORY), and not to us.
    let state = service.unit.is_some().then(|| PathBuf::from(STATE));
    let named = [
        ("[records] directory", config.records.directory.clone().or(state)),
        ("[events] directory", keep.events.as_ref().map(|events| events.directory.clone())),
        ("[call-files] directory", keep.call_files.as_ref().map(|folder| folder.directory.clone())),
        ("[recordings] directory", keep.recordings.as_ref().map(|folder| folder.directory.clone())),
        ("[sinks] directory", keep.spools.as_ref().map(|spools| spools.directory.clone())),
    ];
    let named = named.into_iter().filter_map(|(key, path)| Some((key, path?)));
    let looks: Vec<_> = named
        .map(|(key, path)| {
            let service = service.clone();
            let of = path.clone();
            (key, path, spawn_local(in_time(move || folder(key, &of, &service))))
        })
        .collect();
    let mut findings = Vec::new();
    for (key, path, look) in looks {
        findings.push(match look.await.ok().flatten() {
            Some(folder) => disk::judge(&folder),
            None => disk::silent(key, &path.display().to_string()),
        });
    }
    findings
}

/// What a file system says that may be on a machine that is down: then nobody is ever answered.
async fn in_time<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    timeout(FILES, spawn_blocking(look)).await.ok().and_then(Result::ok)
}

/// Keys, certificates and roots of the service, which root can read and its user perhaps not.
async fn files(site: &Site) -> Vec<Finding> {
    let Service { unit: Some(_), account: Some(account), is_us: false, .. } = &site.service else { return Vec::new() };
    let named = named_files(&site.config);
    let (account, name) = (account.clone(), account.name.clone());
    // Their content was read a moment ago, so that this takes no time.
    let looked = in_time(move || {
        let shut = named.into_iter().filter_map(|(check, key, path)| {
            let at = shut_at(&path, &account)?;
            Some((check, key, path, at))
        });
        shut.collect::<Vec<_>>()
    });
    let shut = looked.await.unwrap_or_default().into_iter();
    shut.map(|(check, key, path, at)| account::judge_shut(check, &key, &path, &at, &name)).collect()
}

fn named_files(config: &Config) -> Vec<(Check, String, PathBuf)> {
    let mut named = Vec::new();
    let mut add = |check, key: String, path: &Path| named.push((check, key, path.to_owned()));
    for line in &config.lines {
        let name = &line.name;
        let pair = match &line.kind {
            LineKind::Websocket(websocket) => websocket.listen().and_then(|listen| listen.tls.as_ref()),
            LineKind::Sip(sip) => sip.tls.as_ref().map(|tls| &tls.pair),
            LineKind::Audiosocket { .. } | LineKind::Sound(_) | LineKind::Pipe(_) => None,
        };
        if let Some(pair) = pair {
            add(Check::Certificate, format!("[line.{name}] certificate"), &pair.certificate);
            add(Check::Certificate, format!("[line.{name}] key"), &pair.key);
        }
        if let Some(file) = line.kind.sip().and_then(|sip| sip.ca_file.as_ref()) {
            add(Check::Tls, format!("[line.{name}] ca-file"), file);
        }
    }
    for trunk in &config.trunks {
        if let Some(file) = &trunk.ca_file {
            add(Check::Tls, format!("[trunk.{}] ca-file", trunk.name), file);
        }
    }
    for sink in &config.sinks {
        if let Some(file) = &sink.ca_file {
            add(Check::Tls, format!("[sink.{}] ca-file", sink.name), file);
        }
    }
    named
}

/// What keeps this user from reading a file: itself, or a folder on the way to it.
fn shut_at(path: &Path, account: &Account) -> Option<account::Shut> {
    let may = |bits, path: &Path| fs::metadata(path).map_or(true, |found| account.may(bits, owned(&found)));
    // A link may lead elsewhere, as certbot's do.
    let whole = path.canonicalize().ok()?;
    let ways: Vec<&Path> = [path, &whole].into_iter().flat_map(|path| path.ancestors().skip(1)).collect();
    let folder = ways.into_iter().rev().find(|folder| !may(0o1, folder)).map(Path::to_owned);
    let of_itself = || (!may(0o4, &whole)).then(|| account::Shut::File(whole.clone()));
    folder.map(account::Shut::Folder).or_else(of_itself)
}

fn folder(key: &str, path: &Path, service: &Service) -> disk::Folder {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let space = statvfs(there).ok();
    let read_only = space.as_ref().is_some_and(|space| space.f_flag.contains(StatVfsMountFlags::RDONLY));
    let may = if service.is_us {
        Some(access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok())
    } else if service.unit.is_some() && there == Path::new(STATE_ROOT) && path.starts_with(STATE) {
        // `StateDirectory=` makes it.
        Some(true)
    } else {
        let found = fs::metadata(there).ok();
        service.account.as_ref().zip(found).map(|(account, found)| account.may(0o3, owned(&found)))
    };
    let is_open = |open: &str| path.starts_with(open);
    let shut = service.unit.as_ref().and_then(|unit| {
        if unit.protect_home && HOMES.iter().any(|home| is_open(home)) {
            Some(Shut::Home)
        } else {
            let is_open = is_open(STATE) || is_open("/run/trunkline") || unit.writable.iter().any(|open| is_open(open));
            (!is_open).then_some(Shut::System)
        }
    });
    disk::Folder {
        key: key.to_owned(),
        path: path.display().to_string(),
        there: there.display().to_string(),
        space: space.map(|space| (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)),
        read_only,
        writer: (service.name(), may),
        shut,
    }
}

/// `StateDirectory=` of the unit.
const STATE: &str = "/var/lib/trunkline";

/// What `ProtectHome=` shuts (systemd.exec(5)).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

const STATE_ROOT: &str = "/var/lib";

/// timedatectl starts a service of systemd's for its answer.
const ASKED: Duration = Duration::from_secs(2);

/// A file system in the network may take its time, too.
const FILES: Duration = Duration::from_secs(4);

#[cfg(feature = "sound")]
const SOUND: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_on_the_way_shuts_a_file_as_well_as_the_file_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let (live, link) = (folder.path().join("live"), folder.path().join("key.pem"));
        let file = live.join("key.pem");
        fs::create_dir(&live).expect("a folder in it");
        fs::write(&file, "").expect("a file");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        let may =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
        let stranger = Account { name: "trunkline".to_owned(), uid: 4_000_000, gids: vec![4_000_000] };
        let shut = || shut_at(&link, &stranger);
        may(folder.path(), 0o755);
        may(&live, 0o700);
        may(&file, 0o644);
        assert_eq!(shut(), Some(account::Shut::Folder(live.clone())));
        may(&live, 0o711);
        assert_eq!(shut(), None);
        may(&file, 0o600);
        assert_eq!(shut(), Some(account::Shut::File(file.clone())));
    }
}
