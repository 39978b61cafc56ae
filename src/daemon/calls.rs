//! The calls there are, and what the control thread knows of each: the only place that knows how many.

use core::time::Duration;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread,
};

use log::{info, warn};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot, watch},
    task::spawn_local,
};
use tokio_util::sync::DropGuard;

use crate::{
    call::{
        EndReason, Outcome,
        gauges::Gauges,
        record::{EndedBy, Ending, Record, Started, Taken},
        redact::Numbers,
        shard::{Ask, Listen, NewCall, NewLine, NewWebsocket, Order},
        vitals::Vitals,
        websocket_line::LineSetup,
    },
    clock,
    config::{self, Config},
    control::{
        call_info::{Announcements, CallInfo},
        desk::Desk,
        messages,
        metrics::{Counter, Metrics},
    },
    daemon::{
        LAST_NOTES, LAST_RECORDS,
        accept::turn_away,
        reload,
        sip::{SipArrival, SipLine},
        sound::SoundLine,
    },
    dialect::{Direction, Facts, Text},
    leg::{
        audiosocket::{Uuid, line::Line},
        pipe,
        rtp::session,
        websocket::{
            dialer::{self, Handshake, News},
            door::{self, House},
            outbound::Fetch,
        },
    },
    media::{Now, Rate},
    notes::{Kept, Notes},
    records::Records,
    sinks::Sinks,
    telnyx::{self, Telnyx},
    told::Told,
};

/// What the tasks of the control thread share.
pub(super) struct Shared {
    /// The config in use. At a reload another takes its place, in which everything has the place that it had.
    pub(super) config: watch::Sender<Arc<Config>>,
    /// Whom it trusts.
    pub(super) roots: watch::Sender<Arc<dialer::Roots>>,
    /// Who reads it again.
    pub(super) reload: mpsc::Sender<reload::Wanted>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) media: RefCell<Vec<mpsc::Sender<Order>>>,
    /// The threads that have to turn, by name; the media threads' come last, in their order.
    pub(super) vitals: Vec<(String, Arc<Vitals>)>,
    pub(super) dial: mpsc::Sender<dialer::Request>,
    /// Websocket lines that are opened on the dial thread, and where their calls come from there.
    pub(super) openings: mpsc::Sender<dialer::Opening>,
    pub(super) arrived: mpsc::Sender<door::Arrival>,
    pub(super) calls: RefCell<Calls>,
    /// What is known of each line.
    pub(super) lines: RefCell<Vec<LineNews>>,
    /// The last that was heard of each trunk.
    pub(super) trunks: RefCell<Vec<TrunkNews>>,
    /// Call control at Telnyx, where the config has it.
    pub(super) telnyx: Option<Telnyx>,
    /// Who is told of calls, for how they are; what tells them is in `records` and `notes`.
    pub(super) sinks: Option<Sinks>,
    /// What is kept of calls; `None`: nothing is, or the daemon is at its end.
    pub(super) records: RefCell<Option<Records>>,
    /// What is kept of what calls tell, and the sinks; `None`: nothing is, or the daemon is at its end.
    pub(super) notes: RefCell<Option<Notes>>,
    /// Records have waited for the disk for so long.
    pub(super) records_stuck: Cell<bool>,
    /// Calls that were told of and have not come.
    pub(super) announced: RefCell<Announcements>,
    /// Threads that did not answer when they were last asked.
    pub(super) silent: RefCell<Vec<String>>,
    /// systemd has heard that calls may come, since the start or the last reload.
    pub(super) is_ready_told: Cell<bool>,
    /// The daemon is going down.
    pub(super) draining: Notify,
    /// Somebody wants it to.
    pub(super) drain: Notify,
    /// What the doors of websocket lines are told of all this.
    pub(super) house: watch::Sender<House>,
    /// The SIP lines, by their places in the config.
    pub(super) sip: RefCell<BTreeMap<usize, Rc<SipLine>>>,
    /// The sound lines, by their places in the config.
    pub(super) sound: RefCell<BTreeMap<usize, Rc<SoundLine>>>,
    /// Where the ids of calls go that a websocket line fetches, by its place in the config.
    pub(super) fetches: RefCell<BTreeMap<usize, mpsc::Sender<Fetch>>>,
    /// Writers of pipes whose calls have ended.
    pub(super) writers: mpsc::UnboundedSender<thread::JoinHandle<()>>,
}

