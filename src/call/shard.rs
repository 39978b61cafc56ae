//! A media thread: one current-thread runtime, one tick, and the calls that are its own.
//!
//! Uplink is forwarded by whichever task read it; playout happens on the tick. Nothing here resolves a name, shakes a
//! hand, touches a disk, logs, or waits for another thread. What is to be told goes into a bounded queue; full is counted.
//!
//! ```text
//!   mailbox (control, dial) --+
//!   line sockets  ------------+--> Shard { pool, calls } --> trunk sockets
//!   trunk sockets ------------+                          --> line sockets (on the tick)
//!   timerfd, 10 ms -----------+
//! ```

use std::{
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf, unix::AsyncFd},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{mpsc, oneshot},
    task::{LocalSet, spawn_local},
};

use crate::{
    call::{
        Bridge, EndReason,
        attention::BargeIn,
        bridge::{Limits, Times},
        counting,
        ends::{LineIo, Taking, WebsocketIo, send},
        gauges::Gauges,
        outcome::{Figures, LineTally, Outcome, TurnFigures},
        rtp_io::{NewRtp, RtpIo, Silent},
        state::{Event, State},
        tap::{Note, Sound, Tap},
        vitals::{Punctuality, Vitals},
        websocket_line::LineSetup,
    },
    clock,
    control::metrics::{Counter, Metrics},
    dialect::{Dialect, Direction, Facts, Transfer, Wish},
    leg::{
        audiosocket::{
            format::Verdict,
            line::{self, Input},
        },
        pipe,
        rtp::session,
        sip::sdp::Media,
        websocket::{
            leg::{Flow, Leg, Over, Setup},
            link::{Link, LinkError},
            tls,
            wire::Side,
        },
    },
    media::{
        Now, Rate,
        clock::{PTIME_MS, TICK},
        codec::Codec,
        frame::MAX_SAMPLES,
        playout::Tick,
        pool::{BLOCK, Link as BlockLink, Pool},
    },
    telnyx::Step,
    ticker::Ticker,
};

/// What a media thread is told.
pub enum Order {
    /// A line is up: take the call.
    Call(Box<NewCall>),
    /// The dial thread is done with this call.
    Trunk {
        /// Which call.
        seq: u64,
        /// The trunk, or why there is none.
        result: Result<Box<Answered>, EndReason>,
    },
    /// End this call for this reason.
    End {
        /// Which call.
        seq: u64,
        /// What its record says.
        reason: EndReason,
    },
    /// Something happened to the line of this call that its signalling tells.
    Line {
        /// Which call.
        seq: u64,
        /// What.
        what: LineOrder,
    },
    /// End every call for this reason.
    EndAll(EndReason),
}

/// What the signalling of a line tells the media thread that has its audio.
#[derive(Clone, Debug)]
pub enum LineOrder {
    /// How the audio goes from now on.
    Media {
        /// How.
        media: Box<Media>,
        /// The caller is there; before, the phone still rings.
        up: bool,
    },
    /// A key was pressed.
    Digit(u8),
    /// A key is to be pressed: in RTP, where the peer takes that there.
    Press(u8),
    /// The caller is to be passed on to this URI, once what the agent has said was heard.
    PassOn(String),
    /// How that came on.
    Transfer(Transfer),
    /// It is over.
    Ended {
        /// Why.
        reason: EndReason,
        /// The same in the peer's words, where they say more.
        words: Option<String>,
    },
}

/// A call whose line is up.
pub struct NewCall {
    /// Its number in this process.
    pub seq: u64,
    /// Who and what it is.
    pub facts: Facts,
    /// Its line.
    pub line: NewLine,
    /// How long the trunks may take to answer, all together.
    pub give_up_after: Now,
    /// Dropped when the call ends before a trunk has answered.
    pub dialing: oneshot::Sender<()>,
    /// Where it shows itself.
    pub gauges: Arc<Gauges>,
    /// There is no trunk for it, and none is dialled.
    pub trunkless: bool,
    /// What of it goes into the tap.
    pub listen: Listen,
    /// What is done when the caller speaks while the agent does.
    pub barge_in: BargeIn,
    /// Whether the log is told of the first audio on each leg.
    pub tell_steps: bool,
}

/// What a media thread wants of the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Tell the phone of this call that it is answered: a trunk has it.
    Answer {
        /// Which call.
        seq: u64,
    },
    /// The agent asks for something beside audio.
    Wish {
        /// In which call.
        seq: u64,
        /// For what.
        wish: Wish,
    },
    /// The agent has been heard to the end: now pass the caller on.
    PassOn {
        /// Which call.
        seq: u64,
        /// To whom.
        uri: String,
    },
    /// The line of this call is done with: its phone is to hang up, and does not wait for the trunk's goodbye.
    HangUp {
        /// Which call.
        seq: u64,
        /// Why.
        reason: EndReason,
    },
    /// Another connection to this call's trunk.
    Redial {
        /// Which call.
        seq: u64,
    },
    /// Tell the log of this step of a call at Telnyx.
    Step {
        /// Which call.
        seq: u64,
        /// Which step.
        step: Step,
    },
}

/// Who listens to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// Nobody.
    #[default]
    No,
    /// Who wants to know what happens.
    Notes,
    /// Who also wants to hear it.
    Sound,
}

/// A line that is up.
pub enum NewLine {
    /// A PBX.
    Audiosocket {
        /// Its connection.
        stream: std::net::TcpStream,
        /// Its messages, the first of which was read.
        line: Box<line::Line>,
    },
    /// A pipe or file.
    Pipe(pipe::Ends),
    /// A vendor's WebSocket.
    Websocket(Box<NewWebsocket>),
    /// The audio of a SIP call, whose phone still rings.
    Rtp(Box<NewRtp>),
}

/// A vendor's WebSocket that is up.
pub struct NewWebsocket {
    /// Its connection, nonblocking.
    pub stream: std::net::TcpStream,
    /// Its TLS session, and all that the vendor has said so far.
    pub link: Link,
    /// Its grammar, which has read nothing yet.
    pub dialect: Box<dyn Dialect>,
    /// Who opened it: [`Side::Server`] where the vendor connected to us.
    pub side: Side,
    /// The rate that it has once its start is read.
    pub rate: Rate,
    /// What the config says about it.
    pub setup: LineSetup,
}

/// A trunk that took the call.
pub struct Answered {
    /// Its connection, nonblocking.
    pub stream: std::net::TcpStream,
    /// Its TLS session, and what was read ahead.
    pub link: Link,
    /// Its grammar.
    pub dialect: Box<dyn Dialect>,
}

/// What a media thread is made of.
pub struct ShardSetup {
    /// Blocks of its pool.
    pub blocks: usize,
    /// Calls that it may have, and the blocks that are kept for each.
    pub seats: usize,
    /// See [`seats`](Self::seats).
    pub seat: usize,
    /// Told when the thread is ready for calls.
    pub ready: oneshot::Sender<()>,
    /// What the config says about every call.
    pub limits: Limits,
    /// Where it is told things.
    pub orders: mpsc::Receiver<Order>,
    /// Where it tells what became of calls.
    pub reports: mpsc::Sender<Box<Outcome>>,
    /// Where it asks for what only others can do.
    pub asks: mpsc::Sender<Ask>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Where it shows that it lives and keeps up.
    pub vitals: Arc<Vitals>,
    /// Where calls tell what happens in them; `None`: nobody wants to know.
    pub tap: Option<Tap>,
}

