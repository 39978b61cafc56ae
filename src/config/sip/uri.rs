//! A SIP URI as the config names one.

use core::{fmt, net::IpAddr, net::Ipv6Addr};

use crate::{
    config::is_host,
    leg::sip::{Params, Scheme, Uri, flow::Transport},
};

/// A SIP URI as the config names them: no password, no headers, and of the parameters only `transport`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipUri {
    /// `sips`.
    pub secure: bool,
    /// What stands before the `@`, as it is written.
    pub user: Option<String>,
    /// A name in lower case or an IP address, without brackets.
    pub host: String,
    /// `None`: the transport's own. SRV is not looked up.
    pub port: Option<u16>,
    /// What `transport=` says; `None`: see [`SipUri::transport`].
    pub transport: Option<Transport>,
}

impl SipUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// Says what would do instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once(':').ok_or(WANTED_URI)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "sip" => false,
            "sips" => true,
            _ => return Err(WANTED_URI),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['<', '>', '"', ',', '?']) {
            return Err("a SIP URI is visible ASCII here, without brackets, commas, quotes and a `?`");
        }
        let (address, parameters) = rest.split_once(';').map_or((rest, None), |(address, rest)| (address, Some(rest)));
        let (user, host) = address.rsplit_once('@').map_or((None, address), |(user, host)| (Some(user), host));
        if user.is_some_and(|user| user.contains(':')) {
            return Err("a password does not belong into the URI; use `register.password`");
        }
        if user.is_some_and(|user| !is_user(user)) {
            return Err("wanted a user of letters, digits and `-_.+*` before the `@`");
        }
        let transport = match parameters.map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("transport=udp") if secure => return Err("sips: goes by TLS; leave out the transport"),
            Some("transport=udp") => Some(Transport::Udp),
            // RFC 3261 26.2.2: of a sips URI, TCP is what lies below TLS.
            Some("transport=tcp" | "transport=tls") if secure => Some(Transport::Tls),
            Some("transport=tcp") => Some(Transport::Tcp),
            Some("transport=tls") => Some(Transport::Tls),
            Some(_) => return Err("wanted no parameter but `;transport=udp`, `;transport=tcp` or `;transport=tls`"),
        };
        let is_v6 = host.starts_with('[');
        let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, after)) => (host, Some(after.strip_prefix(':').ok_or(WANTED_URI)?)),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        if is_v6 && host.parse::<Ipv6Addr>().is_err() || !is_v6 && !is_host(host) {
            return Err("no host that could be reached; wanted a name or an address, IPv6 in brackets");
        }
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err("wanted a port from 1 to 65535, or none"),
        };
        Ok(Self { secure, user: user.map(str::to_owned), host: host.to_ascii_lowercase(), port, transport })
    }

    /// How it is reached: what it says, else TLS for `sips` and UDP for `sip`.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport.unwrap_or(if self.secure { Transport::Tls } else { Transport::Udp })
    }

    /// The port to go to (RFC 3261 19.1.2).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.transport() {
            Transport::Udp | Transport::Tcp => PORT,
            Transport::Tls => TLS_PORT,
        })
    }

    /// The address, where it is one and not a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The host, in brackets where it has to be.
    #[must_use]
    pub fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl From<&SipUri> for Uri {
    fn from(uri: &SipUri) -> Self {
        let SipUri { secure, user, host, port, transport } = uri;
        let mut params = Params::default();
        match transport {
            Some(transport) if !(*secure && *transport == Transport::Tls) => {
                params.set("transport", Some(&transport.as_str().to_ascii_lowercase()));
            }
            // `sips` says it already.
            Some(_) | None => {}
        }
        Self {
            scheme: if *secure { Scheme::Sips } else { Scheme::Sip },
            // Nothing that `is_user` lets through needs an escape.
            user: user.clone(),
            params,
            ..Self::sip_host(host, *port)
        }
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.bracketed_host())?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.transport {
            Some(Transport::Udp) => f.write_str(";transport=udp"),
            Some(Transport::Tcp) => f.write_str(";transport=tcp"),
            Some(Transport::Tls) if !self.secure => f.write_str(";transport=tls"),
            Some(Transport::Tls) | None => Ok(()),
        }
    }
}

/// What needs no escape there (RFC 3261 25.1, `user`), and at most what an extension has.
pub(super) fn is_user(text: &str) -> bool {
    let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+*!~'()&=$".contains(&byte);
    !text.is_empty() && text.len() <= MAX_TEXT && text.bytes().all(is_user)
}

const WANTED_URI: &str = "wanted a SIP URI such as `sip:pbx.example.com`";

/// RFC 3261 19.1.2.
pub(super) const PORT: u16 = 5060;
pub(super) const TLS_PORT: u16 = 5061;

/// Of what goes into one header or URI (bytes).
pub(super) const MAX_TEXT: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_written_as_it_was_read() {
        for text in [
            "sip:pbx.example.com",
            "sips:pbx.example.com:5071",
            "sip:300@192.0.2.1:5070;transport=tcp",
            "sip:*98@[2001:db8::1];transport=tls",
            "sip:pbx.example.com;transport=udp",
        ] {
            let uri = SipUri::parse(text).unwrap();
            assert_eq!(uri.to_string(), text);
            assert_eq!(Uri::from(&uri), text.parse().unwrap(), "a request to it goes to the same place");
        }
        let tls = SipUri::parse("sip:pbx;transport=tls").unwrap();
        assert_eq!((tls.transport(), tls.port(), tls.ip()), (Transport::Tls, 5061, None));
        for bad in
            ["sip:", "sip:@pbx", "sip:a@", "sip:a@b@c", "sip:[::1", "sip:::1", "sip:[pbx]", "sip:pbx;transport=sctp"]
        {
            assert!(SipUri::parse(bad).is_err(), "{bad}");
        }
    }
}
