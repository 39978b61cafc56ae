//! Dialogs: what two user agents know of each other for the length of a call, RFC 3261 12.
//!
//! ```text
//!   uas(request, tag, contact)       we were called
//!   uac(request, response)           we called; each fork that answers is a dialog of its own
//!        |
//!        +-- request, ack            our requests within it
//!        +-- handle_request          theirs: in order, and where they want to be reached
//!        +-- handle_response         an answer to one of ours
//! ```
//!
//! The Via of a request and where it is sent are left to transactions and transport: [`Dialog::next_hop`] says which URI
//! leads there.

use core::fmt;

use crate::leg::sip::{CSeq, Flaw, Headers, MAX_VALUE, Method, Name, NameAddr, Request, Response, Uri};

/// What names a dialog. Our tag and theirs keep their sides whoever sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DialogId {
    /// The Call-ID.
    pub call_id: String,
    /// The tag that we made.
    pub local_tag: String,
    /// The tag that the peer made; empty for a peer of RFC 2543, which has none.
    pub remote_tag: String,
}

impl DialogId {
    /// The dialog that a request from the peer names. None: it is in no dialog, To has no tag.
    #[must_use]
    pub fn of_request(request: &Request) -> Option<Self> {
        let (from, to) = (request.from().ok()?, request.to().ok()?);
        Self::new(request.call_id()?, to.tag()?, from.tag())
    }

    /// The dialog that an answer from the peer names. None: it makes none.
    #[must_use]
    pub fn of_response(response: &Response) -> Option<Self> {
        let (from, to) = (response.from().ok()?, response.to().ok()?);
        Self::new(response.call_id()?, from.tag()?, to.tag())
    }

    fn new(call_id: &str, local_tag: &str, remote_tag: Option<&str>) -> Option<Self> {
        Some(Self {
            call_id: call_id.to_owned(),
            local_tag: local_tag.to_owned(),
            remote_tag: remote_tag.unwrap_or_default().to_owned(),
        })
    }
}

/// Why no dialog came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDialog {
    /// A header could not be read.
    Broken(Flaw),
    /// Contact is missing, so that nobody knows where the peer is to be reached.
    NoContact,
    /// A 1xx has no tag in To: it is a 100, or of a proxy.
    NoTag,
    /// There are more hops than one would believe.
    TooManyRoutes,
}

impl fmt::Display for NoDialog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(flaw) => flaw.fmt(f),
            Self::NoContact => f.write_str("Contact is missing"),
            Self::NoTag => f.write_str("To has no tag"),
            Self::TooManyRoutes => f.write_str("Record-Route is too long"),
        }
    }
}

impl core::error::Error for NoDialog {}

impl From<Flaw> for NoDialog {
    fn from(flaw: Flaw) -> Self {
        Self::Broken(flaw)
    }
}

/// A request of the peer's has a CSeq below one that came before: answered 500, RFC 3261 12.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfOrder;

impl fmt::Display for OutOfOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CSeq is lower than before")
    }
}

/// One dialog, from our side.
#[derive(Clone, Debug)]
pub struct Dialog {
    id: DialogId,
    /// We, as From of our requests.
    local: NameAddr,
    /// The peer, as To of our requests.
    remote: NameAddr,
    /// Where we are to be reached, as Contact of our requests.
    contact: NameAddr,
    /// The number of our last request.
    local_cseq: u32,
    /// The number of the peer's last request, once there was one.
    remote_cseq: Option<u32>,
    /// Where the peer wants to be reached.
    remote_target: Uri,
    /// The proxies in between that want to stay there, the nearest first.
    route: Vec<NameAddr>,
    is_confirmed: bool,
    /// We called, so a 2xx decides about the route.
    is_caller: bool,
}

impl Dialog {
    /// The dialog that our answer with `tag` in To makes of a request, RFC 3261 12.1.1. Early until
    /// [`Self::confirm`]. `contact` is what our answers say.
    ///
    /// # Errors
    /// The request does not say enough to reach the peer.
    pub fn uas(request: &Request, tag: &str, contact: NameAddr) -> Result<Self, NoDialog> {
        let mut local = request.to()?;
        local.set_tag(tag);
        let remote = request.from()?;
        let id = id(&request.headers, tag, remote.tag().unwrap_or_default())?;
        Ok(Self {
            id,
            local,
            remote,
            contact,
            local_cseq: 0,
            remote_cseq: Some(request.cseq()?.number),
            remote_target: request.contact().ok_or(NoDialog::NoContact)?.uri,
            route: route(&request.headers)?,
            is_confirmed: false,
            is_caller: false,
        })
    }

