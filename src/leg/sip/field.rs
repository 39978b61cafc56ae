//! The headers of a message: their names, and what stands under them, in order and as text.
//!
//! No value has a line break in it, whoever put it there, so that none can end its line. Content-Length is not among
//! them: a message has the body that it has.

use core::{fmt, mem, net::SocketAddr};

use crate::leg::sip::{CSeq, Flaw, NameAddr, RAck, Via, header};

macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident $long:literal $($compact:literal)?,)*) => {
        /// The name of a header.
        #[derive(Clone, Debug)]
        pub enum Name {
            $($(#[$doc])* #[doc = concat!("`", $long, "`")] $variant,)*
            /// Any other.
            Other(String),
        }

        impl Name {
            /// In full.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $long,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<&str> for Name {
            /// In any case, in full or compact (RFC 3261 7.3.3).
            fn from(name: &str) -> Self {
                $(
                    if name.eq_ignore_ascii_case($long) $(|| name.eq_ignore_ascii_case($compact))? {
                        return Self::$variant;
                    }
                )*
                Self::Other(name.to_owned())
            }
        }
    };
}

names! {
    Via "Via" "v",
    From "From" "f",
    To "To" "t",
    CallId "Call-ID" "i",
    CSeq "CSeq",
    Contact "Contact" "m",
    MaxForwards "Max-Forwards",
    ContentLength "Content-Length" "l",
    ContentType "Content-Type" "c",
    ContentEncoding "Content-Encoding" "e",
    ContentDisposition "Content-Disposition",
    Route "Route",
    RecordRoute "Record-Route",
    Require "Require",
    ProxyRequire "Proxy-Require",
    Supported "Supported" "k",
    Unsupported "Unsupported",
    Allow "Allow",
    AllowEvents "Allow-Events" "u",
    Accept "Accept",
    AcceptEncoding "Accept-Encoding",
    AcceptLanguage "Accept-Language",
    Authorization "Authorization",
    ProxyAuthorization "Proxy-Authorization",
    WwwAuthenticate "WWW-Authenticate",
    ProxyAuthenticate "Proxy-Authenticate",
    AuthenticationInfo "Authentication-Info",
    Expires "Expires",
    MinExpires "Min-Expires",
    SessionExpires "Session-Expires" "x",
    MinSe "Min-SE",
    RSeq "RSeq",
    RAck "RAck",
    ReferTo "Refer-To" "r",
    ReferredBy "Referred-By" "b",
    ReferSub "Refer-Sub",
    Replaces "Replaces",
    Event "Event" "o",
    SubscriptionState "Subscription-State",
    RetryAfter "Retry-After",
    Reason "Reason",
    Date "Date",
    Timestamp "Timestamp",
    Subject "Subject" "s",
    Warning "Warning",
    UserAgent "User-Agent",
    Server "Server",
    PAssertedIdentity "P-Asserted-Identity",
    PPreferredIdentity "P-Preferred-Identity",
    RemotePartyId "Remote-Party-ID",
    Privacy "Privacy",
    Diversion "Diversion",
    HistoryInfo "History-Info",
    Path "Path",
    ServiceRoute "Service-Route",
    AlertInfo "Alert-Info",
    CallInfo "Call-Info",
    Organization "Organization",
    Priority "Priority",
    MimeVersion "MIME-Version",
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        mem::discriminant(self) == mem::discriminant(other) && self.as_str().eq_ignore_ascii_case(other.as_str())
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The header lines of a message, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Name, String)>);

