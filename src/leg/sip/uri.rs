//! SIP, SIPS and tel URIs (RFC 3261 19.1, RFC 3966).
//!
//! The parts are kept as they were written, escapes and all: a peer's Contact comes back to it byte for byte. Whoever
//! wants to know *which* extension is meant asks for [`Uri::decoded_user`].

use core::{fmt, fmt::Write, str::FromStr};
use std::borrow::Cow;

use crate::leg::sip::{Flaw, Params, header};

/// An address of somebody, or of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// How the rest is to be read.
    pub scheme: Scheme,
    /// Whom, escaped. Of a tel URI the number.
    pub user: Option<String>,
    /// Nobody should send one; it is kept, since it is part of the identity (RFC 3261 19.1.1).
    pub password: Option<String>,
    /// A name or an address; an IPv6 address without its brackets, so that it parses as one. Empty in a tel URI; of
    /// another scheme all that follows the colon.
    pub host: String,
    /// The port, where one is named.
    pub port: Option<u16>,
    /// What follows `;`.
    pub params: Params,
    /// What follows `?`, escaped.
    pub headers: Vec<(String, String)>,
}

/// The scheme of a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// One that we do not read.
    Other(String),
}

impl Scheme {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sip => "sip",
            Self::Sips => "sips",
            Self::Tel => "tel",
            Self::Other(scheme) => scheme,
        }
    }
}

impl Uri {
    /// `sip:user@host`; the user is escaped.
    #[must_use]
    pub fn sip(user: &str, host: &str, port: Option<u16>) -> Self {
        Self { user: Some(escape(user)), ..Self::sip_host(host, port) }
    }

    /// `sip:host`, as in the Request-URI of a REGISTER.
    #[must_use]
    pub fn sip_host(host: &str, port: Option<u16>) -> Self {
        Self {
            scheme: Scheme::Sip,
            user: None,
            password: None,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            params: Params::default(),
            headers: vec![],
        }
    }

    /// The user without escapes: which extension or number is meant. Escaped bytes that are no text stand as U+FFFD.
    #[must_use]
    pub fn decoded_user(&self) -> Option<Cow<'_, str>> {
        self.user.as_deref().map(decode)
    }

    /// A header that a request to this URI shall have, decoded: the `Replaces` of a Refer-To.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| decode(value))
    }

    /// `;transport=`.
    #[must_use]
    pub fn transport(&self) -> Option<&str> {
        self.params.get("transport")
    }

    /// It is a loose route: `;lr`.
    #[must_use]
    pub fn is_loose(&self) -> bool {
        self.params.has("lr")
    }

    /// It means the same as the other, though it may be written otherwise (RFC 3261 19.1.4).
    #[must_use]
    pub fn is_equivalent(&self, other: &Self) -> bool {
        if let (Scheme::Other(own), Scheme::Other(others)) = (&self.scheme, &other.scheme) {
            return own.eq_ignore_ascii_case(others) && self.host == other.host;
        }
        self.scheme == other.scheme
            && self.is_same_user(other)
            && is_same_text(self.password.as_deref(), other.password.as_deref())
            && self.host.eq_ignore_ascii_case(&other.host)
            && self.port == other.port
            && self.agrees_on_params(other)
            && other.agrees_on_params(self)
            && self.headers.len() == other.headers.len()
            && self.headers.iter().all(|header| other.headers.iter().any(|others| is_same_header(header, others)))
    }

    fn is_same_user(&self, other: &Self) -> bool {
        if self.scheme != Scheme::Tel {
            return is_same_text(self.user.as_deref(), other.user.as_deref());
        }
        // RFC 3966 4: visual separators count for nothing.
        let digits = |uri: &Self| -> Option<String> {
            let digits = uri.user.as_deref()?.chars().filter(|char| !"-.()".contains(*char));
            Some(digits.map(|char| char.to_ascii_lowercase()).collect())
        };
        digits(self) == digits(other)
    }

    /// Our parameters as the other sees them.
    fn agrees_on_params(&self, other: &Self) -> bool {
        // Without these a URI may lead elsewhere than with them.
        const DECISIVE: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];
        self.params.iter().all(|(name, _)| match (self.params.get(name), other.params.get(name)) {
            (Some(own), Some(others)) => decode(own).eq_ignore_ascii_case(&decode(others)),
            _ => !DECISIVE.iter().any(|decisive| decisive.eq_ignore_ascii_case(name)),
        })
    }

    fn parse_sip(scheme: Scheme, rest: &str) -> Result<Self, Flaw> {
        // In none of the other parts may there be an `@`; `;` and `?` may be part of the user.
        let (user, rest) = match rest.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (user, password) = match user.map(|user| user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)))) {
            Some(("", _)) => return Err(Flaw("URI has an empty user")),
            Some((user, password)) => (Some(user), password),
            None => (None, None),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, parse_headers(headers)?),
            None => (rest, vec![]),
        };
        let (host_port, params) = rest.split_once(';').map_or((rest, None), |(host, params)| (host, Some(params)));
        let (host, port) = header::parse_host_port(host_port)?;
        Ok(Self {
            scheme,
            user: user.map(str::to_owned),
            password: password.map(str::to_owned),
            host,
            port,
            params: params.map_or(Ok(Params::default()), Params::parse_uri)?,
            headers,
        })
    }

    fn parse_tel(rest: &str) -> Result<Self, Flaw> {
        let (number, params) = rest.split_once(';').map_or((rest, None), |(number, params)| (number, Some(params)));
        // RFC 3966 3; a local number may have hex digits, `*` and `#`.
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_hexdigit() || b"+-.()*#".contains(&byte)) {
            return Err(Flaw("tel URI has no number"));
        }
        Ok(Self {
            scheme: Scheme::Tel,
            user: Some(number.to_owned()),
            params: params.map_or(Ok(Params::default()), Params::parse_uri)?,
            ..Self::sip_host("", None)
        })
    }
}

