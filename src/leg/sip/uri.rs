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
            && self.headers.iter().all(|(name, value)| other.header(name).is_some_and(|others| others == decode(value)))
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
        self.params.iter().all(|(name, value)| match other.params.get(name) {
            Some(others) => decode(value.unwrap_or_default()).eq_ignore_ascii_case(&decode(others)),
            None => !DECISIVE.iter().any(|decisive| decisive.eq_ignore_ascii_case(name)),
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

fn is_same_text(own: Option<&str>, others: Option<&str>) -> bool {
    own.map(decode) == others.map(decode)
}

/// Writes a part of a URI so that nothing in it can end the URI, whoever put it together.
fn write_clean(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"<>\"".contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}
