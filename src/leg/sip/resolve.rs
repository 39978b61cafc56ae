//! From the name of a registrar or a PBX to its addresses.
//!
//! By the resolver of the system, so that /etc/hosts and whatever a site has set up count. It asks for addresses only:
//! NAPTR and SRV records (RFC 3263 4) are not looked up, as a PBX on site is an address or a name with one, and a second
//! registrar is named in the config. Where a provider tells of its servers by SRV alone, name one of those that
//! `dig SRV _sip._udp.example.net` shows, with its port.

use core::net::{IpAddr, SocketAddr};
use std::io;

use tokio::{net::lookup_host, time::timeout};

use crate::{leg::sip::flow::Transport, media::Now};

/// The addresses of a host, the one to try first in front (RFC 6724), without those that are of the wrong family for
/// the socket that is bound to `local`. A name is looked up on a thread of its own, and given up after 5 s.
///
/// # Errors
/// Says in words for the log why there is none.
pub async fn resolve(
    host: &str,
    port: Option<u16>,
    transport: Transport,
    local: IpAddr,
) -> Result<Vec<SocketAddr>, String> {
    let port = port.unwrap_or_else(|| default_port(transport));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = match bare.parse() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => look_up(bare, port).await?,
    };
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if is_reachable_from(address.ip(), local) && !addresses.contains(&address) && addresses.len() < MOST_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(format!("{host} has no address that can be reached from {local}"));
    }
    Ok(addresses)
}

/// RFC 3261 19.1.2.
#[must_use]
pub const fn default_port(transport: Transport) -> u16 {
    match transport {
        Transport::Udp | Transport::Tcp => 5060,
        Transport::Tls => 5061,
    }
}

async fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match timeout(PATIENCE, lookup_host((name, port))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(format!("{name} cannot be looked up: {}", without_prefix(&error))),
        Err(_) => Err(format!("{name} cannot be looked up: the resolver did not answer in 5 s")),
    }
}

/// A socket for any IPv6 address takes IPv4 along (ipv6(7)).
const fn is_reachable_from(address: IpAddr, local: IpAddr) -> bool {
    match (address, local) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => true,
        (IpAddr::V4(_), IpAddr::V6(local)) => local.is_unspecified(),
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// The words of a lookup that failed. The library says what it was about to do, which whoever shows them says already.
pub(crate) fn without_prefix(error: &io::Error) -> String {
    error.to_string().replace("failed to lookup address information: ", "")
}

const PATIENCE: Now = Now::from_secs(5);
/// Whoever has more is tried at these.
const MOST_ADDRESSES: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ANY_V4: &str = "0.0.0.0";
    const ANY_V6: &str = "::";

    async fn resolved(host: &str, port: Option<u16>, transport: Transport, local: &str) -> Result<Vec<String>, String> {
        let found = resolve(host, port, transport, local.parse().unwrap()).await?;
        Ok(found.iter().map(SocketAddr::to_string).collect())
    }

    #[tokio::test]
    async fn an_address_is_taken_as_it_is_with_the_port_of_its_transport() {
        let of = |host, port, transport| resolved(host, port, transport, ANY_V6);
        assert_eq!(of("192.0.2.1", None, Transport::Udp).await.unwrap(), ["192.0.2.1:5060"]);
        assert_eq!(of("192.0.2.1", None, Transport::Tls).await.unwrap(), ["192.0.2.1:5061"]);
        assert_eq!(of("[2001:db8::1]", Some(5070), Transport::Tcp).await.unwrap(), ["[2001:db8::1]:5070"]);
        assert_eq!(of("2001:db8::1", None, Transport::Tcp).await.unwrap(), ["[2001:db8::1]:5060"]);
    }

    #[tokio::test]
    async fn a_name_has_the_addresses_that_the_socket_can_reach() {
        let found = resolved("localhost", Some(5080), Transport::Udp, ANY_V4).await.unwrap();
        assert_eq!(found, ["127.0.0.1:5080"]);
    }

    #[tokio::test]
    async fn why_there_is_no_address_is_said_in_words() {
        let error = resolved("2001:db8::1", None, Transport::Udp, ANY_V4).await.unwrap_err();
        assert_eq!(error, "2001:db8::1 has no address that can be reached from 0.0.0.0");
        // RFC 6761 6.4: it never exists, and no resolver asks for it.
        let error = resolved("pbx.invalid", None, Transport::Udp, ANY_V4).await.unwrap_err();
        assert!(error.starts_with("pbx.invalid cannot be looked up: "), "{error}");
    }
}