/// Runs a media thread until its mailbox closes and its last call is over.
///
/// # Errors
/// When the runtime or the timer cannot be made.
pub fn run(setup: ShardSetup) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let metrics = Arc::clone(&setup.metrics);
    let main = local.run_until(async move {
        #[expect(deprecated, reason = "its successor is unsafe; a Ticker owns its descriptor for as long as it lives")]
        let ticker = AsyncFd::new(Ticker::new()?)?;
        let samples = vec![0; setup.blocks * BLOCK].leak();
        let pool = Pool::new(samples, vec![BlockLink::FREE; setup.blocks].leak(), setup.seats, setup.seat);
        let shard = Rc::new(RefCell::new(Shard {
            pool,
            limits: setup.limits,
            calls: Vec::new(),
            ticks: 0,
            ticker,
            scratch: vec![0; SCRATCH].into(),
            reports: setup.reports,
            asks: setup.asks,
            metrics: setup.metrics,
            vitals: Arc::clone(&setup.vitals),
            tap: setup.tap,
            punctuality: Punctuality::default(),
            last_tick: Now::ZERO,
            pool_told: 0,
            waker: None,
            leaving: 0,
        }));
        let playout = spawn_local(play(Rc::clone(&shard)));
        let watched = Rc::clone(&shard);
        let pulse = spawn_local(async move {
            setup.vitals.answer(|| watched.borrow().is_served(clock::now())).await;
        });
        let mut orders = setup.orders;
        // Nobody waits for it only when the daemon is already on its way out.
        let _ = setup.ready.send(());
        while let Some(order) = orders.recv().await {
            counting::apart(|| handle_order(&shard, order));
        }
        core::future::poll_fn(|context| {
            let mut shard = shard.borrow_mut();
            shard.waker = Some(context.waker().clone());
            if shard.is_idle() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        playout.abort();
        pulse.abort();
        Ok(())
    });
    runtime.block_on(counting::Counted::new(main, metrics))
}

struct Shard {
    pool: Pool,
    limits: Limits,
    calls: Vec<Option<Call>>,
    /// Ticks since the timer was armed.
    ticks: u64,
    ticker: AsyncFd<Ticker>,
    /// Where bytes are read to before they go to a leg; shared by all calls.
    scratch: Box<[u8]>,
    reports: mpsc::Sender<Box<Outcome>>,
    asks: mpsc::Sender<Ask>,
    metrics: Arc<Metrics>,
    vitals: Arc<Vitals>,
    tap: Option<Tap>,
    punctuality: Punctuality,
    last_tick: Now,
    pool_told: usize,
    /// Waits for the last call to end and the last connection to be left.
    waker: Option<Waker>,
    /// Connections that are read until their peer closes them.
    leaving: usize,
}

/// What a call may use of its thread's.
struct Tools<'t> {
    /// Where bytes are read to before they go to a leg.
    scratch: &'t mut [u8],
    /// Where it tells what happens.
    tap: &'t mut Option<Tap>,
}

struct Call {
    seq: u64,
    /// The tick of the thread at which it came.
    since_tick: u64,
    bridge: Bridge,
    line: LineIo,
    trunk: Option<WebsocketIo>,
    /// How many connections the trunk had: what belongs to an earlier one is no business of the call's any more.
    trunks: u32,
    /// A connection that waits to take the trunk's place.
    next_trunk: Option<Box<Answered>>,
    facts: Facts,
    dialing: Option<oneshot::Sender<()>>,
    /// The reading tasks of both legs, to be told when the call is over.
    readers: [Option<Waker>; 2],
    /// The figures that the metrics know.
    told: Figures,
    line_tally: LineTally,
    /// What RTP was like, once it is over.
    rtp_tally: Option<session::Tally>,
    codec: Option<&'static str>,
    gauges: Arc<Gauges>,
    /// Steps that were told; [`STEPS`] of them are all.
    steps_told: usize,
    words: Option<String>,
    /// Where the caller goes once the agent has been heard.
    pass_on: Option<String>,
}

/// Plays one frame of every call on every second tick.
async fn play(shard: Rc<RefCell<Shard>>) {
    core::future::poll_fn(|context| -> Poll<()> {
        loop {
            let this = Rc::clone(&shard);
            let mut shard = shard.borrow_mut();
            let expired = match shard.ticker.poll_read_ready(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(mut guard)) => match guard.try_io(|ticker| ticker.get_ref().expirations()) {
                    Ok(Ok(expired)) => expired,
                    // Nothing to read after all; the guard has noted it.
                    Ok(Err(_)) | Err(_) => continue,
                },
            };
            shard.tick(expired);
            let now = shard.last_tick;
            while let Some(slot) = shard.next_change(now) {
                counting::apart(|| change_trunk(&this, &mut shard, slot, now));
            }
        }
    })
    .await;
}

impl Shard {
    fn tick(&mut self, expired: u64) {
        let now = clock::now();
        self.last_tick = now;
        let before = self.ticks;
        self.ticks += expired;
        let armed = self.ticker.get_ref().armed_at();
        for slot in 0..self.calls.len() {
            // Calls take turns: this one's ticks are those of its slot's parity.
            let Some(Some(call)) = self.calls.get(slot) else { continue };
            let parity = slot as u64 % 2;
            let own = |ticks: u64| (ticks + parity) / 2;
            // What the thread missed before the call came is not the call's.
            let before = before.max(call.since_tick);
            let due = own(self.ticks).saturating_sub(own(before));
            if due == 0 {
                continue;
            }
            let first = (own(before) + 1) * 2 - parity;
            let late = now.saturating_sub(armed + TICK * u32::try_from(first).unwrap_or(u32::MAX));
            let tick = Tick { now, late, missed: due as usize - 1 };
            if call.bridge.state().has_line() {
                self.punctuality.on_frame(late, tick.missed);
            }
            self.with_slot(slot, |call, pool, tools| call.on_tick(tick, pool, tools));
            self.settle(slot, now);
        }
        if self.ticks / TICKS_A_SECOND != before / TICKS_A_SECOND {
            self.tell_metrics();
        }
    }

    /// The next call whose trunk's place another connection may take now.
    fn next_change(&self, now: Now) -> Option<usize> {
        let is_ready = |call: &Call| call.next_trunk.is_some() && call.bridge.is_ready_to_change(now);
        self.calls.iter().position(|call| call.as_ref().is_some_and(is_ready))
    }

