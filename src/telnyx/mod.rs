//! Call control at Telnyx: its webhooks tell of calls, and by its REST interface calls are answered, given to a
//! `websocket` line as a stream, and hung up.
//!
//! ```text
//!   webhooks --> webhook (signature) --> event --> calls (pure) --> rest --> answer, streaming_start, reject, hangup
//!                                                    ^
//!        the line: "its socket is here" -------------+
//! ```
//!
//! All of it is on the control thread; no audio passes here. Telnyx neither keeps webhooks in order nor sends each only
//! once, so [`calls`] takes them in any order and any number ("Receiving Webhooks for Programmable Voice").
//!
//! A call has an id at Telnyx, `call_control_id`, and from its socket on one here, `call_id`. The log has its steps in
//! order, [`Step`], each with what is known of the two.

use std::{cell::RefCell, io, rc::Rc};

use log::{debug, info, warn};
use tokio::{net::TcpListener, sync::Notify, task::spawn_local, time::sleep};

use crate::{
    clock,
    config::Telnyx as Config,
    control::{messages, server},
    leg::websocket::tls,
};

pub mod calls;
pub mod event;
mod rest;
pub mod signature;
pub mod stream;
mod webhook;

use self::{
    calls::{Action, Calls},
    event::Event,
    rest::{Command, Failure, Rest},
    webhook::Webhook,
};

/// What happens to a call that Telnyx connects to us, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It rings.
    Initiated,
    /// It was answered.
    Answered,
    /// Its stream was asked for.
    StreamingAsked,
    /// Telnyx opened the WebSocket and named the call on it.
    SocketConnected,
    /// The first of the caller's voice came.
    FirstFromTelnyx,
    /// The first of it went to the agent.
    FirstToAgent,
    /// The first of the agent's voice came.
    FirstFromAgent,
    /// The first of it went to Telnyx.
    FirstToTelnyx,
}

/// Tells the log of a step. `call_id` is ours and not known before the socket is there.
pub fn log_step(step: Step, call_control_id: &str, call_id: Option<&str>) {
    let call_id = call_id.unwrap_or_default();
    match step {
        Step::Initiated => info!(message_id = messages::TELNYX_INITIATED, call_control_id; "a call rings at Telnyx"),
        Step::Answered => {
            info!(message_id = messages::TELNYX_ANSWERED, call_control_id; "the call at Telnyx is answered");
        }
        Step::StreamingAsked => {
            info!(message_id = messages::TELNYX_STREAMING, call_control_id; "Telnyx is asked to stream the call");
        }
        Step::SocketConnected => {
            info!(message_id = messages::TELNYX_CONNECTED, call_control_id, call_id; "Telnyx's socket is connected");
        }
        Step::FirstFromTelnyx => {
            info!(message_id = messages::TELNYX_FIRST_HEARD, call_control_id, call_id; "first frame from Telnyx");
        }
        Step::FirstToAgent => {
            info!(message_id = messages::TELNYX_FIRST_TO_AGENT, call_control_id, call_id; "first frame to the agent");
        }
        Step::FirstFromAgent => {
            info!(message_id = messages::TELNYX_FIRST_FROM_AGENT, call_control_id, call_id; "first frame from the agent");
        }
        Step::FirstToTelnyx => {
            info!(message_id = messages::TELNYX_FIRST_PLAYED, call_control_id, call_id; "first frame to Telnyx");
        }
    }
}

/// Call control at Telnyx, as `[telnyx]` has it. A copy of it is the same one.
#[derive(Clone)]
pub struct Telnyx(Rc<Inner>);

struct Inner {
    config: Config,
    calls: RefCell<Calls>,
    rest: Rest,
    /// There may be something to wait for that was not there before.
    changed: Notify,
}

impl Telnyx {
    /// Makes it ready; nothing is served or asked for before [`Telnyx::serve`]. Reads the platform's certificates, on
    /// another thread.
    ///
    /// # Errors
    /// When there is no API key, or nobody to trust; the message says what to do.
    pub async fn open(config: Config) -> Result<Self, String> {
        let key = config.api_key.clone().ok_or(
            "[telnyx] api-key: there is none, so no call could be answered; \
            wanted the credential `telnyx-api-key` (LoadCredential=), or api-key = { file = \"PATH\" }",
        )?;
        let tls = if config.api_url.secure {
            let read = tokio::task::spawn_blocking(|| tls::client_config(None)).await;
            let made = read.map_err(|error| format!("TLS cannot be set up: {error}"))?;
            Some(made.map_err(|error| format!("TLS cannot be set up: {error}"))?)
        } else {
            None
        };
        let rest =
            Rest::new(config.api_url.clone(), &key, tls).map_err(|error| format!("[telnyx] api-key: {error}"))?;
        let calls = RefCell::new(Calls::new(config.answer, config.hangup));
        Ok(Self(Rc::new(Inner { config, calls, rest, changed: Notify::new() })))
    }

    /// Serves webhooks for ever. `has_seat` is asked before a call is answered: one more than there are seats for hears
    /// that the number is busy.
    pub async fn serve(self, listener: TcpListener, has_seat: impl Fn() -> bool + 'static) {
        let listens_on = listener.local_addr();
        let receiver = Webhook::new(listener, self.0.config.public_key, {
            let telnyx = self.clone();
            move |event: &Event| telnyx.on_event(event, &has_seat)
        });
        info!(listen:% = shown(listens_on), line = self.0.config.line_name; "webhooks of Telnyx are received");
        tokio::join!(server::serve(receiver), self.watch());
    }