/// The calls there are: the only place that knows how many.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) live: HashMap<u64, Live>,
    /// Connections whose first message is still to come.
    pub(super) arriving: usize,
    /// Connections that were turned away and are not closed yet.
    pub(super) leaving: usize,
    next: u64,
    refused: Told,
    outsiders: Told,
    strangers: Told,
    pub(super) draining: bool,
    pub(super) pipe_failed: bool,
}

/// What is known of a live call.
pub(super) struct Live {
    pub(super) call_id: String,
    /// Its line, by its place in the config.
    pub(super) line: usize,
    pub(super) media: usize,
    pub(super) since: Now,
    started: Started,
    pub(super) gauges: Arc<Gauges>,
    /// The trunk that took it, by its place in the config, and how it answered.
    pub(super) trunk: Option<(usize, Handshake)>,
    /// What another connection to its trunk takes.
    redial: Redial,
    /// Its `call_control_id`, where it is a call that Telnyx streams to us.
    telnyx_call: Option<String>,
    writer: Option<thread::JoinHandle<()>>,
}

/// What it takes to dial a live call's trunk again.
struct Redial {
    facts: Box<Facts>,
    line_rate: Rate,
    /// How often it was tried since one held.
    tries: u32,
    /// When the last one answered.
    answered: Option<Now>,
    /// Dropped when the call ends.
    dialing: Option<oneshot::Sender<()>>,
}

/// What is known of a line.
#[derive(Default)]
pub(super) struct LineNews {
    /// Where it listens.
    pub(super) listens_on: Option<SocketAddr>,
    /// When its last call came.
    pub(super) last_call: Option<Now>,
    /// Takes calls for as long as it is here.
    pub(super) open: Option<DropGuard>,
    /// What listens there, for a line that takes its place.
    pub(super) listener: Option<std::net::TcpListener>,
    /// How often it was changed or closed: whoever does so over time sees whether somebody has done so since.
    pub(super) turn: u64,
}