    /// Runs something of one call; a panic ends that call and no other.
    fn with_slot(&mut self, slot: usize, work: impl FnOnce(&mut Call, &mut Pool, Tools<'_>)) {
        let Some(Some(call)) = self.calls.get_mut(slot) else { return };
        let tools = Tools { scratch: &mut self.scratch, tap: &mut self.tap };
        let pool = &mut self.pool;
        if catch_unwind(AssertUnwindSafe(|| work(&mut *call, pool, tools))).is_err() {
            call.bridge.handle_bug();
        }
    }

    fn end(&mut self, slot: usize, reason: EndReason, now: Now) {
        self.with_slot(slot, |call, pool, _| {
            call.bridge.handle_event(now, Event::Ordered(reason), pool);
            call.flush(now, pool);
        });
        self.settle(slot, now);
    }

    fn slot_of(&self, seq: u64) -> Option<usize> {
        self.calls.iter().position(|call| call.as_ref().is_some_and(|call| call.seq == seq))
    }

    /// Carries out what a call's state asks for: gives the line back, removes the call when it is over.
    fn settle(&mut self, slot: usize, now: Now) {
        let Some(Some(call)) = self.calls.get(slot) else { return };
        let (seq, rate, codec) = (call.seq, call.bridge.line_rate(), call.codec);
        let mut told = None;
        if catch_unwind(AssertUnwindSafe(|| self.carry_out(slot, now, &mut told))).is_err() {
            // What it held of the pool stays lost: it is in disorder, and the others go on.
            let figures = self.calls[slot].take().map(|call| call.told).or(told).unwrap_or_default();
            self.report(Outcome { figures, rate, codec, ..Outcome::stillborn(seq, EndReason::Bug, now) });
            self.on_call_gone();
        }
    }

    /// A call is gone; it may have been the last.
    fn on_call_gone(&mut self) {
        if self.calls.iter().all(Option::is_none) {
            self.ticker.get_ref().disarm();
            // Nobody is kept waiting any more.
            self.punctuality = Punctuality::default();
            self.vitals.set_overloaded(false);
        }
        self.wake_if_idle();
    }

    /// Of a call that is taken away, `told` gets what was told of it last: this comes too often to copy it before.
    fn carry_out(&mut self, slot: usize, now: Now, told: &mut Option<Figures>) {
        let Some(Some(call)) = self.calls.get_mut(slot) else { return };
        if let Some(tap) = &mut self.tap {
            while let Some(what) = call.bridge.poll_note() {
                tap.note(Note { seq: call.seq, at_ms: clock::epoch_ms(), what });
            }
        }
        // A control thread that is behind by so many is asked again on the next tick.
        if call.bridge.poll_redial() && self.asks.try_send(Ask::Redial { seq: call.seq }).is_err() {
            call.bridge.handle_redial_failed(now, EndReason::TrunkLost, &mut self.pool);
        }
        if let LineIo::Rtp(io) = &mut call.line
            && io.owes_answer
            && call.bridge.state().has_line()
        {
            // A control thread that is behind by so many is asked again on the next tick.
            io.owes_answer = self.asks.try_send(Ask::Answer { seq: call.seq }).is_err();
        }
        while let Some(wish) = call.bridge.poll_wish() {
            // One that is not passed on is missed; the agent is told of a transfer that did not come about.
            let is_transfer = matches!(wish, Wish::Transfer(_));
            if self.asks.try_send(Ask::Wish { seq: call.seq, wish }).is_err() && is_transfer {
                call.bridge.handle_transfer(now, Transfer::Failed { status: 503 });
            }
        }
        // An agent may ask for it while its phone still rings.
        if call.pass_on.is_some()
            && matches!(&call.line, LineIo::Rtp(io) if io.is_up())
            && call.bridge.poll_spoken(now)
            && let Some(uri) = call.pass_on.take()
            && self.asks.try_send(Ask::PassOn { seq: call.seq, uri }).is_err()
        {
            call.bridge.handle_transfer(now, Transfer::Failed { status: 503 });
        }
        while let Some(step) = call.poll_step() {
            // A step that is not told is missing in a log, no more.
            let _ = self.asks.try_send(Ask::Step { seq: call.seq, step });
        }
        let state = call.bridge.state();
        if !state.has_line() {
            if let State::Closing { reason, .. } = state
                && let LineIo::Rtp(_) = call.line
            {
                // Where the control thread is behind by so many, the call's outcome tells it.
                let _ = self.asks.try_send(Ask::HangUp { seq: call.seq, reason });
            }
            call.give_line_back(now);
        }
        let State::Ended(reason) = state else { return };
        if reason != EndReason::Bug && !call.bridge.is_line_done(now) {
            return;
        }
        counting::apart(|| {
            let Some(mut call) = self.calls[slot].take() else { return };
            *told = Some(call.told);
            if reason != EndReason::Bug {
                call.flush(now, &mut self.pool);
            }
            if let Some(trunk) = &mut call.trunk {
                trunk.close();
            }
            if let LineIo::Websocket(line) = &mut call.line {
                line.close();
            }
            for reader in &mut call.readers {
                if let Some(reader) = reader.take() {
                    reader.wake();
                }
            }
            call.bridge.release(&mut self.pool);
            let figures = call.figures();
            self.metrics.add_growth(&call.told, &figures);
            let outcome = Outcome {
                seq: call.seq,
                reason: call.bridge.reason_of(reason),
                ended: now,
                figures,
                rate: call.bridge.line_rate(),
                turns: Some(TurnFigures::of(call.bridge.turns())),
                line_dialect: call.bridge.line_mut().map(|leg| leg.dialect().name()),
                direction: call.bridge.direction(),
                trunk_violated: call.bridge.has_trunk_violated(),
                codec: call.codec,
                words: call.words.take().or_else(|| words_of(&call.bridge)),
            };
            self.report(outcome);
            self.on_call_gone();
        });
    }

    /// Whether live calls get their ticks.
    fn is_served(&self, now: Now) -> bool {
        let since = self.last_tick.max(self.ticker.get_ref().armed_at());
        self.calls.iter().all(Option::is_none) || now.saturating_sub(since) < TICKS_MISSING
    }

    fn is_idle(&self) -> bool {
        self.leaving == 0 && self.calls.iter().all(Option::is_none)
    }

    fn wake_if_idle(&mut self) {
        if self.is_idle()
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    fn report(&self, outcome: Outcome) {
        if self.reports.try_send(Box::new(outcome)).is_err() {
            self.metrics.add(Counter::ReportsLost, 1);
        }
    }

    fn tell_metrics(&mut self) {
        for call in self.calls.iter_mut().flatten() {
            let figures = call.figures();
            self.metrics.add_growth(&call.told, &figures);
            call.told = figures.counted_after(&call.told);
        }
        for slot in 0..self.calls.len() {
            self.with_slot(slot, |call, _, _| call.gauges.set(&mut call.bridge, call.told.rtp.as_ref()));
        }
        self.vitals.set_overloaded(self.punctuality.turn());
        let high = self.pool.high_water();
        self.metrics.add_pool(((high - self.pool_told) * BLOCK * 2) as u64);
        self.pool_told = high;
    }
}

fn handle_order(shard: &Rc<RefCell<Shard>>, order: Order) {
    let now = clock::now();
    match order {
        Order::Call(new) => take_call(shard, *new, now),
        Order::Trunk { seq, result } => {
            let Some(slot) = shard.borrow().slot_of(seq) else { return };
            let answered = match result {
                Ok(answered) => answered,
                Err(reason) => {
                    let mut shard = shard.borrow_mut();
                    shard.with_slot(slot, |call, pool, _| {
                        if call.bridge.is_redialing() {
                            call.bridge.handle_redial_failed(now, reason, pool);
                        } else if call.trunks == 0 {
                            call.bridge.handle_event(now, Event::TrunkEnded(reason), pool);
                        }
                        // Else it is late: the trunk that the call has is another one.
                        call.flush(now, pool);
                    });
                    return shard.settle(slot, now);
                }
            };
            let mut this = shard.borrow_mut();
            if let Some(Some(call)) = this.calls.get_mut(slot)
                && call.trunks > 0
            {
                // A redial that is not wanted any more closes with this answer.
                call.next_trunk = call.bridge.is_redialing().then_some(answered);
                return;
            }
            drop(this);
            if let Err(error) = take_trunk(shard, slot, *answered, now) {
                let mut shard = shard.borrow_mut();
                shard.with_slot(slot, |call, pool, _| call.on_websocket_error(TRUNK, now, &error, pool));
                shard.settle(slot, now);
            }
        }
        Order::End { seq, reason } => {
            let mut shard = shard.borrow_mut();
            let Some(slot) = shard.slot_of(seq) else { return };
            shard.end(slot, reason, now);
        }
        Order::Line { seq, what } => {
            let mut shard = shard.borrow_mut();
            let Some(slot) = shard.slot_of(seq) else { return };
            shard.with_slot(slot, |call, pool, _| call.on_line_order(now, what, pool));
            shard.settle(slot, now);
        }
        Order::EndAll(reason) => {
            let mut shard = shard.borrow_mut();
            for slot in 0..shard.calls.len() {
                shard.end(slot, reason, now);
            }
        }
    }
}

fn take_call(shard: &Rc<RefCell<Shard>>, new: NewCall, now: Now) {
    let NewCall { seq, facts, line, give_up_after, dialing, gauges, trunkless, listen, barge_in, tell_steps } = new;
    let rate = match &line {
        NewLine::Audiosocket { line, .. } => line.rate(),
        NewLine::Pipe(ends) => ends.rate,
        NewLine::Websocket(new) => new.rate,
        NewLine::Rtp(new) => new.codec.rate(),
    };
    let mut this = shard.borrow_mut();
    let limits = this.limits;
    let bridge = catch_unwind(AssertUnwindSafe(|| Bridge::new(now, now + give_up_after, rate, limits, &mut this.pool)));
    let opened = match bridge {
        Err(_) => Err((EndReason::Bug, Some(line))),
        Ok(Err(_)) => Err((EndReason::Overload, Some(line))),
        Ok(Ok(mut bridge)) => {
            if listen != Listen::No {
                bridge.listen(listen == Listen::Sound);
            }
            if barge_in != BargeIn::Cloud {
                bridge.set_barge_in(barge_in);
            }
            if trunkless {
                bridge.set_trunkless(now);
            }
            match open_line(line, &mut bridge, &facts, now) {
                Ok((io, input)) => Ok((bridge, io, input)),
                Err(_) => {
                    bridge.release(&mut this.pool);
                    Err((EndReason::LineLost, None))
                }
            }
        }
    };
    let (bridge, io, input) = match opened {
        Ok(opened) => opened,
        Err((reason, line)) => {
            match line {
                Some(NewLine::Audiosocket { stream, line }) => turn_away(shard, stream, &line),
                // Its connection closes without a word: the vendor was told that there is room before it was let in.
                // The one who signals is told by the call's outcome.
                Some(NewLine::Websocket(_) | NewLine::Pipe(_) | NewLine::Rtp(_)) | None => {}
            }
            return this.report(Outcome::stillborn(seq, reason, now));
        }
    };
    if this.calls.iter().all(Option::is_none) {
        this.ticks = 0;
        this.ticker.get_ref().arm(now);
    }
    let since_tick = (now.saturating_sub(this.ticker.get_ref().armed_at()).as_nanos() / TICK.as_nanos()) as u64;
    let call = Call {
        seq,
        since_tick,
        bridge,
        trunk: None,
        trunks: 0,
        next_trunk: None,
        facts,
        dialing: Some(dialing),
        readers: [None, None],
        told: Figures::default(),
        line_tally: LineTally::default(),
        rtp_tally: None,
        codec: match &io {
            LineIo::Pipe(_) => Some("pcm"),
            LineIo::Websocket(_) | LineIo::Audiosocket { .. } | LineIo::Rtp(_) | LineIo::Gone => None,
        },
        gauges,
        steps_told: if tell_steps { 0 } else { STEPS.len() },
        line: io,
        words: None,
        pass_on: None,
    };
    let slot = match this.calls.iter().position(Option::is_none) {
        Some(slot) => slot,
        None => {
            this.calls.push(None);
            this.calls.len() - 1
        }
    };
    this.calls[slot] = Some(call);
    if trunkless && let Some(Some(Call { line: LineIo::Rtp(io), .. })) = this.calls.get_mut(slot) {
        io.owes_answer = true;
    }
    // What came with the first message is there already.
    this.with_slot(slot, |call, pool, _| call.on_line_bytes(now, &[], pool));
    this.settle(slot, now);
    match input {
        LineInput::Socket(socket) => spawn_local(read_line(Rc::clone(shard), slot, seq, socket)),
        LineInput::Websocket(socket) => {
            spawn_local(read_websocket(Rc::clone(shard), Reader { slot, seq, side: LINE, trunks: 0 }, socket))
        }
        LineInput::Pipe(input) => spawn_local(read_pipe(Rc::clone(shard), slot, seq, input)),
        LineInput::Rtp => spawn_local(read_rtcp(Rc::clone(shard), slot, seq)),
    };
}

/// There is no room for this call: the caller goes on in the dialplan.
fn turn_away(shard: &Rc<RefCell<Shard>>, stream: std::net::TcpStream, line: &line::Line) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let _ = send(&stream, line.write_hangup(&mut [0; line::MAX_MESSAGE]));
    let (input, _) = stream.into_split();
    let shard = Rc::clone(shard);
    spawn_local(async move { leave(&shard, input).await });
}

enum LineInput {
    Socket(OwnedReadHalf),
    Pipe(pipe::Input),
    Websocket(OwnedReadHalf),
    /// Its sockets are where they are written to.
    Rtp,
}

fn open_line(line: NewLine, bridge: &mut Bridge, facts: &Facts, now: Now) -> io::Result<(LineIo, LineInput)> {
    Ok(match line {
        NewLine::Audiosocket { stream, line } => {
            let (input, socket) = TcpStream::from_std(stream)?.into_split();
            (LineIo::Audiosocket { socket, line, pending: Box::default() }, LineInput::Socket(input))
        }
        NewLine::Pipe(ends) => {
            if ends.direction == Direction::Uplink {
                bridge.set_uplink_only();
            }
            let (input, output) = ends.open()?;
            (LineIo::Pipe(output), LineInput::Pipe(input))
        }
        NewLine::Rtp(new) => (LineIo::Rtp(Box::new(RtpIo::open(*new)?)), LineInput::Rtp),
        NewLine::Websocket(new) => {
            let NewWebsocket { stream, link, dialect, side, rate, setup } = *new;
            let (input, socket) = TcpStream::from_std(stream)?.into_split();
            let facts = facts.clone();
            let epoch_ms = clock::epoch_ms();
            let leg = Leg::new(Setup { side, dialect, facts, rate, now, epoch_ms, ping_every: PING_EVERY });
            bridge.set_line(now, leg, setup);
            (LineIo::Websocket(WebsocketIo::new(socket, link)), LineInput::Websocket(input))
        }
    })
}

fn take_trunk(shard: &Rc<RefCell<Shard>>, slot: usize, answered: Answered, now: Now) -> io::Result<()> {
    let Answered { stream, link, dialect } = answered;
    let (input, socket) = TcpStream::from_std(stream)?.into_split();
    let mut this = shard.borrow_mut();
    let mut seq = 0;
    this.with_slot(slot, |call, pool, _| {
        seq = call.seq;
        call.dialing = None;
        call.trunks = 1;
        let leg = call.new_leg(Side::Client, dialect, now);
        call.trunk = Some(WebsocketIo::new(socket, link));
        call.bridge.handle_trunk_answered(now, leg, pool);
        if let LineIo::Rtp(io) = &mut call.line {
            io.owes_answer = true;
        }
        call.flush(now, pool);
    });
    this.settle(slot, now);
    spawn_local(read_websocket(Rc::clone(shard), Reader { slot, seq, side: TRUNK, trunks: 1 }, input));
    Ok(())
}

/// Another connection takes the place of a call's trunk.
fn change_trunk(shard: &Rc<RefCell<Shard>>, this: &mut Shard, slot: usize, now: Now) {
    let mut reader = None;
    this.with_slot(slot, |call, pool, _| {
        let Some(Answered { stream, link, dialect }) = call.next_trunk.take().map(|answered| *answered) else { return };
        let Ok(stream) = TcpStream::from_std(stream) else {
            return call.bridge.handle_redial_failed(now, EndReason::TrunkLost, pool);
        };
        let (input, socket) = stream.into_split();
        let leg = call.new_leg(Side::Client, dialect, now);
        let old = call.bridge.handle_trunk_changed(now, leg, pool);
        if let (Some(mut io), Some(mut leg)) = (call.trunk.take(), old) {
            // The last word; a socket that does not take it is closed all the same.
            let _ = io.send(&mut leg);
            io.close();
        }
        call.trunks += 1;
        call.trunk = Some(WebsocketIo::new(socket, link));
        if let Some(before) = call.readers[TRUNK].take() {
            before.wake();
        }
        call.flush(now, pool);
        reader = Some((Reader { slot, seq: call.seq, side: TRUNK, trunks: call.trunks }, input));
    });
    this.settle(slot, now);
    if let Some((reader, input)) = reader {
        spawn_local(read_websocket(Rc::clone(shard), reader, input));
    }
}

/// The task that reads one connection, and whose that is.
#[derive(Clone, Copy)]
struct Reader {
    slot: usize,
    seq: u64,
    side: usize,
    /// Of the trunk: which of its connections.
    trunks: u32,
}

/// Reads the line's socket until the call is over, and then until the PBX has closed it.
async fn read_line(shard: Rc<RefCell<Shard>>, slot: usize, seq: u64, mut socket: OwnedReadHalf) {
    let over = core::future::poll_fn(|context| {
        loop {
            let mut shard = shard.borrow_mut();
            if !shard.is_here(slot, seq) {
                return Poll::Ready(false);
            }
            let n = match read(&mut socket, context, &mut shard.scratch) {
                Poll::Pending => return shard.wait(slot, LINE, context),
                Poll::Ready(read) => read,
            };
            let now = clock::now();
            let over = !matches!(n, Ok(1..));
            shard.with_slot(slot, |call, pool, tools| match n {
                Ok(0) => call.on_line_closed(now, pool),
                Ok(n) => call.on_line_bytes(now, &tools.scratch[..n], pool),
                Err(error) => {
                    call.explain(&error);
                    call.bridge.handle_event(now, Event::LineEnded(EndReason::LineLost), pool);
                    call.flush(now, pool);
                }
            });
            shard.settle(slot, now);
            if over {
                return Poll::Ready(true);
            }
        }
    })
    .await;
    if !over {
        leave(&shard, socket).await;
    }
}

/// Reads and forgets until the peer closes, for a moment: a socket that is closed with bytes unread is reset, and a
/// reset can overtake the goodbye that we wrote. The PBX would then drop the caller instead of taking it back.
async fn leave(shard: &Rc<RefCell<Shard>>, mut socket: impl AsyncRead + Unpin) {
    shard.borrow_mut().leaving += 1;
    let mut bytes = [0; 512];
    let rest = async { while matches!(socket.read(&mut bytes).await, Ok(1..)) {} };
    // Late or not, it is closed now.
    let _ = tokio::time::timeout(LEAVE, rest).await;
    let mut shard = shard.borrow_mut();
    shard.leaving -= 1;
    shard.wake_if_idle();
}

/// Takes what a pipe gives until it ends; a socket, until its peer has closed it.
async fn read_pipe(shard: Rc<RefCell<Shard>>, slot: usize, seq: u64, mut input: pipe::Input) {
    let over = core::future::poll_fn(|context| {
        loop {
            let mut shard = shard.borrow_mut();
            if !shard.is_here(slot, seq) {
                return Poll::Ready(false);
            }
            let heard = match input.poll_heard(context) {
                Poll::Pending => return shard.wait(slot, LINE, context),
                Poll::Ready(heard) => heard,
            };
            let now = clock::now();
            let over = !matches!(heard, Ok(pipe::Heard::Piece(_)));
            shard.with_slot(slot, |call, pool, _| call.on_pipe(now, heard, pool));
            shard.settle(slot, now);
            if over {
                return Poll::Ready(true);
            }
        }
    })
    .await;
    if !over && let Some(socket) = input.into_socket() {
        leave(&shard, socket).await;
    }
}

/// Reads the RTCP of a line that is RTP until the call is over. What is heard is read on the tick.
async fn read_rtcp(shard: Rc<RefCell<Shard>>, slot: usize, seq: u64) {
    core::future::poll_fn(|context| {
        loop {
            let mut shard = shard.borrow_mut();
            if !shard.is_here(slot, seq) {
                return Poll::Ready(());
            }
            let now = clock::now();
            let mut read = Poll::Ready(false);
            shard.with_slot(slot, |call, _, tools| read = call.read_rtcp(now, context, tools.scratch));
            match read {
                Poll::Pending => return shard.wait(slot, LINE, context),
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Ready(true) => {}
            }
        }
    })
    .await;
}

/// Reads the WebSocket of a leg until the call is over, and then until its peer has closed it; waits while there is no
/// room for what it says.
async fn read_websocket(shard: Rc<RefCell<Shard>>, reader: Reader, mut socket: OwnedReadHalf) {
    let Reader { slot, side, .. } = reader;
    let over = core::future::poll_fn(|context| {
        loop {
            let mut shard = shard.borrow_mut();
            if !shard.is_reader(reader) {
                return Poll::Ready(false);
            }
            let now = clock::now();
            // What is there already comes first: read ahead, decrypted, or left over from a pause.
            let mut flow = Flow::Hungry;
            shard.with_slot(slot, |call, pool, _| flow = call.on_plaintext(side, now, pool));
            shard.settle(slot, now);
            if !shard.is_reader(reader) {
                // That was its goodbye. Its close comes behind it, and is waited for.
                return Poll::Ready(false);
            }
            if flow == Flow::Paused {
                if let Some(Some(call)) = shard.calls.get_mut(slot)
                    && let Some((io, _)) = call.websocket(side)
                {
                    io.paused = true;
                }
                return shard.wait(slot, side, context);
            }
            let mut over = Poll::Ready(false);
            shard.with_slot(slot, |call, pool, tools| {
                over = call.read_websocket(side, now, &mut socket, context, tools.scratch, pool);
            });
            shard.settle(slot, now);
            match over {
                Poll::Pending => return shard.wait(slot, side, context),
                Poll::Ready(true) => return Poll::Ready(true),
                Poll::Ready(false) => {}
            }
        }
    })
    .await;
    if !over {
        leave(&shard, socket).await;
    }
}

/// One read; a short one tells tokio that the socket is empty, and saves the next system call.
fn read(socket: &mut OwnedReadHalf, context: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(space);
    match Pin::new(socket).poll_read(context, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
    }
}

impl Shard {
    fn is_reader(&self, reader: Reader) -> bool {
        let Reader { slot, seq, side, trunks } = reader;
        let Some(Some(call)) = self.calls.get(slot) else { return false };
        let has_it = if side == LINE { matches!(call.line, LineIo::Websocket(_)) } else { call.trunks == trunks };
        call.seq == seq && has_it
    }

