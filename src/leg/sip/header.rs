//! The values of the headers that routing and dialogs are made of: name-addr, Via, CSeq, RAck, and their parameters
//! (RFC 3261 20, 25.1).

use core::{
    fmt,
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};
use std::borrow::Cow;

use crate::leg::sip::{Flaw, Method, Uri, is_token, uri};

/// Parameters in their order. Names are looked up in any case; of two of a name the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Option<String>)>);

impl Params {
    /// The value of one, as it was written; empty where it has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.unwrap_or_default())
    }

    /// The value of one, without the quotes around it.
    #[must_use]
    pub fn unquoted(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(unquote)
    }

    /// There is one.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets one; it keeps its place where it had one. The value is written as it is: quote it where it needs quotes.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        match self.0.iter_mut().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
            Some((_, own)) => *own = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }

    /// Each name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of a URI: what follows the first `;`.
    pub(crate) fn parse_uri(text: &str) -> Result<Self, Flaw> {
        let one = |param: &str| {
            let (name, value) = param.split_once('=').map_or((param, None), |(name, value)| (name, Some(value)));
            if name.is_empty() {
                Err(Flaw("URI has an empty parameter"))
            } else {
                Ok((name.to_owned(), value.map(str::to_owned)))
            }
        };
        text.split(';').map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Those of a header value: nothing, or what begins with `;`.
    pub(crate) fn parse(text: &str) -> Result<Self, Flaw> {
        let mut params = vec![];
        let mut rest = text.trim();
        while !rest.is_empty() {
            let Some(param) = rest.strip_prefix(';') else { return Err(Flaw("parameter begins without semicolon")) };
            let end = find_outside_quotes(param, ";").ok_or(UNTERMINATED)?;
            let (param, after) = param.split_at(end);
            let (name, value) = param.split_once('=').map_or((param, None), |(name, value)| (name, Some(value.trim())));
            let name = name.trim();
            if name.is_empty() {
                return Err(Flaw("empty parameter"));
            }
            if !is_token(name) || value.is_some_and(|value| !is_param_value(value)) {
                return Err(Flaw("parameter has a strange character"));
            }
            params.push((name.to_owned(), value.map(str::to_owned)));
            rest = after;
        }
        Ok(Self(params))
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            write!(f, ";{name}")?;
            if let Some(value) = value {
                write!(f, "={value}")?;
            }
        }
        Ok(())
    }
}

/// Somebody, with the name to show: the value of From, To, Contact, Route, Refer-To, P-Asserted-Identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// The name to show, without quotes and escapes.
    pub display: Option<String>,
    /// Who.
    pub uri: Uri,
    /// What follows, `tag` above all.
    pub params: Params,
}

impl NameAddr {
    /// A URI, and nothing else.
    #[must_use]
    pub fn new(uri: Uri) -> Self {
        Self { display: None, uri, params: Params::default() }
    }

    /// One side of a dialog.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.params.get("tag")
    }

    /// Makes it one side of a dialog.
    pub fn set_tag(&mut self, tag: &str) {
        self.params.set("tag", Some(tag));
    }
}

impl From<Uri> for NameAddr {
    fn from(uri: Uri) -> Self {
        Self::new(uri)
    }
}

impl FromStr for NameAddr {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let text = text.trim();
        let open = find_outside_quotes(text, "<").ok_or(UNTERMINATED)?;
        if open == text.len() {
            // RFC 3261 20: without brackets, what follows a semicolon belongs to the header, and the URI may have
            // neither comma nor question mark.
            let (uri, params) = text.split_at(text.find(';').unwrap_or(text.len()));
            if uri.contains([',', '?']) {
                return Err(Flaw("URI needs angle brackets"));
            }
            return Ok(Self { display: None, uri: uri.trim().parse()?, params: Params::parse(params)? });
        }
        let (display, rest) = (text[..open].trim(), &text[open + 1..]);
        let Some((uri, params)) = rest.split_once('>') else { return Err(Flaw("angle bracket is not closed")) };
        let display = if display.starts_with('"') {
            if quoted_len(display) != Some(display.len()) {
                return Err(Flaw("display name is no quoted string"));
            }
            unquote(display)
        } else if display.contains(|char: char| char.is_control() || "\",;:\\@<>".contains(char)) {
            return Err(Flaw("display name needs quotes"));
        } else {
            Cow::Borrowed(display)
        };
        Ok(Self {
            display: Some(display.into_owned()).filter(|display| !display.is_empty()),
            uri: uri.parse()?,
            params: Params::parse(params)?,
        })
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = &self.display {
            write!(f, "{} ", quote(display))?;
        }
        write!(f, "<{}>{}", self.uri, self.params)
    }
}