impl Headers {
    /// The value of the first line of this name, whole.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&str> {
        self.all(name).next()
    }

    /// The value of each line of this name, whole.
    pub fn all<'h>(&'h self, name: &Name) -> impl Iterator<Item = &'h str> + use<'h> {
        let name = name.clone();
        self.0.iter().filter(move |(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    /// The values of a name, of all its lines, split at the commas that are in no quotes and no angle brackets. Not for
    /// challenges and credentials, in which commas part the parameters.
    pub fn list<'h>(&'h self, name: &Name) -> impl Iterator<Item = &'h str> + use<'h> {
        self.all(name).flat_map(split)
    }

    /// One of the values of a name is this word: `Require` has `100rel`.
    #[must_use]
    pub fn has_token(&self, name: &Name, token: &str) -> bool {
        self.list(name).any(|value| value.eq_ignore_ascii_case(token))
    }

    /// The number that a name has.
    #[must_use]
    pub fn number(&self, name: &Name) -> Option<u32> {
        // `Retry-After: 18000;duration=3600`, `Session-Expires: 1800;refresher=uac`, `Retry-After: 5 (busy)`
        header::number(self.get(name)?.split([';', '(']).next()?)
    }

    /// Adds a line behind the others.
    pub fn push(&mut self, name: Name, value: impl Into<String>) {
        self.0.push((name, one_line(value.into())));
    }

    /// Adds a line in front of the others.
    pub fn insert_front(&mut self, name: Name, value: impl Into<String>) {
        self.0.insert(0, (name, one_line(value.into())));
    }

    /// Makes this the only line of its name; it keeps the place of the first.
    pub fn set(&mut self, name: Name, value: impl Into<String>) {
        let Some(at) = self.0.iter().position(|(own, _)| *own == name) else { return self.push(name, value) };
        self.0[at].1 = one_line(value.into());
        let mut seen = 0;
        self.0.retain(|(own, _)| {
            seen += usize::from(*own == name);
            *own != name || seen == 1
        });
    }

    /// Takes all lines of a name out.
    pub fn remove(&mut self, name: &Name) {
        self.0.retain(|(own, _)| own != name);
    }

    /// Each line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.0.iter().map(|(name, value)| (name, value.as_str()))
    }

    /// How many lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// [`Flaw`] where there is none, or none that can be read.
    pub fn via(&self) -> Result<Via, Flaw> {
        self.list(&Name::Via).next().ok_or(Flaw("Via is missing"))?.parse()
    }

    /// Notes in the topmost Via where the request really came from, so that the answer gets there (RFC 3261 18.2.1,
    /// RFC 3581 4).
    pub fn note_source(&mut self, source: SocketAddr) {
        let Ok(mut via) = self.via() else { return };
        let is_asked = via.params.has("rport");
        let address = source.ip().to_canonical();
        if is_asked || via.host.parse() != Ok(address) {
            via.params.set("received", Some(&address.to_string()));
        }
        if is_asked {
            via.params.set("rport", Some(&source.port().to_string()));
        }
        if let Some((_, line)) =
            self.0.iter_mut().find(|(name, line)| *name == Name::Via && split(line).next().is_some())
        {
            *line = split(line).skip(1).fold(via.to_string(), |line, other| line + ", " + other);
        }
    }

    /// Who asks.
    ///
    /// # Errors
    /// [`Flaw`] where it is missing or cannot be read.
    pub fn from(&self) -> Result<NameAddr, Flaw> {
        self.get(&Name::From).ok_or(Flaw("From is missing"))?.parse()
    }

    /// Who is asked.
    ///
    /// # Errors
    /// [`Flaw`] where it is missing or cannot be read.
    pub fn to(&self) -> Result<NameAddr, Flaw> {
        self.get(&Name::To).ok_or(Flaw("To is missing"))?.parse()
    }

    /// Makes To one side of a dialog, and leaves the rest of it as the peer wrote it. It keeps a tag that it has.
    pub fn set_to_tag(&mut self, tag: &str) {
        if let Ok(to) = self.to()
            && to.tag().is_none()
            && let Some((_, value)) = self.0.iter_mut().find(|(name, _)| *name == Name::To)
        {
            value.push_str(";tag=");
            value.push_str(tag);
        }
    }

    /// Which call.
    #[must_use]
    pub fn call_id(&self) -> Option<&str> {
        self.get(&Name::CallId)
    }

    /// Which request of it.
    ///
    /// # Errors
    /// [`Flaw`] where it is missing or cannot be read.
    pub fn cseq(&self) -> Result<CSeq, Flaw> {
        self.get(&Name::CSeq).ok_or(Flaw("CSeq is missing"))?.parse()
    }

    /// The first Contact; not a `*`.
    #[must_use]
    pub fn contact(&self) -> Option<NameAddr> {
        self.list(&Name::Contact).next()?.parse().ok()
    }

    /// How many hops are left.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u8> {
        self.number(&Name::MaxForwards)?.try_into().ok()
    }

    /// For how many seconds.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        self.number(&Name::Expires)
    }

    /// Which response a PRACK is for.
    ///
    /// # Errors
    /// [`Flaw`] where it is missing or cannot be read.
    pub fn rack(&self) -> Result<RAck, Flaw> {
        self.get(&Name::RAck).ok_or(Flaw("RAck is missing"))?.parse()
    }

    /// What the body is: `application/sdp`, without parameters.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        Some(self.get(&Name::ContentType)?.split(';').next()?.trim())
    }
}

/// Splits a value at the commas that are in no quotes and no angle brackets; what is empty is left out.
pub fn split(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = value;
    core::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = next_comma(rest);
            let one = rest[..end].trim();
            rest = rest.get(end + 1..).unwrap_or_default();
            if !one.is_empty() {
                return Some(one);
            }
        }
        None
    })
}