    fn is_here(&self, slot: usize, seq: u64) -> bool {
        matches!(self.calls.get(slot), Some(Some(call)) if call.seq == seq)
    }

    /// Leaves word where a reading task is, so that it hears of the call's end.
    fn wait<T>(&mut self, slot: usize, leg: usize, context: &Context<'_>) -> Poll<T> {
        match self.calls.get_mut(slot) {
            Some(Some(call)) => match &mut call.readers[leg] {
                Some(reader) => reader.clone_from(context.waker()),
                reader @ None => *reader = Some(context.waker().clone()),
            },
            // It ended just now: look again.
            _ => context.waker().wake_by_ref(),
        }
        Poll::Pending
    }
}

impl Call {
    /// The next step that was made, in order.
    fn poll_step(&mut self) -> Option<Step> {
        let (step, at) = STEPS.get(self.steps_told)?;
        at(&self.bridge.times())?;
        self.steps_told += 1;
        Some(*step)
    }

    /// The leg of a trunk that was just connected.
    fn new_leg(&self, side: Side, dialect: Box<dyn Dialect>, now: Now) -> Leg {
        Leg::new(Setup {
            side,
            dialect,
            facts: self.facts.clone(),
            rate: self.bridge.rate(),
            now,
            epoch_ms: clock::epoch_ms(),
            ping_every: PING_EVERY,
        })
    }

