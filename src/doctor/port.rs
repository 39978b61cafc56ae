//! Ports: those that we listen on, and those of RTP.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io;

use super::{Check, Finding};
use crate::config::PortRange;

/// A port that the config wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The key of the config.
    pub key: String,
    /// Where.
    pub address: SocketAddr,
    /// UDP, not TCP.
    pub udp: bool,
}

/// Who has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// What it is called.
    pub name: String,
}

/// What is known of a port.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Why it could not be bound; `None`: it could.
    pub refused: Option<io::ErrorKind>,
    /// Who has it, as far as /proc shows it to us.
    pub owner: Option<Owner>,
    /// The process of the daemon that runs.
    pub daemon: Option<u32>,
    /// Whoever has it may be the daemon, which could not be asked.
    pub may_be_ours: bool,
    /// The first port that whoever is no root may bind (ip_unprivileged_port_start); `None`: the service is root's.
    pub first_free: Option<u16>,
}

/// Judges it.
#[must_use]
pub fn judge(wanted: &Wanted, facts: &Facts) -> Finding {
    let Wanted { key, address, udp } = wanted;
    let (protocol, port) = (if *udp { "udp" } else { "tcp" }, address.port());
    let flag = if *udp { 'u' } else { 't' };
    let what = format!("{protocol} {address}");
    match (facts.refused, facts.daemon, &facts.owner) {
        (None, Some(pid), _) => Finding::warn(
            Check::Port,
            key.clone(),
            format!("{what} is free, though the daemon runs (pid {pid})"),
            "it runs with another config: `sudo trunkline reload` takes this one, and says what it cannot take",
        ),
        (None, None, _) if facts.first_free.is_some_and(|first| port < first) => Finding::fail(
            Check::Port,
            key.clone(),
            format!("{what} is free, but the service may not bind a port below {}", facts.first_free.unwrap_or(0)),
            format!(
                "take a higher one (8443 for 443), and let the firewall send {port} there; or `sudo sysctl -w \
                 net.ipv4.ip_unprivileged_port_start={port}`, and the same in /etc/sysctl.d/"
            ),
        ),
        (None, None, _) => Finding::ok(Check::Port, key.clone(), format!("{what} is free")),
        (Some(io::ErrorKind::AddrInUse), Some(pid), owner) if owner.as_ref().is_none_or(|owner| owner.pid == pid) => {
            Finding::ok(Check::Port, key.clone(), format!("{what}: the daemon has it (pid {pid})"))
        }
        (Some(io::ErrorKind::AddrInUse), _, Some(Owner { pid, name })) if facts.may_be_ours => Finding::skip(
            Check::Port,
            key.clone(),
            format!("{what} is in use by {name} (pid {pid}), probably the daemon"),
        ),
        (Some(io::ErrorKind::AddrInUse), _, None) if facts.may_be_ours => Finding::skip(
            Check::Port,
            key.clone(),
            format!("{what} is in use, probably by the daemon; by sudo it can be told"),
        ),
        (Some(io::ErrorKind::AddrInUse), _, Some(Owner { pid, name })) => Finding::fail(
            Check::Port,
            key.clone(),
            format!("{what} is in use by {name} (pid {pid})"),
            format!("end it (`systemctl status {pid}` names its service), or take another port here"),
        ),
        (Some(io::ErrorKind::AddrInUse), _, None) => Finding::fail(
            Check::Port,
            key.clone(),
            format!("{what} is in use by another program"),
            format!("`sudo ss -ln{flag}p 'sport = :{port}'` shows which; end it, or take another port here"),
        ),
        (Some(io::ErrorKind::AddrNotAvailable), ..) => Finding::fail(
            Check::Port,
            key.clone(),
            format!("this machine has no address {}", address.ip()),
            "`ip -brief address` shows those that it has; 0.0.0.0 is all of them",
        ),
        (Some(io::ErrorKind::PermissionDenied), ..) => Finding::fail(
            Check::Port,
            key.clone(),
            format!("{what} is not for this user"),
            "ports below 1024 are root's: take a higher one",
        ),
        (Some(other), ..) => Finding::fail(
            Check::Port,
            key.clone(),
            format!("{what} cannot be bound: {other}"),
            "`ip -brief address` shows the addresses of this machine",
        ),
    }
}