impl FromStr for Uri {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        // RFC 3261 25.1 has neither spaces nor anything beyond ASCII in a URI. More than it has is let through: a `#`
        // in the user, say, which PBXs send for feature codes.
        if let Some(byte) = text.bytes().find(|byte| !byte.is_ascii_graphic() || b"<>\"".contains(byte)) {
            return Err(Flaw(if byte == b' ' || byte == b'\t' {
                "URI has a space"
            } else {
                "URI has a strange character"
            }));
        }
        let Some((scheme, rest)) = text.split_once(':') else { return Err(Flaw("URI has no scheme")) };
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return Err(Flaw("URI has no scheme"));
        }
        let known = match scheme.to_ascii_lowercase().as_str() {
            "sip" => Scheme::Sip,
            "sips" => Scheme::Sips,
            "tel" => Scheme::Tel,
            _ => {
                return Ok(Self {
                    scheme: Scheme::Other(scheme.to_owned()),
                    host: rest.to_owned(),
                    ..Self::sip_host("", None)
                });
            }
        };
        check_escapes(rest)?;
        if known == Scheme::Tel { Self::parse_tel(rest) } else { Self::parse_sip(known, rest) }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_clean(f, self.scheme.as_str())?;
        f.write_char(':')?;
        match self.scheme {
            Scheme::Other(_) => return write_clean(f, &self.host),
            Scheme::Tel => write_clean(f, self.user.as_deref().unwrap_or_default())?,
            Scheme::Sip | Scheme::Sips => {
                if let Some(user) = &self.user {
                    write_clean(f, user)?;
                    if let Some(password) = &self.password {
                        f.write_char(':')?;
                        write_clean(f, password)?;
                    }
                    f.write_char('@')?;
                }
                header::write_host_port(f, &self.host, self.port)?;
            }
        }
        for (name, value) in self.params.iter() {
            f.write_char(';')?;
            write_clean(f, name)?;
            if let Some(value) = value {
                f.write_char('=')?;
                write_clean(f, value)?;
            }
        }
        for (at, (name, value)) in self.headers.iter().enumerate() {
            f.write_char(if at == 0 { '?' } else { '&' })?;
            write_clean(f, name)?;
            f.write_char('=')?;
            write_clean(f, value)?;
        }
        Ok(())
    }
}

/// Escapes what may not stand in the user of a URI.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        // unreserved, user-unreserved
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Takes the escapes out.
#[must_use]
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => bytes.push(first),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

fn check_escapes(text: &str) -> Result<(), Flaw> {
    let is_whole = |after: &str| after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if text.split('%').skip(1).all(is_whole) { Ok(()) } else { Err(Flaw("URI has a broken escape")) }
}

fn parse_headers(text: &str) -> Result<Vec<(String, String)>, Flaw> {
    let one = |header: &str| match header.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Flaw("URI has a broken header")),
    };
    text.split('&').map(one).collect()
}

fn is_same_header((name, value): &(String, String), (others, other): &(String, String)) -> bool {
    name.eq_ignore_ascii_case(others) && decode(value) == decode(other)
}

fn is_same_text(own: Option<&str>, others: Option<&str>) -> bool {
    own.map(decode) == others.map(decode)
}