    fn on_tick(&mut self, tick: Tick, pool: &mut Pool, tools: Tools<'_>) {
        if self.bridge.state().has_line() {
            let mut frame = [0; MAX_SAMPLES];
            let frame = &mut frame[..self.bridge.line_rate().frame()];
            let is_websocket = matches!(self.line, LineIo::Websocket(_));
            self.hear_rtp(tick.now, frame, tools.scratch, pool);
            if !is_websocket {
                self.play(tick, frame, pool);
            }
            if let Some(tap) = tools.tap {
                self.overhear(tick, (!is_websocket).then_some(frame), tap);
            }
        }
        for side in [LINE, TRUNK] {
            if let Some((io, _)) = self.websocket(side)
                && core::mem::take(&mut io.paused)
                && let Some(reader) = &self.readers[side]
            {
                reader.wake_by_ref();
            }
        }
        self.bridge.handle_tick(tick.now, pool);
        self.flush(tick.now, pool);
    }

    /// Passes on what was heard at the line since the last tick; ticks that were missed had silence from us.
    fn overhear(&mut self, tick: Tick, frame: Option<&mut [i16]>, tap: &mut Tap) {
        let (seq, at_ms) = (self.seq, clock::epoch_ms());
        for missed in (0..tick.missed).rev() {
            let at_ms = at_ms.saturating_sub((missed as u64 + 1) * PTIME_MS as u64);
            let silence = [0; MAX_SAMPLES];
            let silence = frame.as_ref().map(|frame| &silence[..frame.len()]);
            self.bridge.overhear(silence, |rate, caller, agent| tap.sound(Sound::new(seq, at_ms, rate, caller, agent)));
        }
        self.bridge.overhear(frame.as_deref(), |rate, caller, agent| {
            tap.sound(Sound::new(seq, at_ms, rate, caller, agent));
        });
    }