/// Where the first value ends.
fn next_comma(text: &str) -> usize {
    let mut at = 0;
    let mut is_bracketed = false;
    while at < text.len() {
        // A quote that is not closed takes the rest along; whoever reads it finds out.
        let Some(step) = header::find_outside_quotes(&text[at..], "<>,") else { return text.len() };
        at += step;
        match text.as_bytes().get(at) {
            Some(b',') if !is_bracketed => return at,
            Some(b'<') => is_bracketed = true,
            Some(b'>') => is_bracketed = false,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// A value that cannot end its line.
fn one_line(mut value: String) -> String {
    if value.contains(['\r', '\n']) {
        value = value.replace(['\r', '\n'], " ");
    }
    if value.trim().len() == value.len() { value } else { value.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_any_case_and_in_short() {
        for (short, name) in [("v", Name::Via), ("I", Name::CallId), ("m", Name::Contact), ("x", Name::SessionExpires)]
        {
            assert_eq!(Name::from(short), name);
            assert_eq!(Name::from(name.as_str().to_uppercase().as_str()), name);
        }
        assert_eq!(Name::from("X-Queue"), Name::Other("x-queue".to_owned()));
        assert_ne!(Name::from("X-Queue"), Name::from("X-Quest"));
    }

    #[test]
    fn a_list_is_split_outside_quotes_and_brackets_over_all_its_lines() {
        let mut headers = Headers::default();
        headers.push(Name::Contact, r#""a, \", b" <sip:a@b?x=1,2>;q=1, sip:c@d , ,"#);
        headers.push(Name::Subject, "between");
        headers.push(Name::Contact, "<sip:e@f>");
        let contacts: Vec<_> = headers.list(&Name::Contact).collect();
        assert_eq!(contacts, [r#""a, \", b" <sip:a@b?x=1,2>;q=1"#, "sip:c@d", "<sip:e@f>"]);
        assert_eq!(split("a, \"b, c").collect::<Vec<_>>(), ["a", "\"b, c"]);
        assert_eq!(split(" ,, ").count(), 0);
        headers.push(Name::Supported, "timer,100rel ,replaces");
        assert!(headers.has_token(&Name::Supported, "100REL") && !headers.has_token(&Name::Supported, "100"));
    }

    #[test]
    fn lines_are_set_in_place_and_taken_out_together() {
        let mut headers = Headers::default();
        headers.push(Name::Route, "<sip:one>");
        headers.push(Name::To, "<sip:b@c>");
        headers.push(Name::Route, "<sip:two>");
        headers.set(Name::Route, "<sip:three>");
        headers.insert_front(Name::Via, "SIP/2.0/UDP h");
        headers.set(Name::Expires, "60");
        let lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(lines, ["Via: SIP/2.0/UDP h", "Route: <sip:three>", "To: <sip:b@c>", "Expires: 60"]);
        headers.remove(&Name::Route);
        assert_eq!((headers.len(), headers.get(&Name::Route)), (3, None));
    }

    #[test]
    fn a_value_cannot_end_its_line() {
        let mut headers = Headers::default();
        headers.push(Name::Subject, " a\r\nVia: b\n");
        assert_eq!(headers.get(&Name::Subject), Some("a  Via: b"));
    }

    #[test]
    fn the_answer_goes_where_the_request_came_from() {
        let source = "198.51.100.7:40123".parse().expect("an address");
        for (line, noted) in [
            (
                "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa, SIP/2.0/UDP h",
                "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa;received=198.51.100.7, SIP/2.0/UDP h",
            ),
            ("SIP/2.0/UDP 198.51.100.7;branch=z9hG4bKa", "SIP/2.0/UDP 198.51.100.7;branch=z9hG4bKa"),
            // RFC 3581 4: whoever asks for the port is told the address, too.
            (
                "SIP/2.0/UDP 198.51.100.7:5060;rport;branch=z9hG4bKa",
                "SIP/2.0/UDP 198.51.100.7:5060;rport=40123;branch=z9hG4bKa;received=198.51.100.7",
            ),
        ] {
            let mut headers = Headers::default();
            headers.push(Name::Via, line);
            headers.push(Name::Via, "SIP/2.0/UDP other");
            headers.note_source(source);
            assert_eq!(headers.all(&Name::Via).collect::<Vec<_>>(), [noted, "SIP/2.0/UDP other"]);
        }
    }

    #[test]
    fn a_tag_is_added_once_and_leaves_the_rest_as_it_was() {
        for (to, tagged) in [
            ("\"B\"  <sip:b@c>;x", "\"B\"  <sip:b@c>;x;tag=t"),
            ("sip:b@c", "sip:b@c;tag=t"),
            ("<sip:b@c>;tag=old", "<sip:b@c>;tag=old"),
            ("\"broken", "\"broken"),
        ] {
            let mut headers = Headers::default();
            headers.push(Name::To, to);
            headers.set_to_tag("t");
            assert_eq!(headers.get(&Name::To), Some(tagged));
        }
    }

    #[test]
    fn numbers_are_read_past_what_follows_them() {
        let mut headers = Headers::default();
        headers.push(Name::SessionExpires, " 1800;refresher=uac");
        headers.push(Name::RetryAfter, "5 (busy);duration=60");
        headers.push(Name::Expires, "1".repeat(100));
        headers.push(Name::MaxForwards, "0068");
        headers.push(Name::MinSe, "-1");
        assert_eq!(headers.number(&Name::SessionExpires), Some(1800));
        assert_eq!(headers.number(&Name::RetryAfter), Some(5));
        assert_eq!((headers.expires(), headers.max_forwards()), (Some(u32::MAX), Some(68)));
        assert_eq!((headers.number(&Name::MinSe), headers.number(&Name::MinExpires)), (None, None));
    }
}