/// One that was not tried, since the service may take it at any moment.
#[must_use]
pub fn judge_untried(wanted: &Wanted) -> Finding {
    let protocol = if wanted.udp { "udp" } else { "tcp" };
    let why = format!("{protocol} {} is not tried while the service starts", wanted.address);
    Finding::skip(Check::Port, wanted.key.clone(), why)
}

/// Sockets that somebody listens at, of /proc/net/tcp, tcp6, udp or udp6 (proc_pid_net(5)): address and inode.
pub fn listeners(table: &str, udp: bool) -> impl Iterator<Item = (SocketAddr, u64)> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        // TCP_LISTEN; what is bound and not connected in UDP is TCP_CLOSE.
        (*state == if udp { "07" } else { "0A" }).then_some(())?;
        Some((address(local)?, inode.parse().ok()?))
    })
}

/// Whether a socket there keeps us from binding here.
#[must_use]
pub fn is_in_the_way(there: SocketAddr, here: SocketAddr) -> bool {
    let (theirs, ours) = (there.ip().to_canonical(), here.ip().to_canonical());
    there.port() == here.port() && (theirs == ours || theirs.is_unspecified() || ours.is_unspecified())
}

/// `0100007F:1F90`: words of 32 bits as this machine has them, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(n * 8)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Judges the ports of RTP of one line: whether the kernel gives them to others, and whether there are enough.
/// `ephemeral` and `reserved` are as /proc/sys/net/ipv4/ip_local_port_range and ip_local_reserved_ports have them.
#[must_use]
pub fn judge_rtp(
    key: &str,
    ports: PortRange,
    max_calls: usize,
    ephemeral: Option<(u16, u16)>,
    reserved: &[(u16, u16)],
) -> Finding {
    let pairs = ports.pairs().count();
    if pairs < max_calls {
        return Finding::warn(
            Check::RtpPorts,
            key,
            format!("{ports} is enough for {pairs} calls, and max-calls is {max_calls}"),
            format!("take {} ports: two a call, and as many again for those that have just ended", 4 * max_calls),
        );
    }
    let is_given = |port: u16| {
        ephemeral.is_some_and(|(first, last)| (first..=last).contains(&port))
            && !reserved.iter().any(|(first, last)| (*first..=*last).contains(&port))
    };
    let given = (ports.first..=ports.last).filter(|&port| is_given(port)).count();
    if let (Some((first, last)), 1..) = (ephemeral, given) {
        return Finding::warn(
            Check::RtpPorts,
            key,
            format!(
                "{given} of {ports} are among those that the kernel gives to any program ({first}-{last}): a call may find its port taken"
            ),
            format!(
                "`sudo sysctl -w net.ipv4.ip_local_reserved_ports={ports}`, and the same in /etc/sysctl.d/; or take \
                 rtp-ports = \"61000-64999\""
            ),
        );
    }
    Finding::ok(Check::RtpPorts, key, format!("{ports}: {pairs} calls, and the kernel gives none of them to others"))
}

/// `32768 60999`
#[must_use]
pub fn range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    Some((words.next()??, words.next()??))
}