impl LineNews {
    /// It is changed or closed now.
    pub(super) fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

/// The last that was heard of a trunk, with when it was (ms since 1970).
#[derive(Default)]
pub(super) struct TrunkNews {
    pub(super) handshake: Option<(u64, Handshake)>,
    pub(super) refusal: Option<(u64, String)>,
    /// It was not there when it was tried last, and is not worth trying before then.
    pub(super) unreachable_until: Option<Now>,
}

/// A line that has come up.
pub(super) enum Arrival {
    Audiosocket { stream: std::net::TcpStream, line: Box<Line>, uuid: Uuid, peer: SocketAddr },
    Pipe(PipeArrival),
    Websocket(Box<door::Arrival>),
    Sip(SipArrival),
    Sound(pipe::Ends),
}

/// A pipe that has a call.
pub(super) struct PipeArrival {
    pub(super) ends: pipe::Ends,
    /// What was told of it; `None`: nothing.
    pub(super) facts: Option<Box<Facts>>,
    /// The thread that writes its output, where nobody else waits for that.
    pub(super) writer: Option<thread::JoinHandle<()>>,
}

impl Shared {
    /// The config as it is now.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// A call begins: its media thread gets the line, the dial thread the route.
    ///
    /// Gives its number in this process. Where there is no such call afterwards, it was over at once.
    pub(super) fn begin(self: &Rc<Self>, line_index: usize, arrival: Arrival, line_rate: Rate) -> u64 {
        let mut calls = self.calls.borrow_mut();
        let seq = calls.next;
        calls.next += 1;
        let config = self.config();
        let line_name = &config.lines[line_index].name;
        let route = config.routes.iter().find(|route| route.line == line_index);
        let trunks = route.map(|route| route.trunks.clone()).unwrap_or_default();
        let timeouts: Duration = trunks.iter().map(|&trunk| config.trunks[trunk].longest_dial()).sum();

        let mut facts = made_up_facts(&config.account);
        let peer = match &arrival {
            Arrival::Audiosocket { peer, .. } => Some(*peer),
            Arrival::Websocket(arrival) => Some(arrival.peer),
            Arrival::Sip(arrival) => Some(arrival.peer),
            Arrival::Pipe(_) | Arrival::Sound(_) => None,
        };
        let mut direction = Direction::Both;
        let is_telnyx = matches!(&arrival, Arrival::Websocket(arrival) if arrival.dialect.name() == "telnyx");
        let (line, writer) = match arrival {
            Arrival::Audiosocket { stream, line, uuid, peer } => {
                // 36 characters fit.
                facts.call_sid = text(&uuid.to_string());
                if let Some(CallInfo { from, to, did, custom }) = self.announced.borrow_mut().take(uuid, clock::now()) {
                    (facts.from, facts.to, facts.did, facts.custom) = (from, to, did, custom);
                }
                info!(
                    message_id = messages::CALL_STARTED,
                    call_id = facts.call_id.as_str(), line = line_name, uuid:%, peer:%, ucid = facts.ucid.as_str();
                    "call started"
                );
                (NewLine::Audiosocket { stream, line }, None)
            }
            Arrival::Pipe(PipeArrival { ends, facts: told, writer }) => {
                facts = told.map_or(facts, |told| *told);
                direction = ends.direction;
                info!(
                    message_id = messages::CALL_STARTED, call_id = facts.call_id.as_str(), line = line_name,
                    direction = direction.as_str();
                    "call started"
                );
                (NewLine::Pipe(ends), writer)
            }
            Arrival::Sound(ends) => {
                info!(
                    message_id = messages::CALL_STARTED, call_id = facts.call_id.as_str(), line = line_name;
                    "call started"
                );
                (NewLine::Pipe(ends), None)
            }
            Arrival::Websocket(arrival) => {
                direction = arrival.direction;
                (self.websocket_of(line_index, *arrival, &mut facts), None)
            }
            Arrival::Sip(SipArrival { facts: told, rtp, peer }) => {
                facts = *told;
                info!(
                    message_id = messages::CALL_STARTED, call_id = facts.call_id.as_str(), line = line_name,
                    peer:%, codec = rtp.codec.name(), call_sid = facts.call_sid.as_str(), ucid = facts.ucid.as_str();
                    "call started"
                );
                (NewLine::Rtp(rtp), None)
            }
        };
        let trunkless = trunks.is_empty();
        let barge_in = route.map(|route| route.barge_in).unwrap_or_default();
        let listen = match route {
            Some(route) if self.notes.borrow().is_some() && Notes::want_sound(&config, route) => Listen::Sound,
            Some(_) if self.notes.borrow().is_some() => Listen::Notes,
            Some(_) | None => Listen::No,
        };
        // The line may have other clouds on other paths, whose ids mean nothing to Telnyx.
        let telnyx_call = if is_telnyx { self.telnyx_call(line_index, &facts) } else { None };
        let (dialing, cancelled) = oneshot::channel();
        let gauges = Arc::new(Gauges::default());
        let call_id = facts.call_id.to_string();
        let media = self.least_busy(&calls);
        let numbers = if config.records.full_numbers { Numbers::Full } else { Numbers::Redacted };
        let started = Started::of(&facts, line_name, peer, clock::epoch_ms(), numbers);
        if let Some(records) = &*self.records.borrow() {
            records.started(&started);
        }
        if let (Some(notes), Some(route)) = (&*self.notes.borrow(), route) {
            // Before its media thread has it, which then tells of it.
            notes.started(seq, &started, Kept::of(route, &facts, direction));
        }
        let since = clock::now();
        let mut give_up_after = timeouts + Duration::from_secs(1);
        if let Some(sip) = config.lines[line_index].kind.sip() {
            give_up_after = give_up_after.min(sip.ringing.limit);
        }
        let told = Box::new(facts.clone());
        let redial = Redial { facts: told.clone(), line_rate, tries: 0, answered: None, dialing: None };
        let new = NewCall {
            seq,
            facts,
            line,
            give_up_after,
            dialing,
            gauges: Arc::clone(&gauges),
            trunkless,
            listen,
            barge_in,
            tell_steps: telnyx_call.is_some(),
        };
        let live = Live {
            call_id: call_id.clone(),
            line: line_index,
            media,
            since,
            started,
            gauges,
            trunk: None,
            redial,
            telnyx_call,
            writer,
        };
        calls.live.insert(seq, live);
        self.lines.borrow_mut()[line_index].last_call = Some(since);
        self.metrics.call_began();
        let Some(orders) = self.media.borrow().get(media).cloned() else { return seq };
        let reply = orders.clone();
        let request = dialer::Request { seq, call_id, trunks, line_rate, facts: told, cancelled, reply };
        drop(calls);
        self.tell_doors();
        if let Err(error) = orders.try_send(Order::Call(Box::new(new))) {
            // So far behind that more calls can only make it worse.
            if let Order::Call(new) = error.into_inner()
                && let NewLine::Audiosocket { stream, .. } = new.line // a vendor's connection closes
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                turn_away(self, stream);
            }
            self.on_ended(Outcome::stillborn(seq, EndReason::Overload, since));
        } else if !trunkless && self.dial.try_send(request).is_err() {
            // The media thread has the call, and gives it back.
            let refused = Order::Trunk { seq, result: Err(EndReason::Overload) };
            spawn_local(async move { orders.send(refused).await.is_ok() });
        }
        seq
    }

