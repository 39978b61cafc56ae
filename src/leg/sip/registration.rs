//! Keeps an extension registered at its PBX (RFC 3261 10).
//!
//! ```text
//!   poll_step --> Reach --> handle_reached(contact) --> Send --> handle_response --> Send again, with a digest
//!                   |                                     |             |
//!                   +-----------> handle_failure <--------+             +--> registered: due again at 80-90 %
//!                                    |                                  +--> failed: due again later
//!                                    +--> due again later, and the backup now
//! ```
//!
//! After whatever it was told, and when [`Registration::poll_timeout`] says so, it is asked for the next step. One
//! request is under way at a time. While the first registrar does not take us, the backup has to; when the first does
//! again, the backup is told that we are gone.

mod binding;
mod failure;

use core::{fmt, time::Duration};

use self::binding::{Answered, Binding, Outcome, Told};
pub use self::failure::Failure;
use crate::{
    config::Register,
    leg::sip::{Request, Response, flow::Transport, transaction::Random},
    media::Now,
};

/// Where a registrar is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is reached.
    pub transport: Transport,
}

/// Where a registrar finds us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Our address as it is seen from there.
    pub host: String,
    /// The port that we listen on.
    pub port: u16,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Find a flow to it, and where it finds us; then [`Registration::handle_reached`].
    Reach(Target),
    /// Send this on that flow.
    Send(Request),
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not tried yet, or nothing came of it yet.
    Trying,
    /// The PBX knows us.
    Registered {
        /// At which registrar.
        registrar: String,
        /// Until when, unless it is told again.
        until: Now,
        /// What the other one, or the last attempt at this one, came to.
        trouble: Option<Failure>,
    },
    /// It does not.
    Failing {
        /// Which registrar it is about.
        registrar: String,
        /// Why not.
        why: Failure,
        /// When it is tried again.
        retry_at: Now,
    },
    /// It was told that we are gone.
    Unregistered,
}

impl State {
    /// Calls can come.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }

    /// For `/health`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Registered { .. } => "registered",
            Self::Failing { why, .. } if why.is_refusal() => "refused",
            Self::Failing { .. } => "failing",
            Self::Unregistered => "unregistered",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trying => f.write_str("no registrar has answered yet"),
            Self::Registered { registrar, trouble: None, .. } => write!(f, "registered at {registrar}"),
            Self::Registered { registrar, trouble: Some(why), .. } => {
                write!(f, "registered at {registrar}, but in trouble: {why}")
            }
            Self::Failing { registrar, why, .. } => write!(f, "not registered at {registrar}: {why}"),
            Self::Unregistered => f.write_str("unregistered"),
        }
    }
}

/// What the log should be told: each change once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A registrar took us.
    Registered {
        /// Which.
        registrar: String,
        /// Until it has to be told again.
        refresh_in: Duration,
    },
    /// A registrar does not take us; told again only if the reason is another.
    Failed {
        /// Which.
        registrar: String,
        /// Why.
        why: Failure,
        /// Until it is tried again.
        retry_in: Duration,
    },
    /// It was told that we are gone.
    Unregistered {
        /// Which.
        registrar: String,
    },
}

/// Keeps us registered.
pub struct Registration {
    /// The registrar, and the backup if there is one.
    bindings: Vec<Binding>,
    attempt: Option<Attempt>,
    ending: Option<Ending>,
    news: Vec<News>,
    random: Random,
}

/// One REGISTER and what it takes to get it through.
#[derive(Debug)]
struct Attempt {
    /// Which binding.
    of: usize,
    ends: bool,
    answered: Answered,
    contact: Option<Contact>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Unreached,
    Reaching,
    Reached,
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    give_up_at: Now,
}