    /// Fills one frame and writes it to the line.
    fn play(&mut self, tick: Tick, frame: &mut [i16], pool: &mut Pool) {
        if let LineIo::Rtp(io) = &mut self.line {
            io.skip(tick.missed);
        }
        match self.line.is_ready() {
            Ok(Taking::Frame) => {}
            Ok(Taking::NotYet) => return self.bridge.handle_line_blocked(),
            Ok(Taking::Nothing) => {
                if let LineIo::Rtp(io) = &mut self.line {
                    io.rest();
                }
                return frame.fill(0);
            }
            Err(error) => return self.on_line_refused(tick.now, &error, pool),
        }
        let heard = self.bridge.poll_frame(tick, pool, frame);
        match self.line.write(tick.now, frame) {
            Ok(written) => {
                self.line_tally.bytes_out += written as u64;
                self.bridge.handle_frame_written(tick.now, heard, pool);
            }
            Err(error) => self.on_line_refused(tick.now, &error, pool),
        }
    }

    /// The line does not take a frame any more.
    fn on_line_refused(&mut self, now: Now, error: &io::Error, pool: &mut Pool) {
        let reason = self.line.reason_of(error);
        if reason == EndReason::LineLost {
            self.explain(error);
        }
        self.bridge.handle_event(now, Event::LineEnded(reason), pool);
    }

    /// The caller's 20 ms of a line that is RTP, and what is due on it beside the agent's voice.
    fn hear_rtp(&mut self, now: Now, frame: &mut [i16], space: &mut [u8], pool: &mut Pool) {
        let LineIo::Rtp(io) = &mut self.line else { return };
        let masks_dtmf = io.masks_dtmf();
        io.read(now, space, |bytes, input| {
            self.line_tally.bytes_in += bytes as u64;
            if let Some(session::Input::Digit(digit)) = input
                && !masks_dtmf
            {
                self.bridge.handle_digit(now, digit);
            }
        });
        let silent = io.tick(now, frame);
        let heard = io.poll_frame(now, frame);
        if heard {
            self.bridge.handle_line_audio(now, self.bridge.line_rate(), frame, pool);
        }
        if let Some(silent) = silent {
            let words = match silent {
                Silent::TimedOut => "no RTP came any more",
                Silent::HeldTooLong => "the caller was on hold for too long",
            };
            self.explain(&words);
            self.bridge.handle_event(now, Event::LineEnded(EndReason::LineSilent), pool);
        }
    }

    /// Reads one datagram of RTCP. `false`: the line is no longer RTP.
    fn read_rtcp(&mut self, now: Now, context: &mut Context<'_>, space: &mut [u8]) -> Poll<bool> {
        let LineIo::Rtp(io) = &mut self.line else { return Poll::Ready(false) };
        let Poll::Ready(bytes) = io.poll_rtcp(now, context, space) else { return Poll::Pending };
        self.line_tally.bytes_in += bytes as u64;
        Poll::Ready(true)
    }

