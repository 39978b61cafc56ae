//! What one registrar knows of us: one Call-ID, one From tag, CSeqs that grow (RFC 3261 10.2).

use core::{fmt, time::Duration};

use super::{Contact, Failure, Target};
use crate::{
    config::{Register, SipUri},
    leg::sip::{
        CSeq, Method, Name, NameAddr, Request, Response, Scheme, Uri,
        digest::{self, Asker, Challenged, Credentials},
        flow::Transport,
        transaction::Random,
    },
    media::Now,
};

/// Our entry at one registrar.
#[derive(Debug)]
pub(super) struct Binding {
    registrar: SipUri,
    user: String,
    user_agent: Option<String>,
    call_id: String,
    tag: String,
    cseq: u32,
    digest: Option<digest::Client>,
    /// For how long we ask, which is what it made of the config by 423.
    expires: u32,
    /// Where it was told that we are.
    contact: Option<Uri>,
    /// Where it was told before, until it has forgotten that.
    former: Option<Uri>,
    /// Until when it knows us.
    bound_until: Option<Now>,
    bound_at: Now,
    /// Something has changed while a request was under way.
    pub(super) is_outdated: bool,
    pub(super) due_at: Option<Now>,
    failures: u32,
    pub(super) trouble: Option<Failure>,
    pub(super) told: Told,
}

/// What was last told of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Registered,
    Failed(Failure),
}

/// What a request of ours came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet.
    Pending,
    /// Another one has to be sent, on the same flow.
    Again,
    /// It is done.
    Done,
    /// It has failed, and the registrar says when to come again.
    Failed(Failure, Option<Duration>),
}

/// What was answered already in one attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answered {
    digest: digest::Answered,
    brief: bool,
}

impl Binding {
    pub(super) fn new(register: &Register, registrar: SipUri, user_agent: Option<&str>, random: &mut Random) -> Self {
        let digest = register.password.clone().map(|password| {
            let username = register.auth_user.clone();
            digest::Client::new(Credentials { username, password, realm: None })
        });
        Self {
            registrar,
            user: register.user.clone(),
            user_agent: user_agent.map(str::to_owned),
            call_id: format!("{:016x}{:016x}", random(), random()),
            tag: format!("{:016x}", random()),
            // RFC 3261 8.1.1.5: below 2^31, with room to count.
            cseq: (random() >> 40) as u32,
            digest,
            expires: seconds(register.expires),
            contact: None,
            former: None,
            bound_until: None,
            bound_at: Now::ZERO,
            is_outdated: false,
            due_at: None,
            failures: 0,
            trouble: None,
            told: Told::Nothing,
        }
    }

    pub(super) fn target(&self) -> Target {
        let transport = self.registrar.transport();
        Target { host: self.registrar.host.clone(), port: self.registrar.port(), transport }
    }

    /// It knows us.
    pub(super) fn is_bound(&self, now: Now) -> bool {
        self.bound_until.is_some_and(|until| until > now)
    }

    /// It may know us: what was forgotten by the clock may not be there.
    pub(super) const fn may_be_bound(&self) -> bool {
        self.bound_until.is_some()
    }

    pub(super) const fn bound_until(&self) -> Option<Now> {
        self.bound_until
    }

    /// It knows us, and nothing speaks against it.
    pub(super) fn is_well(&self, now: Now) -> bool {
        self.is_bound(now) && self.trouble.is_none()
    }

    /// It has to be told before `within` is over, and was not told just now.
    pub(super) fn runs_out(&self, now: Now, within: Duration) -> bool {
        let is_due_soon = self.due_at.is_some_and(|at| at <= now + within);
        self.is_well(now) && is_due_soon && self.bound_at + LEAST_GAP <= now
    }

    pub(super) const fn is_current(&self, cseq: u32) -> bool {
        self.cseq == cseq
    }