/// One hop of a request, and where its answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// `UDP`, `TCP`, `TLS`.
    pub transport: String,
    /// Who sent it, as it calls itself; an IPv6 address without its brackets.
    pub host: String,
    /// The port it calls its own.
    pub port: Option<u16>,
    /// `branch`, `received`, `rport`.
    pub params: Params,
}

impl Via {
    /// Which transaction.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.params.get("branch")
    }

    /// Where it really came from (RFC 3261 18.2.1).
    #[must_use]
    pub fn received(&self) -> Option<&str> {
        self.params.get("received")
    }

    /// The port that it really came from (RFC 3581); `None` also where it is asked for and not filled in.
    #[must_use]
    pub fn rport(&self) -> Option<u16> {
        self.params.get("rport")?.parse().ok()
    }
}

impl FromStr for Via {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let mut parts = text.splitn(3, '/');
        let (Some(name), Some(version), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Flaw("Via has no protocol"));
        };
        if !name.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" {
            return Err(Flaw("Via is not of SIP/2.0"));
        }
        let rest = rest.trim_start();
        let Some((transport, rest)) = rest.split_once([' ', '\t']) else { return Err(Flaw("Via has no host")) };
        if !is_token(transport) {
            return Err(Flaw("Via has no transport"));
        }
        let (host_port, params) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let (host, port) = parse_host_port(host_port.trim())?;
        Ok(Self { transport: transport.to_owned(), host, port, params: Params::parse(params)? })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} ", self.transport)?;
        write_host_port(f, &self.host, self.port)?;
        write!(f, "{}", self.params)
    }
}

/// A request's place in its dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// Its number, below 2^31.
    pub number: u32,
    /// Its method.
    pub method: Method,
}

impl FromStr for CSeq {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let Some((number, method)) = text.trim().split_once([' ', '\t']) else {
            return Err(Flaw("CSeq has no method"));
        };
        Ok(Self { number: sequence(number)?, method: method.trim().parse().map_err(|_| Flaw("CSeq has no method"))? })
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}

/// Which provisional response a PRACK acknowledges (RFC 3262 7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RAck {
    /// The RSeq of the response.
    pub response: u32,
    /// The CSeq of the request that it answered.
    pub cseq: CSeq,
}

impl FromStr for RAck {
    type Err = Flaw;

    fn from_str(text: &str) -> Result<Self, Flaw> {
        let Some((response, cseq)) = text.trim().split_once([' ', '\t']) else { return Err(Flaw("RAck has no CSeq")) };
        Ok(Self { response: number(response).ok_or(Flaw("RAck has no number"))?, cseq: cseq.parse()? })
    }
}

impl fmt::Display for RAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.response, self.cseq)
    }
}

/// A word and its parameters: the value of Event, Session-Expires, Subscription-State, Reason, Replaces.
///
/// # Errors
/// [`Flaw`] where the parameters cannot be read.
pub fn with_params(text: &str) -> Result<(&str, Params), Flaw> {
    let (word, params) = text.split_at(text.find(';').unwrap_or(text.len()));
    Ok((word.trim(), Params::parse(params)?))
}

/// Digits, and nothing else; more than 32 bits are as much as 32 bits can say (RFC 4475 3.1.2.4).
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

/// Puts text in quotes (RFC 3261 25.1, quoted-string).
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            // They can be in no header, escaped or not.
            '\r' | '\n' => quoted.push(' '),
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_ascii_control() && char != '\t' => quoted.extend(['\\', char]),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// Takes the quotes and escapes off, where there are any.
#[must_use]
pub fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        plain.extend(if char == '\\' { chars.next() } else { Some(char) });
    }
    Cow::Owned(plain)
}