/// Writes a part of a URI so that nothing in it can end the URI, whoever put it together.
pub(crate) fn write_clean(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"<>\"".contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_else(|flaw| panic!("{text}: {flaw}"))
    }

    #[test]
    fn what_peers_write_comes_back_as_they_wrote_it() {
        for text in [
            "sip:6001@192.0.2.10:5080",
            "sip:6001-0x55e4d6193590@127.0.0.1:25072",
            "sip:gw+trunkline@192.0.2.30:5080;transport=udp;gw=trunkline",
            "sip:*97@pbx.example.com",
            "sip:%23%2A21@pbx.example.com",
            "sip:#21#@pbx.example.com",
            "sips:alice:secret@[2001:db8::10]:5061;lr;maddr=192.0.2.1?Replaces=a%40b%3Bto-tag%3D1&Subject=",
            "sip:[::1]",
            "sip:host_with_underscore",
            "tel:+1-201-555-0123;phone-context=example.com",
            "tel:*97",
            "urn:service:sos",
            "http://www.example.com/?q=1;2",
        ] {
            assert_eq!(uri(text).to_string(), text);
        }
        assert_eq!(uri("SIP:Alice@AtLanTa.CoM;Transport=tcp").to_string(), "sip:Alice@AtLanTa.CoM;Transport=tcp");
    }

    #[test]
    fn the_parts_are_where_they_belong() {
        let target =
            uri("sip:user;par=u%40example.net:pw@[2001:db8::1]:5062;transport=tcp;lr?Replaces=a%40b%3Bto-tag%3D1");
        assert_eq!(target.decoded_user().as_deref(), Some("user;par=u@example.net"));
        assert_eq!(
            (target.password.as_deref(), target.host.as_str(), target.port),
            (Some("pw"), "2001:db8::1", Some(5062))
        );
        assert_eq!((target.transport(), target.is_loose()), (Some("tcp"), true));
        assert_eq!(target.header("replaces").as_deref(), Some("a@b;to-tag=1"));

        let number = uri("tel:+1-201-555-0123;phone-context=example.com");
        assert_eq!((number.scheme.clone(), number.user.as_deref()), (Scheme::Tel, Some("+1-201-555-0123")));
        assert_eq!(number.params.get("phone-context"), Some("example.com"));
    }

    #[test]
    fn what_is_no_uri_is_told_from_what_is() {
        for text in [
            "",
            "sip:",
            "sip",
            ":x",
            "1sip:x",
            "sip:@example.com",
            "sip:a b@example.com",
            "sip:a@",
            "sip:a@example.com:",
            "sip:a@example.com:65536",
            "sip:a@example.com:+5",
            "sip:a@example.com;;lr",
            "sip:a@example.com;",
            "sip:a@example.com?",
            "sip:a@example.com?=1",
            "sip:a@exa%6Dple.com",
            "sip:a%4@example.com",
            "sip:a%zz@example.com",
            "sip:a@[2001:db8::1",
            "sip:a@[example.com]",
            "sip:a@2001:db8::1",
            "sip:a@192.0.2.256",
            "sip:a@b@c",
            "sip:<a>@example.com",
            "sip:a@example.com\r\nVia: x",
            "sip:\u{e9}@example.com",
            "tel:",
            "tel:abc-x",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }

    /// RFC 3261 19.1.4 gives the pairs.
    #[test]
    fn the_same_address_is_known_however_it_is_written() {
        for (one, other) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("tel:+1-201-555-0123", "tel:+12015550123"),
            // No parameter may come twice; where one does, the first counts.
            ("sip:a@b;maddr=c;maddr=d?Route=e&Route=f", "sip:a@b;maddr=c;maddr=d?Route=e&Route=f"),
        ] {
            assert!(uri(one).is_equivalent(&uri(other)) && uri(other).is_equivalent(&uri(one)), "{one} {other}");
        }
        for (one, other) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
            ("sip:bob@biloxi.com", "sip:bob:pw@biloxi.com"),
        ] {
            assert!(!uri(one).is_equivalent(&uri(other)) && !uri(other).is_equivalent(&uri(one)), "{one} {other}");
        }
    }

    #[test]
    fn nothing_that_we_put_into_a_uri_can_end_it() {
        let mut target = Uri::sip("a b@c>\r\nVia: x", "192.0.2.1", Some(5060));
        assert_eq!(target.to_string(), "sip:a%20b%40c%3E%0D%0AVia%3A%20x@192.0.2.1:5060");
        assert_eq!(target.decoded_user().as_deref(), Some("a b@c>\r\nVia: x"));
        target.params.set("x", Some("1> \r\n"));
        target.host = "h\r\n".to_owned();
        assert!(!target.to_string().contains(['\r', '\n', '>', ' ']));
        assert_eq!(Uri::sip_host("[2001:db8::1]", None).to_string(), "sip:[2001:db8::1]");
    }
}