    /// The dialog that an answer makes of our request, RFC 3261 12.1.2: early by a 1xx, confirmed by a 2xx. `request` is as
    /// it went out.
    ///
    /// # Errors
    /// The answer makes none.
    pub fn uac(request: &Request, response: &Response) -> Result<Self, NoDialog> {
        let local = request.from()?;
        let remote = response.to()?;
        // A 2xx without one is of an RFC 2543 peer, RFC 3261 12.1.2.
        let remote_tag = remote.tag().or(response.is_success().then_some("")).ok_or(NoDialog::NoTag)?;
        let id = id(&request.headers, local.tag().unwrap_or_default(), remote_tag)?;
        let mut route = route(&response.headers)?;
        route.reverse();
        Ok(Self {
            id,
            remote_target: response.contact().ok_or(NoDialog::NoContact)?.uri,
            contact: request.contact().ok_or(NoDialog::NoContact)?,
            local,
            remote,
            local_cseq: request.cseq()?.number,
            remote_cseq: None,
            route,
            is_confirmed: response.is_success(),
            is_caller: true,
        })
    }

    /// What names it.
    #[must_use]
    pub fn id(&self) -> &DialogId {
        &self.id
    }

    /// Whether a request of the peer's is in it.
    #[must_use]
    pub fn matches(&self, request: &Request) -> bool {
        DialogId::of_request(request).is_some_and(|id| id == self.id)
    }

    /// Whether an answer of the peer's is in it. If not, and it is a 2xx to our INVITE, another fork has answered.
    #[must_use]
    pub fn matches_response(&self, response: &Response) -> bool {
        DialogId::of_response(response).is_some_and(|id| id == self.id)
    }

    /// Whether a 2xx made it final.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// Our 2xx was sent.
    pub fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// We, with our tag.
    #[must_use]
    pub fn local(&self) -> &NameAddr {
        &self.local
    }

    /// The peer, with its tag.
    #[must_use]
    pub fn remote(&self) -> &NameAddr {
        &self.remote
    }

    /// Where we are to be reached.
    #[must_use]
    pub fn contact(&self) -> &NameAddr {
        &self.contact
    }

    /// We are to be reached elsewhere from now on; the peer learns it by the next re-INVITE or UPDATE.
    pub fn set_contact(&mut self, contact: NameAddr) {
        self.contact = contact;
    }

    /// Where the peer wants to be reached.
    #[must_use]
    pub fn remote_target(&self) -> &Uri {
        &self.remote_target
    }

    /// The number of our last request.
    #[must_use]
    pub fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// Where requests of ours are sent: to the first proxy of the route, else to the peer. RFC 3261 8.1.2.
    #[must_use]
    pub fn next_hop(&self) -> &Uri {
        self.route.first().map_or(&self.remote_target, |first| &first.uri)
    }