    /// What the signalling of the line tells.
    fn on_line_order(&mut self, now: Now, what: LineOrder, pool: &mut Pool) {
        let what = match what {
            LineOrder::Transfer(transfer) => {
                self.bridge.handle_transfer(now, transfer);
                return self.flush(now, pool);
            }
            LineOrder::Ended { reason, words } => {
                if let Some(words) = words {
                    self.words.get_or_insert(words);
                }
                self.bridge.handle_event(now, Event::LineEnded(reason), pool);
                return self.flush(now, pool);
            }
            what => what,
        };
        let LineIo::Rtp(io) = &mut self.line else { return };
        match what {
            LineOrder::Media { media, up } => {
                let rate = media.codec.codec.rate();
                if let Some(held) = io.set_media(now, *media, up) {
                    self.bridge.handle_hold(now, held);
                }
                self.codec = io.codec().map(Codec::name);
                self.bridge.handle_line_rate(rate, pool);
            }
            LineOrder::Digit(digit) if !io.masks_dtmf() => self.bridge.handle_digit(now, digit),
            LineOrder::Digit(_) => {}
            LineOrder::Press(digit) => {
                // A dozen more than are ever pressed at once wait there.
                io.press(digit);
            }
            LineOrder::PassOn(uri) => {
                self.pass_on = Some(uri);
                self.bridge.ask_spoken(now);
            }
            // Told above, whatever the line is.
            LineOrder::Transfer(_) | LineOrder::Ended { .. } => {}
        }
        self.flush(now, pool);
    }

    fn on_line_bytes(&mut self, now: Now, mut bytes: &[u8], pool: &mut Pool) {
        self.line_tally.bytes_in += bytes.len() as u64;
        let LineIo::Audiosocket { line, .. } = &mut self.line else { return };
        let mut end = None;
        while end.is_none() {
            let fed = line.feed(bytes);
            bytes = &bytes[fed..];
            let input = match line.poll(now) {
                Ok(Some(input)) => input,
                Ok(None) if bytes.is_empty() => break,
                Ok(None) if fed > 0 => continue,
                // A full buffer without a message cannot be; say so rather than spin.
                Ok(None) => {
                    end = Some(EndReason::Protocol);
                    break;
                }
                Err(violation) => {
                    let words = violation.to_string();
                    self.words.get_or_insert(words);
                    end = Some(EndReason::Protocol);
                    break;
                }
            };
            match input {
                Input::Audio(rate, samples) => self.bridge.handle_line_audio(now, rate, samples, pool),
                Input::Digit(digit) => self.bridge.handle_digit(now, digit),
                Input::Hangup => end = Some(EndReason::LineHungUp),
                Input::Failed(code) => {
                    self.words.get_or_insert_with(|| match code {
                        Some(code) => format!("the PBX says that it failed, with code {code}"),
                        None => "the PBX says that it failed".to_owned(),
                    });
                    end = Some(EndReason::LineLost);
                }
                Input::WrongRate(rate) => {
                    self.words.get_or_insert_with(|| rate.to_string());
                    end = Some(EndReason::BadCodec);
                }
                Input::Unreadable => {
                    self.words.get_or_insert_with(|| Verdict::Unsupported.to_string());
                    end = Some(EndReason::BadCodec);
                }
            }
        }
        self.codec = line.codec().or(self.codec);
        if let Some(reason) = end {
            self.bridge.handle_event(now, Event::LineEnded(reason), pool);
        }
        self.flush(now, pool);
    }

    /// A pipe has given something, or is at its end.
    fn on_pipe(&mut self, now: Now, heard: io::Result<pipe::Heard>, pool: &mut Pool) {
        match heard {
            Ok(pipe::Heard::Piece(piece)) => {
                self.line_tally.bytes_in += size_of_val(piece.samples()) as u64;
                self.bridge.handle_line_audio(now, self.bridge.line_rate(), piece.samples(), pool);
            }
            Ok(pipe::Heard::Done) => self.bridge.handle_event(now, Event::LineDone, pool),
            Ok(pipe::Heard::HungUp) => self.bridge.handle_event(now, Event::LineEnded(EndReason::LineHungUp), pool),
            Err(error) => {
                self.explain(&error);
                self.bridge.handle_event(now, Event::LineEnded(EndReason::LineLost), pool);
            }
        }
        self.flush(now, pool);
    }

    /// The PBX closed its connection: that is how its channel ends when the caller hangs up.
    fn on_line_closed(&mut self, now: Now, pool: &mut Pool) {
        self.bridge.handle_event(now, Event::LineEnded(EndReason::LineHungUp), pool);
        self.flush(now, pool);
    }

    /// The WebSocket of a leg, if that is what it is.
    fn websocket(&mut self, side: usize) -> Option<(&mut WebsocketIo, &mut Leg)> {
        match (side, &mut self.line) {
            (TRUNK, _) => Some((self.trunk.as_mut()?, self.bridge.trunk_mut()?)),
            (LINE, LineIo::Websocket(line)) => Some((line, self.bridge.line_mut()?)),
            _ => None,
        }
    }

    /// Reads the WebSocket of a leg once; whether it is over.
    fn read_websocket(
        &mut self,
        side: usize,
        now: Now,
        socket: &mut OwnedReadHalf,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        pool: &mut Pool,
    ) -> Poll<bool> {
        let Some((io, leg)) = self.websocket(side) else { return Poll::Ready(true) };
        let plain = io.link.is_plain();
        let space = if plain { leg.spare() } else { &mut *scratch };
        match read(socket, context, space) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => {
                self.on_websocket_closed(side, now, pool);
                return Poll::Ready(true);
            }
            Poll::Ready(Ok(n)) => {
                let opened = if plain {
                    leg.filled(n);
                    Ok(n)
                } else {
                    io.link.open(&scratch[..n])
                };
                if side == LINE {
                    self.line_tally.bytes_in += n as u64;
                }
                if let Err(error) = opened {
                    self.on_link_error(side, now, &error, pool);
                    return Poll::Ready(true);
                }
            }
            Poll::Ready(Err(error)) => {
                self.on_websocket_error(side, now, &error, pool);
                return Poll::Ready(true);
            }
        }
        Poll::Ready(false)
    }

    /// Makes audio and events of what the leg has.
    fn hear(&mut self, side: usize, now: Now, pool: &mut Pool) -> Flow {
        if side == LINE { self.bridge.handle_line(now, pool) } else { self.bridge.handle_trunk(now, pool) }
    }

    /// Gives the leg what the link has, until there is no more or the leg has no room.
    fn on_plaintext(&mut self, side: usize, now: Now, pool: &mut Pool) -> Flow {
        let mut flow = self.hear(side, now, pool);
        while flow == Flow::Hungry {
            let Some((io, leg)) = self.websocket(side) else { break };
            match io.link.plaintext(leg.spare()) {
                Ok(0) => break,
                Ok(n) => leg.filled(n),
                Err(error) => {
                    self.on_link_error(side, now, &error, pool);
                    break;
                }
            }
            flow = self.hear(side, now, pool);
        }
        self.flush(now, pool);
        flow
    }