/// Where the first of these stands that is not in quotes, or the length; `None` where a quote is not closed.
pub(crate) fn find_outside_quotes(text: &str, wanted: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        if *byte == b'"' {
            at += quoted_len(&text[at..])?;
        } else if wanted.as_bytes().contains(byte) {
            return Some(at);
        } else {
            at += 1;
        }
    }
    Some(at)
}

/// How long the quoted string is that the text begins with.
fn quoted_len(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// A token, a host, an IPv6 address with or without brackets, or a quoted string.
fn is_param_value(value: &str) -> bool {
    if value.starts_with('"') {
        return quoted_len(value) == Some(value.len());
    }
    !value.contains(|char: char| char.is_whitespace() || char.is_control() || "\",<>".contains(char))
}

/// `host`, `host:port`, `[::1]:port`; there may be spaces around the colon in a Via.
pub(crate) fn parse_host_port(text: &str) -> Result<(String, Option<u16>), Flaw> {
    let (host, rest) = if let Some(text) = text.strip_prefix('[') {
        let Some((host, rest)) = text.split_once(']') else { return Err(Flaw("bracket of an address is not closed")) };
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(Flaw("no IPv6 address is in the brackets"));
        }
        (host, rest)
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        let host = host.trim_end();
        // An underscore is in no host name, and in many that PBXs have.
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
            return Err(Flaw("host is no name and no address"));
        }
        // What looks like an IPv4 address shall be one.
        if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && host.parse::<Ipv4Addr>().is_err() {
            return Err(Flaw("host is no name and no address"));
        }
        (host, rest)
    };
    let rest = rest.trim_start();
    if rest.is_empty() {
        return Ok((host.to_owned(), None));
    }
    let port = rest.strip_prefix(':').map(str::trim).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = port.and_then(|port| port.parse().ok()).ok_or(Flaw("port is no number below 65536"))?;
    Ok((host.to_owned(), Some(port)))
}

pub(crate) fn write_host_port(f: &mut fmt::Formatter<'_>, host: &str, port: Option<u16>) -> fmt::Result {
    let is_bare = host.contains(':');
    if is_bare {
        f.write_char('[')?;
    }
    uri::write_clean(f, host)?;
    if is_bare {
        f.write_char(']')?;
    }
    port.map_or(Ok(()), |port| write!(f, ":{port}"))
}

fn sequence(text: &str) -> Result<u32, Flaw> {
    // RFC 3261 8.1.1.5
    number(text).filter(|number| *number < 1 << 31).ok_or(Flaw("CSeq is no number below 2147483648"))
}