    /// The next REGISTER; the one that ends it, if it `ends`.
    pub(super) fn request(&mut self, contact: &Contact, ends: bool) -> Request {
        let uri = self.uri(None);
        let here = self.contact_uri(contact);
        if self.contact.as_ref().is_some_and(|before| *before != here) {
            self.former = self.contact.take();
        }
        self.contact = Some(here.clone());
        self.cseq += 1;

        let own = NameAddr::new(self.uri(Some(&self.user)));
        let mut from = own.clone();
        from.set_tag(&self.tag);
        let expires = if ends { 0 } else { self.expires }.to_string();
        let mut contacts = vec![with_expires(here, &expires)];
        contacts.extend(self.former.clone().map(|former| with_expires(former, "0")));

        let mut request = Request::new(Method::Register, uri);
        let headers = &mut request.headers;
        headers.push(Name::MaxForwards, "70");
        headers.push(Name::From, from.to_string());
        headers.push(Name::To, own.to_string());
        headers.push(Name::CallId, self.call_id.as_str());
        headers.push(Name::CSeq, CSeq { number: self.cseq, method: Method::Register }.to_string());
        headers.push(Name::Contact, contacts.join(", "));
        headers.push(Name::Expires, expires);
        if let Some(user_agent) = &self.user_agent {
            headers.push(Name::UserAgent, user_agent.as_str());
        }
        if let Some(digest) = &mut self.digest {
            let uri = request.uri.to_string();
            let asked = digest::Request { method: request.method.as_str(), uri: &uri, body: &[] };
            for (name, value) in digest.authorize(&asked) {
                headers.push(name.into(), value);
            }
        }
        request
    }

    pub(super) fn handle_response(
        &mut self,
        now: Now,
        response: &Response,
        ends: bool,
        answered: &mut Answered,
        random: &mut Random,
    ) -> Outcome {
        match response.status {
            100..=199 => Outcome::Pending,
            200..=299 if ends => {
                self.forget();
                Outcome::Done
            }
            200..=299 => self.on_taken(now, response, random),
            401 => self.on_challenged(Asker::Server, response, answered, random),
            407 => self.on_challenged(Asker::Proxy, response, answered, random),
            423 => self.on_too_brief(response, answered),
            _ => {
                let retry_after = response.headers.number(&Name::RetryAfter).map(|s| Duration::from_secs(s.into()));
                Outcome::Failed(Failure::of(response), retry_after)
            }
        }
    }

    fn on_taken(&mut self, now: Now, response: &Response, random: &mut Random) -> Outcome {
        // RFC 3261 10.3, 8: no registrar gives longer than it was asked for, and who does gets its refresh all the same.
        let granted = self.granted(response).min(self.expires);
        if granted == 0 {
            return Outcome::Failed(Failure::Expiry(0), None);
        }
        let granted = Duration::from_secs(granted.into());
        self.bound_until = Some(now + granted);
        self.bound_at = now;
        // Between eight and nine tenths, so that not all lines of a PBX that was restarted come at once.
        let at = granted * 8 / 10 + part(granted / 10, random);
        self.due_at = Some(now + if self.is_outdated { at.min(LEAST_GAP) } else { at });
        self.is_outdated = false;
        self.former = None;
        self.failures = 0;
        self.trouble = None;
        Outcome::Done
    }

    /// For how long it took us (RFC 3261 10.2.4): what it says at our own Contact, else for all of them.
    fn granted(&self, response: &Response) -> u32 {
        let ours = self.contact.as_ref();
        let contacts = || response.headers.list(&Name::Contact).filter_map(|value| value.parse::<NameAddr>().ok());
        let is_ours = |contact: &NameAddr| ours.is_some_and(|ours| contact.uri.is_equivalent(ours));
        // Behind NAT it may be written as the registrar saw us.
        let has_user = |contact: &NameAddr| contact.uri.decoded_user().as_deref() == Some(self.user.as_str());
        let mut alone = contacts().filter(has_user);
        let alone = alone.next().filter(|_| alone.next().is_none());
        let own = contacts().find(is_ours).or(alone);
        let at_contact = own.and_then(|contact| contact.params.get("expires")?.parse().ok());
        at_contact.or_else(|| response.expires()).unwrap_or(self.expires)
    }