    /// Ends the call at Telnyx, where `hangup = true`. For when the agent has ended it: closing the socket only stops the
    /// stream (Telnyx, "Media Streaming over WebSockets").
    pub fn hangup(&self, call_control_id: &str) {
        let wanted = self.0.calls.borrow_mut().handle_hangup(call_control_id);
        if wanted {
            self.perform();
        }
    }

    /// Whether [`hangup`](Self::hangup) does anything: whether the config has `hangup = true`.
    #[must_use]
    pub fn hangs_up(&self) -> bool {
        self.0.config.hangup
    }

    /// A line's socket is there and has named its call at Telnyx; `call_id` is ours.
    pub fn socket_connected(&self, call_control_id: &str, call_id: &str) {
        self.0.calls.borrow_mut().handle_socket(call_control_id, call_id, clock::now());
        self.perform();
    }

    /// Whether a socket is a stranger's: it came where our streams do, `stream-path`, and names no call of which a stream
    /// was asked for and is not over. Telnyx has no password to show there, so the id, which nobody guesses, is one.
    /// Streams that somebody else asked for have a path of their own.
    #[must_use]
    pub fn is_stranger(&self, line: usize, path: usize, call_control_id: &str) -> bool {
        let Config { line: our_line, path: our_path, .. } = self.0.config;
        (line, path) == (our_line, our_path) && !self.0.calls.borrow().expects(call_control_id)
    }

    /// The line that takes the streams, by its place in the config.
    #[must_use]
    pub fn line(&self) -> usize {
        self.0.config.line
    }

    fn on_event(&self, event: &Event, has_seat: &dyn Fn() -> bool) {
        self.0.calls.borrow_mut().handle_event(event, clock::now(), has_seat);
        self.perform();
        self.0.changed.notify_one();
    }

    /// Does what the table of calls wants done.
    fn perform(&self) {
        loop {
            let action = self.0.calls.borrow_mut().poll_action();
            match action {
                None => return,
                Some(Action::Tell { step, call }) => {
                    let call_id = self.0.calls.borrow().call_id(&call).map(str::to_owned);
                    log_step(step, &call, call_id.as_deref());
                }
                Some(Action::Answer { call }) => self.command(call, Command::Answer),
                Some(Action::Reject { call }) => self.command(call, Command::Reject),
                Some(Action::Hangup { call }) => self.command(call, Command::Hangup),
                Some(Action::StartStreaming { call }) => {
                    let body = self.0.config.stream.body(&self.0.config.stream_url(&call));
                    self.command(call, Command::StartStreaming(body));
                }
                Some(Action::TellEnded { call, call_id, cause, source }) => {
                    let call_id = call_id.unwrap_or_default();
                    info!(
                        message_id = messages::TELNYX_ENDED, call_control_id = call, call_id, hangup_cause = cause,
                        hangup_source = source;
                        "the call at Telnyx is over"
                    );
                }
                Some(Action::TellNoStream { call, why }) => {
                    let url = &self.0.config.public_url.authority;
                    warn!(
                        message_id = messages::TELNYX_NO_STREAM, call_control_id = call, why:%, public_url = url;
                        "no stream came from Telnyx: check that public-url leads to [line.{}] with a certificate that \
                         the world trusts, and that nothing in front of it drops WebSockets", self.0.config.line_name
                    );
                }
                Some(Action::TellFull { call }) => {
                    warn!(call_control_id = call; "a call at Telnyx is left alone: there are too many to keep in mind");
                }
            }
        }
    }

    fn command(&self, call: String, command: Command) {
        let telnyx = self.clone();
        spawn_local(async move {
            let result = telnyx.0.rest.send(&call, &command).await;
            if let Err(failure) = result {
                telnyx.on_failure(&call, &command, &failure);
            }
        });
    }

    fn on_failure(&self, call: &str, command: &Command, failure: &Failure) {
        let action = command.action();
        match failure {
            Failure::Ended => {
                debug!(call_control_id = call, action; "the call at Telnyx was over already");
                return;
            }
            Failure::Refused(refusal) => {
                let (parameter, code) = (refusal.parameter.as_deref().unwrap_or("none"), refusal.code.as_str());
                warn!(
                    message_id = messages::TELNYX_REFUSED, call_control_id = call, action, status = refusal.status,
                    parameter, code;
                    "Telnyx refused {}", refusal.said(action)
                );
            }
            Failure::Unreachable(words) => warn!(
                message_id = messages::TELNYX_UNREACHABLE, call_control_id = call, action, words;
                "Telnyx could not be told"
            ),
        }
        if matches!(command, Command::StartStreaming(_)) {
            self.0.calls.borrow_mut().handle_no_streaming(call, failure.is_certain());
            self.perform();
        }
    }

    /// Notices sockets that do not come, and forgets calls in time.
    async fn watch(&self) {
        loop {
            let next = self.0.calls.borrow().poll_timeout();
            let changed = self.0.changed.notified();
            match next {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = sleep(at.saturating_sub(clock::now())) => {}
                },
            }
            self.0.calls.borrow_mut().handle_timeout(clock::now());
            self.perform();
        }
    }
}

fn shown(address: io::Result<core::net::SocketAddr>) -> String {
    address.map_or_else(|error| error.to_string(), |address| address.to_string())
}