    /// The next request of ours, RFC 3261 12.2.1.1, without Via and body. Not for ACK, which is [`Self::ack`], and not for
    /// CANCEL, which is the transaction's.
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq += 1;
        let mut request = self.bare_request(method, self.local_cseq);
        if tells_contact(&request.method) {
            request.headers.push(Name::Contact, self.contact.to_string());
        }
        request
    }

    /// The ACK of a 2xx to `invite`, with its number and its credentials, RFC 3261 13.2.2.4. Without Via and body.
    #[must_use]
    pub fn ack(&self, invite: &Request) -> Request {
        let number = invite.cseq().map_or(self.local_cseq, |cseq| cseq.number);
        let mut ack = self.bare_request(Method::Ack, number);
        for name in [Name::Authorization, Name::ProxyAuthorization] {
            invite.headers.all(&name).for_each(|value| ack.headers.push(name.clone(), value));
        }
        ack
    }

    /// Takes note of a request of the peer's in this dialog: its number, and where the peer wants to be reached from now on
    /// (RFC 3261 12.2.2, RFC 3311 5.2). To be called once for each request; copies stay with the transactions.
    ///
    /// # Errors
    /// It is older than one that came before.
    pub fn handle_request(&mut self, request: &Request) -> Result<(), OutOfOrder> {
        // These two have the number of their INVITE, which may be older than another request by now.
        if !matches!(request.method, Method::Ack | Method::Cancel) {
            let number = request.cseq().map_err(|_| OutOfOrder)?.number;
            if self.remote_cseq.is_some_and(|last| number < last) {
                return Err(OutOfOrder);
            }
            self.remote_cseq = Some(number);
        }
        if refreshes_target(&request.method) {
            self.refresh_target(&request.headers);
        }
        Ok(())
    }

    /// Takes note of an answer to a request of ours in this dialog. The first 2xx confirms it and has the last word about
    /// the route (RFC 3261 13.2.2.4); each 2xx to an INVITE or UPDATE says where the peer wants to be reached.
    pub fn handle_response(&mut self, response: &Response) {
        let Ok(CSeq { method, .. }) = response.cseq() else { return };
        if !refreshes_target(&method) {
            return;
        }
        if method == Method::Invite && response.is_success() && !self.is_confirmed {
            self.is_confirmed = true;
            // Only where we called: an INVITE of ours in a dialog that the peer's INVITE made leaves the route alone.
            if self.is_caller
                && let Ok(mut route) = route(&response.headers)
            {
                route.reverse();
                self.route = route;
            }
        }
        // A 1xx of an early dialog that names another Contact moved as well: RFC 3261 12.1.2 has each one say it.
        if response.is_success() || (response.is_provisional() && !self.is_confirmed) {
            self.refresh_target(&response.headers);
        }
    }

    fn refresh_target(&mut self, headers: &Headers) {
        if let Some(contact) = headers.contact() {
            self.remote_target = contact.uri;
        }
    }

    fn bare_request(&self, method: Method, number: u32) -> Request {
        let mut headers = Headers::default();
        let mut uri = self.remote_target.clone();
        let mut route = self.route.as_slice();
        let mut last = None;
        if let [first, others @ ..] = route
            && !first.uri.is_loose()
        {
            // A strict router of RFC 2543 wants to find itself in the Request-URI, and the peer at the end of Route.
            last = Some(NameAddr::new(uri));
            uri = request_uri(&first.uri);
            route = others;
        }
        for hop in route.iter().chain(&last) {
            headers.push(Name::Route, hop.to_string());
        }
        headers.push(Name::MaxForwards, MAX_FORWARDS);
        headers.push(Name::From, self.local.to_string());
        headers.push(Name::To, self.remote.to_string());
        headers.push(Name::CallId, self.id.call_id.as_str());
        headers.push(Name::CSeq, CSeq { number, method: method.clone() }.to_string());
        uri = request_uri(&uri);
        Request { method, uri, headers, body: vec![] }
    }
}

fn id(headers: &Headers, local_tag: &str, remote_tag: &str) -> Result<DialogId, NoDialog> {
    let call_id = headers.call_id().ok_or(Flaw("Call-ID is missing"))?;
    Ok(DialogId { call_id: call_id.to_owned(), local_tag: local_tag.to_owned(), remote_tag: remote_tag.to_owned() })
}

/// Record-Route as it stands.
fn route(headers: &Headers) -> Result<Vec<NameAddr>, NoDialog> {
    let size: usize = headers.list(&Name::RecordRoute).map(str::len).sum();
    if size > MAX_VALUE {
        return Err(NoDialog::TooManyRoutes);
    }
    Ok(headers.list(&Name::RecordRoute).map(str::parse).collect::<Result<_, _>>()?)
}

/// A URI as it may stand in a request line: without headers and `method`, RFC 3261 19.1.1.
fn request_uri(uri: &Uri) -> Uri {
    let mut uri = uri.clone();
    uri.headers = vec![];
    uri.params.remove("method");
    uri
}

/// Requests whose Contact, and that of their answers, moves the peer: target refreshes, RFC 3261 6, RFC 3311 5, RFC 6665.
fn refreshes_target(method: &Method) -> bool {
    match method {
        Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer => true,
        Method::Ack
        | Method::Bye
        | Method::Cancel
        | Method::Options
        | Method::Register
        | Method::Prack
        | Method::Info
        | Method::Message
        | Method::Publish
        | Method::Other(_) => false,
    }
}