/// `5060,61000-64999`
#[must_use]
pub fn ranges(text: &str) -> Vec<(u16, u16)> {
    let one = |part: &str| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn wanted() -> Wanted {
        Wanted { key: "[line.pbx] listen".to_owned(), address: "0.0.0.0:5060".parse().unwrap(), udp: true }
    }

    #[test]
    fn a_port_that_somebody_else_has_is_told_with_who_it_is() {
        let owner = Some(Owner { pid: 7, name: "asterisk".to_owned() });
        let in_use = Facts { refused: Some(io::ErrorKind::AddrInUse), owner, ..Facts::default() };
        let finding = judge(&wanted(), &in_use);
        assert_eq!(
            (finding.status, finding.found.as_str()),
            (Status::Fail, "udp 0.0.0.0:5060 is in use by asterisk (pid 7)")
        );
        let unknown = Facts { owner: None, ..in_use.clone() };
        assert!(judge(&wanted(), &unknown).fix.is_some_and(|fix| fix.contains("sudo ss -lnup 'sport = :5060'")));
        let ours = Facts { daemon: Some(7), ..in_use.clone() };
        assert_eq!(judge(&wanted(), &ours).status, Status::Ok);
        assert_eq!(judge(&wanted(), &Facts { daemon: Some(8), ..in_use }).status, Status::Fail);
        assert_eq!(judge(&wanted(), &Facts { daemon: Some(8), ..unknown }).status, Status::Ok);
    }

    #[test]
    fn a_port_that_a_daemon_may_have_which_could_not_be_asked_is_no_failure() {
        let in_use = |owner| {
            judge(
                &wanted(),
                &Facts { refused: Some(io::ErrorKind::AddrInUse), owner, may_be_ours: true, ..Facts::default() },
            )
        };
        let finding = in_use(None);
        assert_eq!((finding.status, finding.found.contains("by sudo it can be told")), (Status::Skip, true));
        let finding = in_use(Some(Owner { pid: 7, name: "trunkline".to_owned() }));
        assert_eq!((finding.status, finding.found.contains("trunkline (pid 7)")), (Status::Skip, true));
    }

    #[test]
    fn a_free_port_is_good_unless_the_daemon_should_have_it_or_may_not() {
        assert_eq!(judge(&wanted(), &Facts::default()).status, Status::Ok);
        assert_eq!(judge(&wanted(), &Facts { daemon: Some(8), ..Facts::default() }).status, Status::Warn);
        let low = Wanted { address: "0.0.0.0:443".parse().unwrap(), udp: false, ..wanted() };
        let finding = judge(&low, &Facts { first_free: Some(1024), ..Facts::default() });
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.is_some_and(|fix| fix.contains("ip_unprivileged_port_start=443")));
        let elsewhere = Facts { refused: Some(io::ErrorKind::AddrNotAvailable), ..Facts::default() };
        assert!(judge(&wanted(), &elsewhere).fix.is_some_and(|fix| fix.contains("ip -brief address")));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_tables_are_read() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0\n   \
                   1: 0100007F:A000 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 12346 1 0 20 4 30 10 -1\n";
        assert_eq!(listeners(tcp, false).collect::<Vec<_>>(), [("127.0.0.1:8080".parse().unwrap(), 12345)]);
        let tcp6 = "  sl  local_address                         remote_address                        st\n   \
                    0: 00000000000000000000000001000000:13C4 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n";
        assert_eq!(listeners(tcp6, false).collect::<Vec<_>>(), [("[::1]:5060".parse().unwrap(), 77)]);
        assert!(is_in_the_way("0.0.0.0:5060".parse().unwrap(), "127.0.0.1:5060".parse().unwrap()));
        assert!(!is_in_the_way("127.0.0.2:5060".parse().unwrap(), "127.0.0.1:5060".parse().unwrap()));
        assert!(!is_in_the_way("0.0.0.0:5061".parse().unwrap(), "127.0.0.1:5060".parse().unwrap()));
    }

    #[test]
    fn ports_that_the_kernel_gives_away_are_told_with_what_reserves_them() {
        let kernel = range("32768\t60999\n");
        assert_eq!(kernel, Some((32768, 60999)));
        let of = |first, last, reserved: &[(u16, u16)]| {
            judge_rtp("[line.pbx] rtp-ports", PortRange { first, last }, 8, kernel, reserved)
        };
        assert_eq!(of(61_000, 64_999, &[]).status, Status::Ok);
        let finding = of(40_000, 40_099, &[]);
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.fix.is_some_and(|fix| fix.contains("ip_local_reserved_ports=40000-40099")));
        assert_eq!(of(40_000, 40_099, &ranges("5060,40000-40099\n")).status, Status::Ok);
        let few = of(61_000, 61_009, &[]);
        assert!(few.found.contains("enough for 5 calls, and max-calls is 8"), "{few:?}");
    }
}