    /// A vendor's WebSocket as a media thread takes it; what the vendor told of its call becomes the call's facts.
    fn websocket_of(&self, line_index: usize, arrival: door::Arrival, facts: &mut Facts) -> NewLine {
        let door::Arrival { stream, link, side, dialect, facts: told, rate, direction, peer, cipher, .. } = arrival;
        let Facts { call_id, ucid, stream_sid, call_sid, account, from, to, did, custom } = told;
        for (ours, told) in
            [(&mut facts.ucid, ucid), (&mut facts.stream_sid, stream_sid), (&mut facts.account, account)]
        {
            if !told.is_empty() {
                *ours = told;
            }
        }
        // One that was fetched was named when that was asked for.
        if !call_id.is_empty() {
            facts.call_id = call_id;
        }
        (facts.call_sid, facts.from, facts.to, facts.did, facts.custom) = (call_sid, from, to, did, custom);
        let config = self.config();
        let line = &config.lines[line_index];
        info!(
            message_id = messages::CALL_STARTED, call_id = facts.call_id.as_str(), line = line.name,
            dialect = dialect.name(), peer:%, cipher = cipher.unwrap_or("none"), rate = rate.hz(),
            direction = direction.as_str(), call_sid = facts.call_sid.as_str(), ucid = facts.ucid.as_str(),
            stream_sid = facts.stream_sid.as_str();
            "call started"
        );
        let silent_after = line.kind.websocket().and_then(|websocket| websocket.media_timeout);
        let setup = LineSetup { silent_after, direction };
        NewLine::Websocket(Box::new(NewWebsocket { stream, link, dialect, side, rate, setup }))
    }

    /// The `call_control_id` of a call that Telnyx streams to us, which is told that it has come.
    fn telnyx_call(&self, line: usize, facts: &Facts) -> Option<String> {
        let telnyx = self.telnyx.as_ref().filter(|telnyx| telnyx.line() == line && !facts.call_sid.is_empty())?;
        telnyx.socket_connected(&facts.call_sid, &facts.call_id);
        Some(facts.call_sid.to_string())
    }

    /// A media thread asks for something, or tells what nobody else can see.
    pub(super) fn on_ask(self: &Rc<Self>, ask: Ask) {
        match ask {
            Ask::Redial { seq } => self.redial(seq),
            Ask::Answer { seq } => {
                let line = self.calls.borrow().live.get(&seq).map(|live| live.line);
                if let Some(sip) = line.and_then(|line| self.sip_line_of(line)) {
                    sip.on_answered(self, seq);
                }
            }
            Ask::HangUp { seq, reason } => {
                let line = self.calls.borrow().live.get(&seq).map(|live| live.line);
                if let Some(sip) = line.and_then(|line| self.sip_line_of(line)) {
                    sip.on_call_over(self, seq, reason);
                }
            }
            Ask::Wish { seq, wish } => self.on_wish(seq, &wish),
            Ask::PassOn { seq, uri } => self.on_spoken(seq, uri),
            Ask::Step { seq, step } => {
                if let Some(Live { telnyx_call: Some(id), call_id, .. }) = self.calls.borrow().live.get(&seq) {
                    telnyx::log_step(step, id, Some(call_id));
                }
            }
        }
    }