/// Requests that have a Contact: those, by the tables of RFC 3261 20, RFC 3311, RFC 3515 and RFC 6665.
fn tells_contact(method: &Method) -> bool {
    refreshes_target(method) || *method == Method::Options
}

/// RFC 3261 8.1.1.6.
const MAX_FORWARDS: &str = "70";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leg::sip::{Message, parse};

    #[test]
    fn the_called_side_takes_the_route_as_it_stands_and_its_requests_go_to_the_nearest_proxy() {
        let mut dialog = called(INVITE);
        assert_eq!(dialog.next_hop().to_string(), "sip:near.example;lr");
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.uri.to_string(), "sip:6001@192.0.2.7:5062;ob");
        assert_eq!(routes(&bye), ["<sip:near.example;lr>", "<sip:far.example;lr>"]);
        assert_eq!(bye.headers.get(&Name::From), Some("<sip:trunkline@192.0.2.10>;tag=ours"));
        assert_eq!(bye.headers.get(&Name::To), Some("\"Reception\" <sip:6001@192.0.2.1>;tag=ab"));
        assert_eq!(bye.headers.get(&Name::CSeq), Some("1 BYE"));
        assert_eq!((bye.call_id(), bye.max_forwards()), (Some("5f0c"), Some(70)));
        assert!(bye.contact().is_none() && bye.via().is_err());
        assert_eq!(dialog.request(Method::Info).headers.get(&Name::CSeq), Some("2 INFO"));
        let update = dialog.request(Method::Update);
        assert_eq!(update.headers.get(&Name::Contact), Some("<sip:trunkline@192.0.2.10:5060>"));
    }

    #[test]
    fn the_calling_side_takes_the_route_the_other_way_round() {
        let (invite, ok) = calling(OK);
        let mut dialog = Dialog::uac(&invite, &ok).expect("it makes a dialog");
        assert!(dialog.is_confirmed());
        assert_eq!(dialog.next_hop().to_string(), "sip:near.example;lr");
        let ack = dialog.ack(&invite);
        assert_eq!(ack.headers.get(&Name::CSeq), Some("41 ACK"));
        assert_eq!(routes(&ack), ["<sip:near.example;lr>", "<sip:far.example;lr>"]);
        assert_eq!(ack.headers.get(&Name::ProxyAuthorization), Some("Digest username=\"trunkline\""));
        assert_eq!(ack.uri.to_string(), "sip:6001@192.0.2.7:5062");
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.headers.get(&Name::CSeq), Some("42 BYE"));
        assert_eq!(bye.headers.get(&Name::To), Some("<sip:6001@192.0.2.1>;tag=theirs"));
        assert_eq!(bye.headers.get(&Name::ProxyAuthorization), None);
    }

    #[test]
    fn a_strict_router_finds_itself_in_the_request_line() {
        // RFC 3261 16.12.1.2 has the pieces of this.
        let strict = INVITE.replace("<sip:near.example;lr>", "<sip:near.example;method=INVITE?x=y>");
        let mut dialog = called(&strict);
        let bye = dialog.request(Method::Bye);
        assert_eq!(bye.uri.to_string(), "sip:near.example");
        assert_eq!(routes(&bye), ["<sip:far.example;lr>", "<sip:6001@192.0.2.7:5062;ob>"]);
        assert_eq!(dialog.next_hop().host, "near.example");
    }

    #[test]
    fn a_dialog_without_proxies_goes_straight_to_the_contact() {
        let direct = INVITE.replace("Record-Route", "X-Record-Route");
        let mut dialog = called(&direct);
        assert_eq!(dialog.next_hop(), dialog.remote_target());
        assert_eq!(routes(&dialog.request(Method::Bye)), [""; 0]);
    }

    #[test]
    fn a_request_that_is_older_than_the_last_is_out_of_order_and_an_ack_never_is() {
        let mut dialog = called(INVITE);
        let numbered = |method: &str, number: &str| request(&within(method).replace("7613", number));
        assert_eq!(dialog.handle_request(&numbered("INFO", "7620")), Ok(()));
        assert_eq!(dialog.handle_request(&numbered("BYE", "7619")), Err(OutOfOrder));
        assert_eq!(dialog.handle_request(&numbered("ACK", "7613")), Ok(()));
        assert_eq!(dialog.handle_request(&numbered("BYE", "7621")), Ok(()));

        // The calling side has no number of the peer's yet: any will do.
        let (invite, ok) = calling(OK);
        let mut dialog = Dialog::uac(&invite, &ok).expect("it makes a dialog");
        assert_eq!(dialog.handle_request(&numbered("BYE", "1")), Ok(()));
        assert_eq!(dialog.handle_request(&numbered("BYE", "0")), Err(OutOfOrder));
    }

    #[test]
    fn a_re_invite_moves_the_peer_and_an_info_does_not_and_neither_does_one_out_of_order() {
        let mut dialog = called(INVITE);
        let moved = |method: &str, number: &str| {
            request(&within(method).replace("7613", number).replace("192.0.2.7:5062", "198.51.100.7"))
        };
        assert_eq!(dialog.handle_request(&moved("INFO", "7614")), Ok(()));
        assert_eq!(dialog.handle_request(&moved("INVITE", "7612")), Err(OutOfOrder));
        assert_eq!(dialog.remote_target().host, "192.0.2.7");
        assert_eq!(dialog.handle_request(&moved("INVITE", "7615")), Ok(()));
        assert_eq!(dialog.request(Method::Bye).uri.host, "198.51.100.7");
        // Its route is of the first INVITE for good.
        assert_eq!(dialog.next_hop().host, "near.example");
    }

    #[test]
    fn a_2xx_confirms_an_early_dialog_and_decides_about_route_and_target() {
        let ringing = OK.replace("200 OK", "180 Ringing").replace("Record-Route: <sip:far.example;lr>\r\n", "");
        let (invite, ringing) = calling(&ringing);
        let mut dialog = Dialog::uac(&invite, &ringing).expect("it makes a dialog");
        assert!(!dialog.is_confirmed());
        assert_eq!(routes(&dialog.request(Method::Prack)).len(), 1);
        let (_, ok) = calling(&OK.replace("192.0.2.7:5062", "192.0.2.8"));
        assert!(dialog.matches_response(&ok));
        dialog.handle_response(&ok);
        assert!(dialog.is_confirmed());
        assert_eq!(dialog.remote_target().host, "192.0.2.8");
        assert_eq!(routes(&dialog.request(Method::Bye)).len(), 2);
        // From here on the route is fixed; a re-INVITE's answer moves only the peer.
        let (_, again) = calling(&OK.replace("Record-Route", "X-Record-Route").replace("192.0.2.7:5062", "192.0.2.9"));
        dialog.handle_response(&again);
        assert_eq!(dialog.remote_target().host, "192.0.2.9");
        assert_eq!(routes(&dialog.request(Method::Bye)).len(), 2);
        // A refusal of it moves nobody.
        let (_, refused) = calling(&OK.replace("200 OK", "488 Not Here"));
        dialog.handle_response(&refused);
        assert_eq!(dialog.remote_target().host, "192.0.2.9");
    }

    #[test]
    fn each_fork_is_a_dialog_of_its_own() {
        let (invite, one) = calling(OK);
        let (_, other) = calling(&OK.replace("tag=theirs", "tag=another"));
        let dialog = Dialog::uac(&invite, &one).expect("it makes a dialog");
        assert!(dialog.matches_response(&one) && !dialog.matches_response(&other));
        let fork = Dialog::uac(&invite, &other).expect("it makes a dialog");
        assert_ne!(dialog.id(), fork.id());
        assert_eq!(DialogId::of_response(&other).as_ref(), Some(fork.id()));
    }

    #[test]
    fn a_request_is_in_the_dialog_of_its_three_names() {
        let dialog = called(INVITE);
        let bye = within("BYE");
        assert!(dialog.matches(&request(&bye)));
        for (of, becomes) in [("5f0c", "5f0d"), ("tag=ab", "tag=ac"), ("tag=ours", "tag=yours"), (";tag=ours", "")] {
            assert!(!dialog.matches(&request(&bye.replace(of, becomes))), "{becomes}");
        }
    }

    #[test]
    fn what_does_not_say_where_the_peer_is_makes_no_dialog() {
        let contact = NameAddr::new("sip:trunkline@192.0.2.10".parse().expect("a URI"));
        let nowhere = request(&INVITE.replace("Contact", "X-Contact"));
        assert_eq!(Dialog::uas(&nowhere, "ours", contact.clone()).map(drop), Err(NoDialog::NoContact));
        let (invite, old) = calling(&OK.replace(";tag=theirs", ""));
        assert!(Dialog::uac(&invite, &old).is_ok_and(|dialog| dialog.matches_response(&old)));
        let (invite, tagless) = calling(&OK.replace(";tag=theirs", "").replace("200 OK", "100 Trying"));
        assert_eq!(Dialog::uac(&invite, &tagless).map(drop), Err(NoDialog::NoTag));
        let long = format!("Record-Route: <sip:{}.example;lr>\r\nRecord-Route", "x".repeat(1000));
        let endless = request(&INVITE.replace("Record-Route", &long));
        assert_eq!(endless.headers.list(&Name::RecordRoute).count(), 4);
        assert!(Dialog::uas(&endless, "ours", contact.clone()).is_ok());
        let endless = request(&INVITE.replacen(
            "Record-Route",
            &long.replace("\nRecord-Route", &format!("\n{long}")).repeat(3),
            1,
        ));
        assert_eq!(Dialog::uas(&endless, "ours", contact).map(drop), Err(NoDialog::TooManyRoutes));
    }

    fn called(invite: &str) -> Dialog {
        let contact = "<sip:trunkline@192.0.2.10:5060>".parse().expect("a Contact");
        Dialog::uas(&request(invite), "ours", contact).expect("it makes a dialog")
    }

    fn calling(response: &str) -> (Request, Response) {
        let Ok(Message::Response(response)) = parse(response.as_bytes()) else { panic!("{response}") };
        (request(OWN_INVITE), response)
    }

    fn request(bytes: &str) -> Request {
        let Ok(Message::Request(request)) = parse(bytes.as_bytes()) else { panic!("{bytes}") };
        request
    }

    /// A request of the peer's within the dialog.
    fn within(method: &str) -> String {
        INVITE.replace("INVITE", method).replace("10>\r\n", "10>;tag=ours\r\n")
    }

    fn routes(request: &Request) -> Vec<&str> {
        request.headers.list(&Name::Route).collect()
    }

    const INVITE: &str = "INVITE sip:trunkline@192.0.2.10 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKPj1\r\n\
        Record-Route: <sip:near.example;lr>\r\n\
        Record-Route: <sip:far.example;lr>\r\n\
        From: \"Reception\" <sip:6001@192.0.2.1>;tag=ab\r\n\
        To: <sip:trunkline@192.0.2.10>\r\n\
        Contact: <sip:6001@192.0.2.7:5062;ob>\r\n\
        Call-ID: 5f0c\r\n\
        CSeq: 7613 INVITE\r\n\
        Content-Length: 0\r\n\r\n";

    const OWN_INVITE: &str = "INVITE sip:6001@192.0.2.1 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK1\r\n\
        From: <sip:trunkline@192.0.2.10>;tag=ours\r\n\
        To: <sip:6001@192.0.2.1>\r\n\
        Contact: <sip:trunkline@192.0.2.10:5060>\r\n\
        Call-ID: 5f0c\r\n\
        CSeq: 41 INVITE\r\n\
        Proxy-Authorization: Digest username=\"trunkline\"\r\n\
        Content-Length: 0\r\n\r\n";

    const OK: &str = "SIP/2.0 200 OK\r\n\
        Via: SIP/2.0/UDP 192.0.2.10:5060;rport=5060;received=192.0.2.10;branch=z9hG4bK1\r\n\
        Record-Route: <sip:far.example;lr>\r\n\
        Record-Route: <sip:near.example;lr>\r\n\
        From: <sip:trunkline@192.0.2.10>;tag=ours\r\n\
        To: <sip:6001@192.0.2.1>;tag=theirs\r\n\
        Contact: <sip:6001@192.0.2.7:5062>\r\n\
        Call-ID: 5f0c\r\n\
        CSeq: 41 INVITE\r\n\
        Content-Length: 0\r\n\r\n";
}
