//! The names in the config, as this machine's resolver sees them.

use core::net::IpAddr;

use super::{Check, Finding};

/// Judges one name. `servers` are those of /etc/resolv.conf.
#[must_use]
pub fn judge(host: &str, found: Result<&[IpAddr], &str>, servers: &[String]) -> Finding {
    let subject = format!("DNS {host}");
    let words = match found {
        Ok(addresses @ [_, ..]) => {
            let mut known = Vec::new();
            for address in addresses {
                if !known.contains(&address.to_string()) {
                    known.push(address.to_string());
                }
            }
            return Finding::ok(Check::Dns, subject, known.join(", "));
        }
        Ok([]) => "No address associated with hostname",
        Err(words) => words,
    };
    let asked = match servers {
        [] => "/etc/resolv.conf names no server".to_owned(),
        [server, ..] => format!("/etc/resolv.conf names {}; `ping {server}`", servers.join(", ")),
    };
    match Trouble::of(words) {
        Trouble::Unknown => Finding::fail(
            Check::Dns,
            subject,
            "there is no such name",
            format!(
                "check its spelling in the config; `getent hosts {host}` asks as the daemon does, `dig {host}` asks the server"
            ),
        ),
        Trouble::NoAddress => Finding::fail(
            Check::Dns,
            subject,
            "the name is there, and has no address",
            format!("`dig {host} A` and `dig {host} AAAA` show what it has; whoever keeps the zone has to add one"),
        ),
        Trouble::NoResolver => Finding::fail(
            Check::Dns,
            subject,
            "no DNS server answers",
            format!("is the network up (`ip route`)? {asked}; `resolvectl status` shows who is asked"),
        ),
        Trouble::Other => {
            Finding::fail(Check::Dns, subject, words, format!("`getent hosts {host}` asks as the daemon does; {asked}"))
        }
    }
}

/// The servers that /etc/resolv.conf names (resolv.conf(5)).
#[must_use]
pub fn servers(resolv_conf: &str) -> Vec<String> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().map(str::to_owned))?
    };
    resolv_conf.lines().filter_map(server).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Unknown,
    NoAddress,
    NoResolver,
    Other,
}

impl Trouble {
    /// By the words of gai_strerror(3), which are all that the standard library lets through.
    fn of(words: &str) -> Self {
        let has = |part: &str| words.contains(part);
        if has("Name or service not known") || has("Name does not resolve") {
            Self::Unknown
        } else if has("No address associated") {
            Self::NoAddress
        } else if has("Temporary failure") || has("Try again") || has("did not answer") || has("Non-recoverable") {
            Self::NoResolver
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_name_that_is_not_there_is_told_from_a_network_that_is_not() {
        let servers = ["192.0.2.53".to_owned()];
        let finding = judge("agnet.example.com", Err("Name or service not known"), &servers);
        assert_eq!((finding.status, finding.found.as_str()), (Status::Fail, "there is no such name"));
        assert!(finding.fix.is_some_and(|fix| fix.contains("`getent hosts agnet.example.com`")));
        let finding = judge("agent.example.com", Err("Temporary failure in name resolution"), &servers);
        assert_eq!(finding.found, "no DNS server answers");
        assert!(finding.fix.is_some_and(|fix| fix.contains("`ping 192.0.2.53`")));
        let finding = judge("agent.example.com", Err("Temporary failure in name resolution"), &[]);
        assert!(finding.fix.is_some_and(|fix| fix.contains("names no server")));
        assert_eq!(judge("a.example", Ok(&[]), &servers).status, Status::Fail);
    }

    #[test]
    fn addresses_are_shown_once_each() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let finding = judge("a.example", Ok(&[address, address]), &[]);
        assert_eq!((finding.status, finding.found.as_str()), (Status::Ok, "192.0.2.1"));
    }

    #[test]
    fn servers_are_read_as_resolv_conf_has_them() {
        let text =
            "# by dhcp\nsearch lan\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # second\n#nameserver 9.9.9.9\n";
        assert_eq!(servers(text), ["192.0.2.1", "2001:db8::1"]);
    }
}