    /// A call wants another connection to its trunk: one that is lost, or will be before the call is over.
    fn redial(self: &Rc<Self>, seq: u64) {
        let mut calls = self.calls.borrow_mut();
        let Some(live) = calls.live.get_mut(&seq) else { return };
        let Some(reply) = self.media.borrow().get(live.media).cloned() else { return };
        let (dialing, cancelled) = oneshot::channel();
        live.redial.dialing = Some(dialing);
        let wait = live.redial.wait(clock::now());
        // The trunk that has the call first: the agent behind another knows nothing of it.
        let own = live.trunk.map(|(index, _)| index);
        let config = self.config();
        let route = config.routes.iter().find(|route| route.line == live.line);
        let others = route.map(|route| route.trunks.as_slice()).unwrap_or_default();
        let trunks: Vec<_> = own.into_iter().chain(others.iter().copied().filter(|&it| Some(it) != own)).collect();
        let (call_id, line_rate, facts) = (live.call_id.clone(), live.redial.line_rate, live.redial.facts.clone());
        info!(call_id = call_id.as_str(), tries = live.redial.tries; "the trunk is dialled again");
        let request = dialer::Request { seq, call_id, trunks, line_rate, facts, cancelled, reply };
        let shared = Rc::clone(self);
        spawn_local(async move {
            tokio::time::sleep(wait).await;
            if let Err(error) = shared.dial.try_send(request) {
                let (mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request)) = error;
                let refused = Order::Trunk { seq, result: Err(EndReason::Overload) };
                // Where the thread is gone the call is too.
                let _ = request.reply.send(refused).await;
            }
        });
    }

    /// Whether every line is a pipe whose one call begins at once.
    pub(super) fn has_only_pipes(&self) -> bool {
        let is_one_call =
            |line: &config::Line| matches!(&line.kind, config::LineKind::Pipe(pipe) if pipe.is_one_call());
        self.config.borrow().lines.iter().filter(|line| !line.is_gone).all(is_one_call)
    }

    /// Waits until no more calls are taken.
    pub(super) async fn until_drained(&self) {
        let told = self.draining.notified();
        // Whoever comes when it was told already was not told.
        if !self.calls.borrow().draining {
            told.await;
        }
    }

    /// Whether there are connections without a call that should close in order.
    pub(super) fn has_connections(&self) -> bool {
        let calls = self.calls.borrow();
        calls.arriving + calls.leaving > 0
    }

    /// Calls whose media thread did not tell of their end in time: they are put on record all the same.
    pub(super) fn end_the_rest(self: &Rc<Self>) {
        let left: Vec<u64> = self.calls.borrow().live.keys().copied().collect();
        for seq in left {
            self.on_ended(Outcome::stillborn(seq, EndReason::Drained, clock::now()));
        }
    }

    /// Has the disk threads write what waits, for a while. On a thread of its own, so that the watchdog is fed
    /// meanwhile.
    pub(super) async fn close_records(&self) {
        let (records, notes) = (self.records.borrow_mut().take(), self.notes.borrow_mut().take());
        let close = move || {
            records.map(|records| records.close(LAST_RECORDS));
            if let Some(notes) = notes {
                notes.close(LAST_NOTES);
            }
        };
        // It panicked: the log has it.
        let _ = tokio::task::spawn_blocking(close).await;
    }

    /// Closes the media threads' mailboxes.
    pub(super) fn close(&self) {
        self.media.borrow_mut().clear();
    }

    /// Whether the media threads were told to end.
    pub(super) fn is_closed(&self) -> bool {
        self.media.borrow().is_empty()
    }

    fn least_busy(&self, calls: &Calls) -> usize {
        let load = |media: usize| calls.live.values().filter(|call| call.media == media).count();
        (0..self.media.borrow().len()).min_by_key(|&media| load(media)).unwrap_or(0)
    }

    /// Whether a trunk of this line takes the line's rate, which the first audio tells.
    pub(super) fn wants_rate(&self, line: usize) -> bool {
        let config = self.config();
        let trunks = config.routes.iter().filter(|route| route.line == line).flat_map(|route| &route.trunks);
        trunks.map(|&trunk| &config.trunks[trunk]).any(|trunk| trunk.dialect == "binary" && trunk.sample_rate.is_none())
    }

    /// How it goes, in one line, for `systemctl status`.
    pub(super) fn status_line(&self) -> String {
        let calls = self.calls.borrow();
        let state = if calls.draining { "draining, " } else { "" };
        format!("{state}{} of {} calls", calls.live.len(), self.config().media.max_calls)
    }

    /// Ends the call of this id. `false`: there is none.
    pub(super) fn end_call(&self, call_id: &str) -> bool {
        let calls = self.calls.borrow();
        let Some((&seq, live)) = calls.live.iter().find(|(_, live)| live.call_id == call_id) else { return false };
        if let Some(media) = self.media.borrow().get(live.media).cloned() {
            // Where the thread is gone the call is too.
            spawn_local(async move { media.send(Order::End { seq, reason: EndReason::Operator }).await.is_ok() });
        }
        true
    }

    /// Whether a media thread does not keep up with the calls it has.
    pub(super) fn is_overloaded(&self) -> bool {
        self.vitals.iter().any(|(_, vitals)| vitals.is_overloaded())
    }

    /// A trunk answered, or did not.
    pub(super) fn on_news(self: &Rc<Self>, news: News) {
        let News { seq, trunk, at_ms, result } = news;
        {
            let last = &mut self.trunks.borrow_mut()[trunk];
            let is_unreachable = result.as_ref().is_err_and(|unanswered| unanswered.is_unreachable);
            last.unreachable_until = is_unreachable.then(|| clock::now() + UNREACHABLE);
            match &result {
                Ok(handshake) => last.handshake = Some((at_ms, *handshake)),
                Err(unanswered) => last.refusal = Some((at_ms, unanswered.words.clone())),
            }
        }
        let taken = if let (Ok(handshake), Some(live)) = (result, self.calls.borrow_mut().live.get_mut(&seq)) {
            let first = live.trunk.replace((trunk, handshake)).is_none();
            live.redial.answered = Some(clock::now());
            if !first {
                return;
            }
            self.metrics.add_setup(clock::now().saturating_sub(live.since));
            Some(live.line)
        } else {
            None
        };
        if let Some(sound) = taken.and_then(|line| self.sound_line_of(line)) {
            sound.on_bridged(self, seq);
        }
    }

    /// No more calls are taken.
    pub(super) fn begin_draining(&self) {
        self.calls.borrow_mut().draining = true;
        self.sound.borrow().values().for_each(|line| line.drain());
    }

    /// The sound line at this place of the config, if it is one.
    pub(super) fn sound_line_of(&self, line: usize) -> Option<Rc<SoundLine>> {
        self.sound.borrow().get(&line).cloned()
    }

    /// Whether one more call may come.
    pub(super) fn has_seat(&self) -> bool {
        let Some(why) = self.why_full() else { return true };
        self.metrics.add(Counter::CallsRefused, 1);
        let mut calls = self.calls.borrow_mut();
        if let Some(refused) = calls.refused.count(clock::now()) {
            let (live, max_calls) = (calls.live.len(), self.config().media.max_calls);
            warn!(message_id = messages::CALLS_REFUSED, refused, live, max_calls, why; "calls are refused");
        }
        false
    }

    /// Why no more calls may come, if so.
    pub(super) fn why_full(&self) -> Option<&'static str> {
        let calls = self.calls.borrow();
        let max_calls = self.config().media.max_calls;
        let calling: usize = self.sip.borrow().values().map(|line| line.calling()).sum();
        if calls.draining {
            Some("the daemon is going down")
        } else if calls.live.len() + calling >= max_calls || calls.arriving >= max_calls + MOST_ARRIVING {
            Some("all seats are taken; see max-calls")
        } else if self.is_overloaded() {
            Some("frames leave late: the machine does not keep up with the calls it has")
        } else {
            None
        }
    }

    /// Tells the doors of websocket lines how it is, if that has changed.
    pub(super) fn tell_doors(&self) {
        let house = House {
            accepting: self.why_full().is_none(),
            draining: self.calls.borrow().draining,
            healthy: self.problems().is_empty(),
            pubsub: self.sinks.as_ref().and_then(Sinks::redis_works),
        };
        self.house.send_if_modified(|told| core::mem::replace(told, house) != house);
    }

    /// Somebody who may not connect did.
    pub(super) fn on_outsider(&self, line: usize, peer: SocketAddr) {
        if let Some(connections) = self.calls.borrow_mut().outsiders.count(clock::now()) {
            warn!(
                message_id = messages::OUTSIDER, line = self.config().lines[line].name, peer:%, connections;
                "a connection from outside `allow` was closed"
            );
        }
    }

    /// A socket came on Telnyx's path with a call that nobody asked for.
    pub(super) fn on_stranger(&self, arrival: &door::Arrival) {
        let door::Arrival { line, peer, facts, .. } = arrival;
        if let Some(connections) = self.calls.borrow_mut().strangers.count(clock::now()) {
            warn!(
                message_id = messages::VENDOR_REFUSED, line = self.config().lines[*line].name, peer:%,
                call_control_id = facts.call_sid.as_str(), connections;
                "a connection did not become a call: no webhook of Telnyx told of that call; a stream that somebody \
                 else asks for needs another path than stream-path"
            );
        }
    }

    pub(super) fn on_ended(self: &Rc<Self>, outcome: Outcome) {
        let (seq, reason) = (outcome.seq, outcome.reason);
        let sound = self.calls.borrow().live.get(&seq).and_then(|live| self.sound_line_of(live.line));
        self.put_on_record(outcome);
        // Its next call may begin at once.
        if let Some(sound) = sound {
            sound.on_ended(self, seq, reason);
        }
    }

    fn put_on_record(self: &Rc<Self>, mut outcome: Outcome) {
        let Some(live) = self.calls.borrow_mut().live.remove(&outcome.seq) else { return };
        if let (Some(telnyx), Some(id)) = (&self.telnyx, &live.telnyx_call)
            && !matches!(outcome.reason, EndReason::LineHungUp | EndReason::Abandoned)
        {
            // On the socket there is no word for it: closing it only ends the stream, and the caller would hear silence.
            telnyx.hangup(id);
            if telnyx.hangs_up() && outcome.reason == EndReason::HandedBack {
                outcome.reason = EndReason::TrunkHungUp;
            }
        }
        let sip = self.sip_line_of(live.line);
        let refused_by = sip.and_then(|sip| sip.on_call_over(self, outcome.seq, outcome.reason));
        self.metrics.call_ended(outcome.reason);
        self.tell_doors();
        let config = self.config();
        let taken = live.trunk.map(|(index, Handshake { cipher, stages, .. })| {
            let config::Trunk { name, dialect, .. } = &config.trunks[index];
            Taken { trunk: name, dialect, cipher, stages }
        });
        let lasted = outcome.ended.saturating_sub(live.since);
        let (records, notes) = (self.records.borrow(), self.notes.borrow());
        if records.is_some() || notes.is_some() {
            let ending = Ending { ended_ms: clock::epoch_ms(), lasted, outcome: &outcome, taken, refused_by };
            let record = Record::of(live.started, &ending);
            records.iter().for_each(|records| records.ended(&record));
            notes.iter().for_each(|notes| notes.ended(outcome.seq, &record));
        }
        let Outcome { reason, figures, ref words, .. } = outcome;
        let (trunk, dialect) = taken.map_or(("none", "none"), |taken| (taken.trunk, taken.dialect));
        let line = config.lines[live.line].name.as_str();
        let (up, down, heard) = (figures.uplink, figures.downlink, figures.trunk);
        let (times, clears, marks) = (figures.times, figures.clears, figures.marks);
        // What never happened is shown as -1, so that the field is a number in every line.
        let ms = |from: Option<Now>| from.map_or(-1, |at| at.saturating_sub(times.started).as_millis() as i64);
        let seconds = lasted.as_millis() as f64 / 1000.0;
        let rtp = figures.rtp;
        let rtp_count = |of: fn(&session::Tally) -> u64| rtp.as_ref().map_or(-1, |rtp| of(rtp).cast_signed());
        let rtp_ms = |at: Option<Now>| at.map_or(-1.0, |at| (at.as_micros() as f64 / 100.0).round() / 10.0);
        info!(
            message_id = messages::CALL_ENDED, call_id = live.call_id, line, trunk, dialect, end_reason:% = reason,
            ended_by = EndedBy::of(reason, outcome.trunk_violated).as_str(), direction = outcome.direction.as_str(),
            codec = outcome.codec.unwrap_or("none"), rate = outcome.rate.hz(),
            seconds, bridged_ms = ms(times.bridged), first_heard_ms = ms(times.first_heard),
            frames_up = up.frames, frames_down = down.frames, samples_up = up.samples, samples_heard = down.heard,
            dropped = up.dropped, underruns = down.underruns, late = down.late, missed = down.missed,
            flushed = down.flushed, repaid = down.repaid, clears, marks, digits = up.digits,
            messages_in = heard.messages_in, messages_out = heard.messages_out, malformed = heard.malformed,
            unknown = heard.unknown, skipped = heard.skipped, contradicted = heard.contradicted,
            clamped = heard.clamped,
            lost = rtp_count(|rtp| rtp.lost), concealed = rtp_count(|rtp| rtp.concealed),
            jitter_ms = rtp_ms(rtp.map(|rtp| rtp.jitter)), round_trip_ms = rtp_ms(rtp.and_then(|rtp| rtp.round_trip)),
            packets = rtp_count(|rtp| rtp.packets), late_packets = rtp_count(|rtp| rtp.late),
            foreign = rtp_count(|rtp| rtp.foreign), bad_packets = rtp_count(|rtp| rtp.bad),
            remote_loss_percent = rtp_count(|rtp| u64::from(rtp.remote_worst_fraction) * 100 / 256),
            samples_in = heard.samples_in, held_ms = figures.wishes.held.as_millis() as u64,
            caller_ms = outcome.turns.map_or(-1, |turns| turns.caller_spoke.as_millis() as i64),
            turns = outcome.turns.map_or(-1, |turns| i64::from(turns.count)),
            // Last: a peer's own words may look like fields, where there are none but in this text.
            words = words.as_deref().unwrap_or("");
            "call ended"
        );
        if let Some(malformed) = heard.first_malformed {
            warn!(
                message_id = messages::MALFORMED, call_id = live.call_id, leg = "trunk", trunk, count = heard.malformed;
                "messages of the trunk were dropped: {malformed}"
            );
        }
        if matches!(&config.lines[live.line].kind, config::LineKind::Pipe(pipe) if pipe.is_one_call()) {
            let good = matches!(
                reason,
                EndReason::LineHungUp | EndReason::TrunkHungUp | EndReason::HandedBack | EndReason::Drained
            );
            self.calls.borrow_mut().pipe_failed |= !good;
        }
        if let Some(writer) = live.writer {
            // It writes what it has and ends with the call, and is joined when the daemon ends.
            let _ = self.writers.send(writer);
        }
    }
}