impl Registration {
    /// It is due at once.
    #[must_use]
    pub fn new(now: Now, register: &Register, user_agent: Option<&str>, mut random: Random) -> Self {
        let registrars = [Some(&register.registrar), register.backup.as_ref()];
        let mut bindings: Vec<_> = registrars
            .into_iter()
            .flatten()
            .map(|registrar| Binding::new(register, registrar.clone(), user_agent, &mut random))
            .collect();
        bindings[FIRST].due_at = Some(now);
        Self { bindings, attempt: None, ending: None, news: Vec::new(), random }
    }

    /// The registrars, for their addresses: whoever registers us may bring calls.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.bindings.iter().map(Binding::target)
    }

    /// What is to be done now.
    pub fn poll_step(&mut self, now: Now) -> Option<Step> {
        if self.ending.is_some_and(|ending| ending.give_up_at <= now) {
            self.attempt = None;
            self.bindings.iter_mut().for_each(Binding::forget);
        }
        if self.attempt.is_none() {
            self.begin(now);
        }
        let attempt = self.attempt.as_mut()?;
        let binding = &mut self.bindings[attempt.of];
        match (attempt.phase, &attempt.contact) {
            (Phase::Unreached, _) => {
                attempt.phase = Phase::Reaching;
                Some(Step::Reach(binding.target()))
            }
            (Phase::Reached, Some(contact)) => {
                attempt.phase = Phase::Sent;
                Some(Step::Send(binding.request(contact, attempt.ends)))
            }
            (Phase::Reached | Phase::Reaching | Phase::Sent, _) => None,
        }
    }

    /// There is a flow to the registrar, and this is where it finds us.
    pub fn handle_reached(&mut self, contact: Contact) {
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.phase == Phase::Reaching) {
            attempt.contact = Some(contact);
            attempt.phase = Phase::Reached;
        }
    }

    /// The registrar has answered.
    pub fn handle_response(&mut self, now: Now, response: &Response) {
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.phase == Phase::Sent) else { return };
        let binding = &mut self.bindings[attempt.of];
        if !response.cseq().is_ok_and(|cseq| binding.is_current(cseq.number)) {
            return;
        }
        match binding.handle_response(now, response, attempt.ends, &mut attempt.answered, &mut self.random) {
            Outcome::Pending => {}
            Outcome::Again => attempt.phase = Phase::Reached,
            Outcome::Done => self.on_done(now),
            Outcome::Failed(why, retry_after) => self.on_failed(now, why, retry_after),
        }
    }

    /// The registrar cannot be reached, or has not answered.
    pub fn handle_failure(&mut self, now: Now, why: Failure) {
        if self.attempt.is_some() {
            self.on_failed(now, why, None);
        }
    }

    /// Our address has changed, or a connection by which the PBX would bring calls is gone: it is told again, unless it
    /// was told just now. Not for what [`Self::handle_failure`] is told of.
    pub fn renew(&mut self, now: Now) {
        let under_way = self.attempt.as_ref().map(|attempt| attempt.of);
        for (place, binding) in self.bindings.iter_mut().enumerate() {
            if under_way == Some(place) {
                binding.is_outdated = true;
            } else {
                binding.renew(now);
            }
        }
    }

    /// The daemon goes down: tells the registrars that we are gone, within `limit`.
    pub fn unregister(&mut self, now: Now, limit: Duration) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending { give_up_at: now + limit });
        let under_way = self.attempt.take().map(|attempt| attempt.of);
        for (place, binding) in self.bindings.iter_mut().enumerate() {
            // What is under way may be taken yet.
            let may_be_bound = binding.may_be_bound() || under_way == Some(place);
            binding.due_at = may_be_bound.then_some(now);
        }
    }

    /// The registrars know that we are gone, or were given up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending.is_some() && self.attempt.is_none() && self.bindings.iter().all(|binding| binding.due_at.is_none())
    }

    /// When to ask for the next step, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        if self.is_over() {
            return None;
        }
        let give_up_at = self.ending.map(|ending| ending.give_up_at);
        let due_at = self.bindings.iter().filter_map(|binding| binding.due_at).filter(|_| self.attempt.is_none()).min();
        [give_up_at, due_at].into_iter().flatten().min()
    }

    /// What has changed.
    pub fn poll_news(&mut self) -> Option<News> {
        (!self.news.is_empty()).then(|| self.news.remove(0))
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self, now: Now) -> State {
        if self.is_over() {
            return State::Unregistered;
        }
        let registrar = self.bindings.iter().find(|binding| binding.is_well(now));
        let registrar = registrar.or_else(|| self.bindings.iter().find(|binding| binding.is_bound(now)));
        let trouble = self.bindings.iter().find_map(|binding| binding.trouble.clone());
        if let Some((binding, until)) = registrar.and_then(|binding| Some((binding, binding.bound_until()?))) {
            return State::Registered { registrar: binding.to_string(), until, trouble };
        }
        let first = &self.bindings[FIRST];
        match &first.trouble {
            None => State::Trying,
            Some(why) => {
                State::Failing { registrar: first.to_string(), why: why.clone(), retry_at: first.due_at.unwrap_or(now) }
            }
        }
    }

    fn begin(&mut self, now: Now) {
        let due = |binding: &Binding| binding.due_at.is_some_and(|at| at <= now);
        let Some(mut of) = self.bindings.iter().position(due) else { return };
        // A registrar that says nothing takes its time to do so, and what another knows of us must not run out meanwhile.
        if !self.bindings[of].is_bound(now)
            && let Some(urgent) = self.bindings.iter().position(|binding| binding.runs_out(now, LONGEST_ATTEMPT))
        {
            of = urgent;
        }
        let ends = self.ending.is_some() || (of != FIRST && self.bindings[FIRST].is_well(now));
        let phase = Phase::Unreached;
        self.attempt = Some(Attempt { of, ends, answered: Answered::default(), contact: None, phase });
    }

    fn on_done(&mut self, now: Now) {
        let Some(Attempt { of, ends, .. }) = self.attempt.take() else { return };
        let binding = &mut self.bindings[of];
        let registrar = binding.to_string();
        if ends {
            binding.told = Told::Nothing;
            self.tell(News::Unregistered { registrar });
            return;
        }
        if binding.told != Told::Registered {
            binding.told = Told::Registered;
            let refresh_in = binding.due_at.unwrap_or(now).saturating_sub(now);
            self.tell(News::Registered { registrar, refresh_in });
        }
        if of == FIRST {
            for backup in &mut self.bindings[FIRST + 1..] {
                if backup.may_be_bound() {
                    backup.due_at = Some(now);
                } else {
                    backup.forget();
                    backup.told = Told::Nothing;
                }
            }
        }
    }

    fn on_failed(&mut self, now: Now, why: Failure, retry_after: Option<Duration>) {
        let Some(Attempt { of, ends, .. }) = self.attempt.take() else { return };
        let binding = &mut self.bindings[of];
        if ends {
            // It forgets us by itself.
            binding.forget();
            binding.told = Told::Nothing;
            return;
        }
        let retry_in = binding.on_failed(now, why.clone(), retry_after, &mut self.random);
        let told = Told::Failed(why.clone());
        if binding.told != told {
            binding.told = told;
            let registrar = binding.to_string();
            self.tell(News::Failed { registrar, why, retry_in });
        }
        if of == FIRST {
            for backup in self.bindings[FIRST + 1..].iter_mut().filter(|backup| backup.due_at.is_none()) {
                backup.due_at = Some(now);
            }
        }
    }

    fn tell(&mut self, news: News) {
        if self.news.len() < MOST_NEWS {
            self.news.push(news);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("bindings", &self.bindings).field("attempt", &self.attempt).finish()
    }
}

/// The registrar that we want to be registered at.
const FIRST: usize = 0;
/// A transaction without an answer, RFC 3261 17.1.2.2, and a name that is looked up before it.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(40);
/// Whoever does not fetch them has no log.
const MOST_NEWS: usize = 16;

#[cfg(test)]
mod tests;