    /// The first fault of a call that has a leg to lose is the one on its record.
    fn explain(&mut self, fault: &dyn core::fmt::Display) {
        if self.bridge.state().has_line() {
            self.words.get_or_insert_with(|| fault.to_string());
        }
    }

    fn on_link_error(&mut self, side: usize, now: Now, error: &LinkError, pool: &mut Pool) {
        match error {
            LinkError::Closed => self.on_websocket_closed(side, now, pool),
            LinkError::Tls(error) => {
                let words = tls::explain_tls(error);
                self.explain(&words);
                self.flush(now, pool);
                self.on_websocket_lost(side, now, pool);
            }
        }
    }

    /// The peer's connection is at its end. One that closes without a WebSocket's goodbye has lost its call: some vendors
    /// never say another.
    fn on_websocket_closed(&mut self, side: usize, now: Now, pool: &mut Pool) {
        if side == LINE {
            self.bridge.handle_line_closed(now, EndReason::LineHungUp, pool);
        } else {
            self.bridge.handle_event(now, Event::TrunkClosed, pool);
        }
    }

    fn on_websocket_error(&mut self, side: usize, now: Now, error: &io::Error, pool: &mut Pool) {
        self.explain(error);
        self.on_websocket_lost(side, now, pool);
    }

    fn on_websocket_lost(&mut self, side: usize, now: Now, pool: &mut Pool) {
        if side == LINE {
            self.bridge.handle_line_closed(now, EndReason::LineLost, pool);
        } else {
            self.bridge.handle_event(now, Event::TrunkEnded(EndReason::TrunkLost), pool);
        }
    }

    /// Sends what is due to the legs that are WebSockets, as much as their sockets take.
    fn flush(&mut self, now: Now, pool: &mut Pool) {
        self.flush_line(now, pool);
        self.flush_trunk(now, pool);
    }

    /// Sends what is due to a line that is a WebSocket, a message at a time. It ends by itself: the ring gives no more than
    /// its dialect's lead.
    fn flush_line(&mut self, now: Now, pool: &mut Pool) {
        loop {
            self.bridge.pump_line(now, pool);
            let (LineIo::Websocket(line), Some(leg)) = (&mut self.line, self.bridge.line_mut()) else { return };
            let waiting = leg.out().len();
            if line.broken || waiting == 0 && !line.link.wants_write() {
                return;
            }
            let sent = line.send(leg);
            self.line_tally.bytes_out += (waiting - leg.out().len()) as u64;
            match sent {
                Ok(true) if waiting > 0 => {}
                Ok(_) => return,
                Err(error) => {
                    // The reading side finds out what it means: the vendor's goodbye may be on its way.
                    line.broken = true;
                    return self.explain(&error);
                }
            }
        }
    }

    /// Sends what is due to the trunk, as much as its socket takes.
    fn flush_trunk(&mut self, now: Now, pool: &mut Pool) {
        loop {
            self.bridge.pump(now, pool);
            let (Some(trunk), Some(leg)) = (&mut self.trunk, self.bridge.trunk_mut()) else { return };
            if trunk.broken {
                return;
            }
            match trunk.send(leg) {
                Ok(true) if self.bridge.has_uplink() => {}
                Ok(true) if self.bridge.is_uplink_waiting() => return self.bridge.handle_uplink_sent(clock::now()),
                Ok(_) => return,
                Err(error) => {
                    // The reading side finds out what it means: the agent's goodbye may be on its way.
                    trunk.broken = true;
                    self.explain(&error);
                    return;
                }
            }
        }
    }

    fn figures(&self) -> Figures {
        let rtp = if let LineIo::Rtp(io) = &self.line { io.tally() } else { self.rtp_tally };
        Figures::of(&self.bridge, self.line_tally, rtp)
    }

    /// The caller goes on in the dialplan.
    fn give_line_back(&mut self, now: Now) {
        self.dialing = None;
        if let LineIo::Websocket(line) = &mut self.line {
            // It takes its leave in its own time. Once it has, the vendor waits for our side of the connection to close
            // (RFC 6455 7.1.1), and the trunk's goodbye is no business of its.
            if !self.bridge.is_line_done(now) {
                return;
            }
            line.close();
            if let Some(reader) = self.readers[LINE].take() {
                reader.wake();
            }
        }
        if let LineIo::Audiosocket { socket, line, pending } = &self.line {
            let mut message = [0; line::MAX_MESSAGE];
            let message = line.write_hangup(&mut message);
            // Behind half a message a hangup would be read as samples; then the closed connection says it.
            if pending.is_empty() {
                let _ = send(socket.as_ref(), message);
            }
            // Dropping this half says that nothing follows; the reading task waits for the PBX to close too.
        }
        if let LineIo::Rtp(io) = &mut self.line {
            io.close(now);
            self.rtp_tally = io.tally();
            if let Some(reader) = self.readers[LINE].take() {
                reader.wake();
            }
        }
        self.line = LineIo::Gone;
    }
}

/// How the trunk's side ended, where that says more than the end reason.
fn words_of(bridge: &Bridge) -> Option<String> {
    if let Some(overdue) = bridge.overdue() {
        return Some(format!("the agent did not keep to its dialect: {overdue}"));
    }
    if let Some(words) = words_of_line(bridge) {
        return Some(words);
    }
    match bridge.over()? {
        Over::Closed(None | Some(1000)) => None,
        Over::Closed(Some(code)) => Some(format!("the agent closed with code {code}")),
        Over::Violation(violation) => Some(format!("the agent broke the WebSocket protocol: {violation}")),
        Over::Grammar(reason) => Some(format!("the agent did not keep to its dialect: {reason}")),
    }
}

/// How a line that is a WebSocket came to its end, where that says more than the end reason.
fn words_of_line(bridge: &Bridge) -> Option<String> {
    let (over, overdue) = bridge.line_over();
    if let Some(overdue) = overdue {
        return Some(format!("the vendor did not keep to its dialect: {overdue}"));
    }
    match over? {
        Over::Closed(None | Some(1000 | 1001)) => None,
        Over::Closed(Some(code)) => Some(format!("the vendor closed with code {code}")),
        Over::Violation(violation) => Some(format!("the vendor broke the WebSocket protocol: {violation}")),
        Over::Grammar(reason) => Some(format!("the vendor did not keep to its dialect: {reason}")),
    }
}

/// When a step was made, if it was.
type When = fn(&Times) -> Option<Now>;

/// The steps of a call at Telnyx that only a media thread sees, and when they were made.
const STEPS: [(Step, When); 4] = [
    (Step::FirstFromTelnyx, |times| times.first_spoken),
    (Step::FirstToAgent, |times| times.first_sent),
    (Step::FirstFromAgent, |times| times.first_said),
    (Step::FirstToTelnyx, |times| times.first_heard),
];
/// How often a WebSocket's life is tested.
const PING_EVERY: Now = Now::from_secs(20);
/// What one read brings at most (bytes).
const SCRATCH: usize = 16 * 1024;
/// Places of the legs' reading tasks.
const LINE: usize = 0;
const TRUNK: usize = 1;
/// How long a peer has to close after our goodbye.
const LEAVE: Now = Now::from_secs(2);
const TICKS_A_SECOND: u64 = 100;
/// Live calls without a tick for so long are not served.
const TICKS_MISSING: Now = Now::from_secs(2);