const UNTERMINATED: Flaw = Flaw("quoted string is not closed");

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> NameAddr {
        text.parse().unwrap_or_else(|flaw| panic!("{text}: {flaw}"))
    }

    #[test]
    fn a_caller_is_read_as_phones_write_it() {
        for (text, display, uri, tag) in [
            (
                r#""Keller, Ruth" <sip:6001@192.0.2.10>;tag=7e82"#,
                Some("Keller, Ruth"),
                "sip:6001@192.0.2.10",
                Some("7e82"),
            ),
            (r#""say \"hi\" \\o/"<sip:a@b>"#, Some(r#"say "hi" \o/"#), "sip:a@b", None),
            ("caller<sip:a@b>;tag=323", Some("caller"), "sip:a@b", Some("323")),
            ("A. G. Bell <sip:a@b> ; tag = 1 ; x", Some("A. G. Bell"), "sip:a@b", Some("1")),
            ("J\u{fc}rgen <sip:a@b>", Some("J\u{fc}rgen"), "sip:a@b", None),
            (r#""" <sip:a@b>"#, None, "sip:a@b", None),
            ("<sip:a@b;user=phone>;tag=1", None, "sip:a@b;user=phone", Some("1")),
            // Without brackets the parameter is the header's.
            ("sip:a@b;tag=1", None, "sip:a@b", Some("1")),
            ("tel:+12015550123;tag=1", None, "tel:+12015550123", Some("1")),
            (r#"<sip:a@b>;+u.sip!devicename.ccm.cisco.com="SEP;1,2";tag=1"#, None, "sip:a@b", Some("1")),
        ] {
            let read = address(text);
            assert_eq!(read.display.as_deref(), display, "{text}");
            assert_eq!((read.uri.to_string().as_str(), read.tag()), (uri, tag), "{text}");
            assert_eq!(address(&read.to_string()), read, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_from_what_is() {
        for text in [
            "",
            "Bob",
            "<>",
            "<sip:a@b",
            "\"Bob <sip:a@b>",
            "\"Bob\" x <sip:a@b>",
            "Bell, Alexander <sip:a@b>",
            "<sip:a@b> x",
            "<sip:a@b>;;tag=1",
            "<sip:a@b>;tag=1,<sip:c@d>",
            "<sip:a@b>;tag=1 2",
            "<sip:a@b>;x=\"1",
            "<sip:a@b>;x=\"1\"2",
            "< sip:a@b >",
            "sip:a@b?Route=x",
            "\"Bob\" sip:a@b",
        ] {
            assert!(text.parse::<NameAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_display_name_cannot_end_its_header() {
        let mut address = address("<sip:a@b>");
        address.display = Some("x\" <sip:evil@c>\r\nVia: y\0".to_owned());
        address.set_tag("t");
        assert_eq!(address.to_string(), "\"x\\\" <sip:evil@c>  Via: y\\\0\" <sip:a@b>;tag=t");
    }

    #[test]
    fn a_via_is_read_with_spaces_in_odd_places() {
        let via: Via = "SIP  / 2.0  / TCP     spindle.example.com  : 5062 ; branch  =   z9hG4bK9ikj8 ;rport"
            .parse()
            .expect("a Via");
        assert_eq!((via.transport.as_str(), via.host.as_str(), via.port), ("TCP", "spindle.example.com", Some(5062)));
        assert_eq!((via.branch(), via.params.has("rport"), via.rport()), (Some("z9hG4bK9ikj8"), true, None));
        assert_eq!(via.to_string(), "SIP/2.0/TCP spindle.example.com:5062;branch=z9hG4bK9ikj8;rport");

        // RFC 5118 4.5: with and without brackets.
        let text = "SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111;rport=5070";
        let via: Via = text.parse().expect("a Via");
        assert_eq!(
            (via.host.as_str(), via.received(), via.rport()),
            ("2001:db8::9:1", Some("[2001:db8::9:255]"), Some(5070))
        );
        assert_eq!(via.to_string(), text);

        for text in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/2.0 h",
            "HTTP/2.0/UDP h",
            "SIP/7.0/UDP h",
            "SIP/2.0/U@P h",
            "SIP/2.0/UDP h;;",
        ] {
            assert!(text.parse::<Via>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_sequence_number_has_31_bits() {
        let cseq: CSeq = "0009\t INVITE".parse().expect("a CSeq");
        assert_eq!(cseq, CSeq { number: 9, method: Method::Invite });
        assert_eq!("2147483647 x".parse::<CSeq>().map(|cseq| cseq.number), Ok(2_147_483_647));
        for text in [
            "",
            "1",
            "INVITE",
            "2147483648 INVITE",
            "36893488147419103232 INVITE",
            "-1 INVITE",
            "1 IN VITE",
            "1 ",
            "+1 BYE",
        ] {
            assert!(text.parse::<CSeq>().is_err(), "{text}");
        }
        let rack: RAck = "776656 1 INVITE".parse().expect("a RAck");
        assert_eq!((rack.response, rack.cseq.number, rack.to_string().as_str()), (776_656, 1, "776656 1 INVITE"));
    }

    #[test]
    fn parameters_are_found_set_and_taken_out() {
        let (word, mut params) = with_params("1800 ;Refresher=uac;x=\"a;b\"").expect("a value");
        assert_eq!((word, params.get("refresher"), params.get("x")), ("1800", Some("uac"), Some("\"a;b\"")));
        assert_eq!(params.unquoted("X").as_deref(), Some("a;b"));
        params.set("refresher", Some("uas"));
        params.set("y", None);
        params.remove("x");
        assert_eq!(params.to_string(), ";Refresher=uas;y");
    }
}