    fn on_challenged(
        &mut self,
        asker: Asker,
        response: &Response,
        answered: &mut Answered,
        random: &mut Random,
    ) -> Outcome {
        let Some(digest) = &mut self.digest else { return Outcome::Failed(Failure::NoPassword, None) };
        let name = Name::from(asker.challenge_header());
        let challenged = match digest.handle_challenge(asker, response.headers.all(&name), random) {
            Ok(challenged) => challenged,
            Err(why) => return Outcome::Failed(Failure::Unanswerable(why), None),
        };
        if answered.digest.allows(asker, challenged) {
            return Outcome::Again;
        }
        // The next attempt asks first: a second wrong answer in each would have us banned in half the time.
        digest.forget();
        Outcome::Failed(
            match challenged {
                Challenged::Stale => Failure::AlwaysStale,
                Challenged::New => Failure::WrongPassword,
            },
            None,
        )
    }

    /// RFC 3261 10.2.8.
    fn on_too_brief(&mut self, response: &Response, answered: &mut Answered) -> Outcome {
        match response.headers.number(&Name::MinExpires) {
            Some(least) if least > self.expires && least <= MOST_EXPIRES && !answered.brief => {
                answered.brief = true;
                self.expires = least;
                Outcome::Again
            }
            Some(least) => Outcome::Failed(Failure::Expiry(least), None),
            None => Outcome::Failed(Failure::of(response), None),
        }
    }

    /// An attempt has failed; gives how long to wait for the next.
    pub(super) fn on_failed(
        &mut self,
        now: Now,
        why: Failure,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) -> Duration {
        let (first, longest) = if why.is_refusal() { REFUSED } else { FAILED };
        let is_other = self.trouble.as_ref().is_some_and(|before| before.is_refusal() != why.is_refusal());
        if is_other {
            self.failures = 0;
        }
        let whole = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        let wait = match retry_after {
            // Never before it said.
            Some(asked) => {
                let asked = asked.clamp(FAILED.0, LONGEST_ASKED);
                asked + part(asked / 4, random)
            }
            None => whole * 3 / 4 + part(whole / 2, random),
        };
        self.due_at = Some(now + wait);
        self.trouble = Some(why);
        wait
    }

    /// It should be told again soon; how soon depends on when it was told last.
    pub(super) fn renew(&mut self, now: Now) {
        if self.may_be_bound() && self.trouble.is_none() {
            let soon = now.max(self.bound_at + LEAST_GAP);
            self.due_at = Some(self.due_at.map_or(soon, |due_at| due_at.min(soon)));
        }
    }

    /// It does not know us any more, or that does not matter.
    pub(super) fn forget(&mut self) {
        self.bound_until = None;
        self.due_at = None;
        self.former = None;
        self.trouble = None;
        self.failures = 0;
    }

    fn uri(&self, user: Option<&str>) -> Uri {
        let SipUri { host, port, secure, .. } = &self.registrar;
        // The domain of an address of record has no port, the registrar's own address may need one.
        let mut uri = match user {
            Some(user) => Uri::sip(user, host, None),
            None => Uri::sip_host(host, *port),
        };
        if *secure {
            uri.scheme = Scheme::Sips;
        }
        uri
    }

    fn contact_uri(&self, contact: &Contact) -> Uri {
        let mut uri = Uri::sip(&self.user, &contact.host, Some(contact.port));
        match self.target().transport {
            Transport::Tls if self.registrar.secure => uri.scheme = Scheme::Sips,
            Transport::Udp => {}
            transport @ (Transport::Tcp | Transport::Tls) => {
                uri.params.set("transport", Some(&transport.as_str().to_ascii_lowercase()));
            }
        }
        uri
    }
}

/// The registrar, for the log.
impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registrar.fmt(f)
    }
}

fn with_expires(uri: Uri, expires: &str) -> String {
    let mut contact = NameAddr::new(uri);
    contact.params.set("expires", Some(expires));
    contact.to_string()
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// A random part of it.
fn part(whole: Duration, random: &mut Random) -> Duration {
    whole * (random() >> 56) as u32 / 256
}

/// What passes: from one second on, twice as long each time.
const FAILED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// What somebody has to mend. PBXs ban whoever tries more often.
const REFUSED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));
/// A registrar that wants to be left alone for longer gets asked all the same.
const LONGEST_ASKED: Duration = Duration::from_secs(1800);
/// A registrar that closes each connection after its answer is not asked more often.
const LEAST_GAP: Duration = Duration::from_secs(10);
/// A week. Who wants longer wants us never to come back.
const MOST_EXPIRES: u32 = 7 * 24 * 3600;