/// Ids for a call whose platform gave none.
pub(super) fn made_up_facts(account: &str) -> Facts {
    let mut random = [0; 16];
    // The kernel's generator does not fail once the machine has booted.
    let _ = getrandom::fill(&mut random);
    let mut call_id = Text::new();
    for byte in &random[..12] {
        // 32 letters, so that no letter is likelier than another; 12 fit.
        let _ = call_id.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    let four_digits = u16::from_le_bytes([random[12], random[13]]) % 10_000;
    Facts {
        ucid: text(&format!("{}{four_digits:04}", clock::epoch_ms())),
        stream_sid: call_id.clone(),
        account: text(account),
        call_id,
        ..Facts::default()
    }
}

/// A short text, cut where it is not.
pub(super) fn text(long: &str) -> Text {
    let mut text = Text::new();
    for character in long.chars() {
        if text.push(character).is_err() {
            break;
        }
    }
    text
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Connections that may be about to name their calls, beside as many as there are seats.
const MOST_ARRIVING: usize = 64;
/// A trunk that was not there is worth another try after so long. Until then a SIP line without another one says so at
/// once, and its PBX goes elsewhere.
const UNREACHABLE: Now = Now::from_secs(20);

impl Redial {
    /// It is to be dialled again: after so long. 0, 1, 2, 4 and then every 8 s, until a connection has held.
    fn wait(&mut self, now: Now) -> Duration {
        if self.answered.take().is_some_and(|at| now.saturating_sub(at) >= HELD) {
            self.tries = 0;
        }
        let wait = self.tries.checked_sub(1).map_or(Duration::ZERO, |more| Duration::from_secs(1 << more.min(3)));
        self.tries += 1;
        wait
    }
}

/// A trunk that takes the connection and loses it sooner is as good as one that does not answer.
const HELD: Now = Now::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunk_that_answers_and_is_lost_at_once_is_dialled_ever_more_seldom() {
        let mut redial =
            Redial { facts: Box::default(), line_rate: Rate::Hz8000, tries: 0, answered: None, dialing: None };
        let mut now = Now::from_secs(100);
        let mut lost_after = |seconds: u64| {
            redial.answered = Some(now);
            now += Now::from_secs(seconds);
            redial.wait(now).as_secs()
        };
        assert_eq!([300, 0, 1, 0, 0, 0].map(&mut lost_after), [0, 1, 2, 4, 8, 8]);
        assert_eq!([60, 0].map(lost_after), [0, 1]);
    }

    #[test]
    fn what_happens_often_is_told_once_a_minute_with_how_often_it_was() {
        let mut told = Told::default();
        let at = Now::from_secs;
        assert_eq!(told.count(at(5)), Some(1));
        assert_eq!([6, 7, 64].map(|second| told.count(at(second))), [None; 3]);
        assert_eq!(told.count(at(65)), Some(4));
    }

    #[test]
    fn made_up_ids_have_their_shape_and_differ() {
        let (first, second) = (made_up_facts("office"), made_up_facts("office"));
        assert_eq!(first.call_id.len(), 12);
        assert!(first.call_id.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(first.call_id, second.call_id);
        assert_eq!(first.ucid.len(), 17);
        assert!(first.ucid.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!((first.stream_sid.as_str(), first.account.as_str()), (first.call_id.as_str(), "office"));
    }
}
