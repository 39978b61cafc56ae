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
        bridge::Limits,
        counting,
        ends::{LineIo, TrunkIo, TryWrite, send},
        gauges::Gauges,
        outcome::{Figures, LineTally, Outcome},
        state::{Event, State},
        tap::Tap,
        vitals::{Punctuality, Vitals},
    },
    clock,
    control::metrics::{Counter, Metrics},
    dialect::{Dialect, Facts},
    leg::{
        audiosocket::{
            format::Verdict,
            line::{self, Input},
        },
        pipe,
        websocket::{
            leg::{Flow, Leg, Over, Setup},
            link::{Link, LinkError},
            tls,
            wire::Side,
        },
    },
    media::{
        Now,
        clock::TICK,
        frame::MAX_SAMPLES,
        playout::Tick,
        pool::{BLOCK, Link as BlockLink, Pool},
    },
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
    /// End every call for this reason.
    EndAll(EndReason),
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
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Where it shows that it lives and keeps up.
    pub vitals: Arc<Vitals>,
    /// Where it tells what happens in calls; `None`: nobody wants to know.
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
            metrics: setup.metrics,
            vitals: Arc::clone(&setup.vitals),
            punctuality: Punctuality::default(),
            last_tick: Now::ZERO,
            pool_told: 0,
            waker: None,
            leaving: 0,
            tap: setup.tap,
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
    metrics: Arc<Metrics>,
    vitals: Arc<Vitals>,
    punctuality: Punctuality,
    last_tick: Now,
    pool_told: usize,
    /// Waits for the last call to end and the last connection to be left.
    waker: Option<Waker>,
    /// Connections that are read until their peer closes them.
    leaving: usize,
    #[allow(dead_code)]
    tap: Option<Tap>,
}

struct Call {
    seq: u64,
    /// The tick of the thread at which it came.
    since_tick: u64,
    bridge: Bridge,
    line: LineIo,
    trunk: Option<TrunkIo>,
    facts: Facts,
    dialing: Option<oneshot::Sender<()>>,
    /// The reading tasks of both legs, to be told when the call is over.
    readers: [Option<Waker>; 2],
    /// The figures that the metrics know.
    told: Figures,
    line_tally: LineTally,
    codec: Option<&'static str>,
    gauges: Arc<Gauges>,
    words: Option<String>,
}

/// Plays one frame of every call on every second tick.
async fn play(shard: Rc<RefCell<Shard>>) {
    core::future::poll_fn(|context| -> Poll<()> {
        loop {
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
            self.with_slot(slot, |call, pool, _| call.on_tick(tick, pool));
            self.settle(slot, now);
        }
        if self.ticks / TICKS_A_SECOND != before / TICKS_A_SECOND {
            self.tell_metrics();
        }
    }

    /// Runs something of one call; a panic ends that call and no other.
    fn with_slot(&mut self, slot: usize, work: impl FnOnce(&mut Call, &mut Pool, &mut [u8])) {
        let Some(Some(call)) = self.calls.get_mut(slot) else { return };
        let (pool, scratch) = (&mut self.pool, &mut self.scratch);
        if catch_unwind(AssertUnwindSafe(|| work(&mut *call, pool, scratch))).is_err() {
            call.bridge.handle_bug();
        }
    }

    fn end(&mut self, slot: usize, reason: EndReason, now: Now) {
        self.with_slot(slot, |call, pool, _| {
            call.bridge.handle_event(now, Event::Ordered(reason), pool);
            call.flush_trunk(now, pool);
        });
        self.settle(slot, now);
    }

    fn slot_of(&self, seq: u64) -> Option<usize> {
        self.calls.iter().position(|call| call.as_ref().is_some_and(|call| call.seq == seq))
    }

    /// Carries out what a call's state asks for: gives the line back, removes the call when it is over.
    fn settle(&mut self, slot: usize, now: Now) {
        let Some(Some(call)) = self.calls.get(slot) else { return };
        let (seq, figures, rate, codec) = (call.seq, call.told, call.bridge.line_rate(), call.codec);
        if catch_unwind(AssertUnwindSafe(|| self.carry_out(slot, now))).is_err() {
            // What it held of the pool stays lost: it is in disorder, and the others go on.
            self.calls[slot] = None;
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

    fn carry_out(&mut self, slot: usize, now: Now) {
        let Some(Some(call)) = self.calls.get_mut(slot) else { return };
        let state = call.bridge.state();
        if !state.has_line() {
            call.give_line_back();
        }
        let State::Ended(reason) = state else { return };
        counting::apart(|| {
            let Some(mut call) = self.calls[slot].take() else { return };
            if reason != EndReason::Bug {
                call.flush_trunk(now, &mut self.pool);
            }
            if let Some(trunk) = &mut call.trunk {
                trunk.link.close();
                // The last word; a socket that does not take it is closed all the same.
                let _ = trunk.link.flush(&mut TryWrite(&trunk.socket));
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
                reason,
                ended: now,
                figures,
                rate: call.bridge.line_rate(),
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
            call.told = figures;
        }
        for slot in 0..self.calls.len() {
            self.with_slot(slot, |call, _, _| call.gauges.set(&mut call.bridge));
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
                        call.bridge.handle_event(now, Event::TrunkEnded(reason), pool);
                    });
                    return shard.settle(slot, now);
                }
            };
            if let Err(error) = take_trunk(shard, slot, *answered, now) {
                let mut shard = shard.borrow_mut();
                shard.with_slot(slot, |call, pool, _| call.on_trunk_error(now, &error, pool));
                shard.settle(slot, now);
            }
        }
        Order::End { seq, reason } => {
            let mut shard = shard.borrow_mut();
            let Some(slot) = shard.slot_of(seq) else { return };
            shard.end(slot, reason, now);
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
    let NewCall { seq, facts, line, give_up_after, dialing, gauges } = new;
    let rate = match &line {
        NewLine::Audiosocket { line, .. } => line.rate(),
        NewLine::Pipe(ends) => ends.rate,
    };
    let mut this = shard.borrow_mut();
    let limits = this.limits;
    let bridge = catch_unwind(AssertUnwindSafe(|| Bridge::new(now, now + give_up_after, rate, limits, &mut this.pool)));
    let opened = match bridge {
        Err(_) => Err((EndReason::Bug, Some(line))),
        Ok(Err(_)) => Err((EndReason::Overload, Some(line))),
        Ok(Ok(bridge)) => match open_line(line) {
            Ok((io, input)) => Ok((bridge, io, input)),
            Err(_) => Err((EndReason::LineLost, None)),
        },
    };
    let (bridge, io, input) = match opened {
        Ok(opened) => opened,
        Err((reason, line)) => {
            if let Some(NewLine::Audiosocket { stream, line }) = line {
                turn_away(shard, stream, &line);
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
        facts,
        dialing: Some(dialing),
        readers: [None, None],
        told: Figures::default(),
        line_tally: LineTally::default(),
        codec: matches!(io, LineIo::Pipe(_)).then_some("pcm"),
        gauges,
        line: io,
        words: None,
    };
    let slot = match this.calls.iter().position(Option::is_none) {
        Some(slot) => slot,
        None => {
            this.calls.push(None);
            this.calls.len() - 1
        }
    };
    this.calls[slot] = Some(call);
    // What came with the first message is there already.
    this.with_slot(slot, |call, pool, _| call.on_line_bytes(now, &[], pool));
    this.settle(slot, now);
    match input {
        LineInput::Socket(socket) => spawn_local(read_line(Rc::clone(shard), slot, seq, socket)),
        LineInput::Pipe(input) => spawn_local(read_pipe(Rc::clone(shard), slot, seq, input)),
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
}

fn open_line(line: NewLine) -> io::Result<(LineIo, LineInput)> {
    Ok(match line {
        NewLine::Audiosocket { stream, line } => {
            let (input, socket) = TcpStream::from_std(stream)?.into_split();
            (LineIo::Audiosocket { socket, line, pending: Box::default() }, LineInput::Socket(input))
        }
        NewLine::Pipe(ends) => (LineIo::Pipe(ends.output), LineInput::Pipe(ends.input)),
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
        let leg = Leg::new(Setup {
            side: Side::Client,
            dialect,
            facts: call.facts.clone(),
            rate: call.bridge.rate(),
            now,
            epoch_ms: clock::epoch_ms(),
            ping_every: PING_EVERY,
        });
        call.trunk = Some(TrunkIo { socket, link, paused: false, broken: false });
        call.bridge.handle_trunk_answered(now, leg, pool);
        call.flush_trunk(now, pool);
    });
    this.settle(slot, now);
    spawn_local(read_trunk(Rc::clone(shard), slot, seq, input));
    Ok(())
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
            shard.with_slot(slot, |call, pool, scratch| match n {
                Ok(0) => call.on_line_closed(now, pool),
                Ok(n) => call.on_line_bytes(now, &scratch[..n], pool),
                Err(error) => {
                    call.explain(&error);
                    call.bridge.handle_event(now, Event::LineEnded(EndReason::LineLost), pool);
                    call.flush_trunk(now, pool);
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
async fn leave(shard: &Rc<RefCell<Shard>>, mut socket: OwnedReadHalf) {
    shard.borrow_mut().leaving += 1;
    let mut bytes = [0; 512];
    let rest = async { while matches!(socket.read(&mut bytes).await, Ok(1..)) {} };
    // Late or not, it is closed now.
    let _ = tokio::time::timeout(LEAVE, rest).await;
    let mut shard = shard.borrow_mut();
    shard.leaving -= 1;
    shard.wake_if_idle();
}

/// Takes what a pipe gives until it ends.
async fn read_pipe(shard: Rc<RefCell<Shard>>, slot: usize, seq: u64, mut input: pipe::Input) {
    loop {
        let frame = input.recv().await;
        let now = clock::now();
        let mut shard = shard.borrow_mut();
        if !shard.is_here(slot, seq) {
            return;
        }
        let over = frame.is_none();
        shard.with_slot(slot, |call, pool, _| match frame {
            Some(frame) => {
                call.line_tally.bytes_in += size_of_val(frame.samples()) as u64;
                call.bridge.handle_line_audio(now, call.bridge.line_rate(), frame.samples(), pool);
                call.flush_trunk(now, pool);
            }
            None => {
                call.bridge.handle_event(now, Event::LineDone, pool);
                call.flush_trunk(now, pool);
            }
        });
        shard.settle(slot, now);
        if over {
            return;
        }
    }
}

/// Reads the trunk's socket until the call is over, and then until the agent has closed it; waits while the downlink has
/// no room.
async fn read_trunk(shard: Rc<RefCell<Shard>>, slot: usize, seq: u64, mut socket: OwnedReadHalf) {
    let over = core::future::poll_fn(|context| {
        loop {
            let mut shard = shard.borrow_mut();
            if !shard.is_here(slot, seq) {
                return Poll::Ready(false);
            }
            let now = clock::now();
            // What is there already comes first: read ahead, decrypted, or left over from a pause.
            let mut flow = Flow::Hungry;
            shard.with_slot(slot, |call, pool, _| flow = call.on_trunk_plaintext(now, pool));
            shard.settle(slot, now);
            if flow == Flow::Paused {
                if let Some(Some(Call { trunk: Some(trunk), .. })) = shard.calls.get_mut(slot) {
                    trunk.paused = true;
                }
                return shard.wait(slot, TRUNK, context);
            }
            let mut over = Poll::Ready(false);
            shard.with_slot(slot, |call, pool, scratch| {
                over = call.read_trunk(now, &mut socket, context, scratch, pool);
            });
            shard.settle(slot, now);
            match over {
                Poll::Pending => return shard.wait(slot, TRUNK, context),
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
    fn on_tick(&mut self, tick: Tick, pool: &mut Pool) {
        self.play(tick, pool);
        if let Some(trunk) = &mut self.trunk
            && core::mem::take(&mut trunk.paused)
            && let Some(reader) = &self.readers[TRUNK]
        {
            reader.wake_by_ref();
        }
        self.bridge.handle_tick(tick.now, pool);
        self.flush_trunk(tick.now, pool);
    }

    fn play(&mut self, tick: Tick, pool: &mut Pool) {
        if !self.bridge.state().has_line() {
            return;
        }
        match self.line.is_ready() {
            Ok(true) => {}
            Ok(false) => return self.bridge.handle_line_blocked(),
            Err(error) => {
                self.explain(&error);
                return self.bridge.handle_event(tick.now, Event::LineEnded(EndReason::LineLost), pool);
            }
        }
        let mut frame = [0; MAX_SAMPLES];
        let frame = &mut frame[..self.bridge.line_rate().frame()];
        let heard = self.bridge.poll_frame(tick, pool, frame);
        match self.line.write(frame) {
            Ok(written) => {
                self.line_tally.bytes_out += written as u64;
                self.bridge.handle_frame_written(tick.now, heard, pool);
            }
            Err(error) => {
                self.explain(&error);
                self.bridge.handle_event(tick.now, Event::LineEnded(EndReason::LineLost), pool);
            }
        }
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
        self.flush_trunk(now, pool);
    }

    /// The PBX closed its connection: that is how its channel ends when the caller hangs up.
    fn on_line_closed(&mut self, now: Now, pool: &mut Pool) {
        self.bridge.handle_event(now, Event::LineEnded(EndReason::LineHungUp), pool);
        self.flush_trunk(now, pool);
    }

    /// Reads the trunk's socket once; whether it is over.
    fn read_trunk(
        &mut self,
        now: Now,
        socket: &mut OwnedReadHalf,
        context: &mut Context<'_>,
        scratch: &mut [u8],
        pool: &mut Pool,
    ) -> Poll<bool> {
        let (Some(trunk), Some(leg)) = (&mut self.trunk, self.bridge.trunk_mut()) else { return Poll::Ready(false) };
        let plain = trunk.link.is_plain();
        let space = if plain { leg.spare() } else { &mut *scratch };
        match read(socket, context, space) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => {
                self.bridge.handle_event(now, Event::TrunkClosed, pool);
                return Poll::Ready(true);
            }
            Poll::Ready(Ok(n)) if plain => leg.filled(n),
            Poll::Ready(Ok(n)) => {
                if let Err(error) = trunk.link.open(&scratch[..n]) {
                    self.on_link_error(now, &error, pool);
                    return Poll::Ready(true);
                }
            }
            Poll::Ready(Err(error)) => {
                self.on_trunk_error(now, &error, pool);
                return Poll::Ready(true);
            }
        }
        Poll::Ready(false)
    }

    /// Gives the leg what the link has, until there is no more or the leg has no room.
    fn on_trunk_plaintext(&mut self, now: Now, pool: &mut Pool) -> Flow {
        let mut flow = self.bridge.handle_trunk(now, pool);
        while flow == Flow::Hungry {
            let (Some(trunk), Some(leg)) = (&mut self.trunk, self.bridge.trunk_mut()) else { break };
            match trunk.link.plaintext(leg.spare()) {
                Ok(0) => break,
                Ok(n) => leg.filled(n),
                Err(error) => {
                    self.on_link_error(now, &error, pool);
                    break;
                }
            }
            flow = self.bridge.handle_trunk(now, pool);
        }
        self.flush_trunk(now, pool);
        flow
    }

    /// The first fault of a call that has a leg to lose is the one on its record.
    fn explain(&mut self, fault: &dyn core::fmt::Display) {
        if self.bridge.state().has_line() {
            self.words.get_or_insert_with(|| fault.to_string());
        }
    }

    fn on_link_error(&mut self, now: Now, error: &LinkError, pool: &mut Pool) {
        match error {
            LinkError::Closed => self.bridge.handle_event(now, Event::TrunkClosed, pool),
            LinkError::Tls(error) => {
                let words = tls::explain_tls(error);
                self.explain(&words);
                self.flush_trunk(now, pool);
                self.bridge.handle_event(now, Event::TrunkEnded(EndReason::TrunkLost), pool);
            }
        }
    }

    fn on_trunk_error(&mut self, now: Now, error: &io::Error, pool: &mut Pool) {
        self.explain(error);
        self.bridge.handle_event(now, Event::TrunkEnded(EndReason::TrunkLost), pool);
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
        Figures::of(&self.bridge, self.line_tally)
    }

    /// The caller goes on in the dialplan.
    fn give_line_back(&mut self) {
        if let LineIo::Audiosocket { socket, line, pending } = &self.line {
            let mut message = [0; line::MAX_MESSAGE];
            let message = line.write_hangup(&mut message);
            // Behind half a message a hangup would be read as samples; then the closed connection says it.
            if pending.is_empty() {
                let _ = send(socket.as_ref(), message);
            }
            // Dropping this half says that nothing follows; the reading task waits for the PBX to close too.
        }
        self.line = LineIo::Gone;
        self.dialing = None;
    }
}

/// How the trunk's side ended, where that says more than the end reason.
fn words_of(bridge: &Bridge) -> Option<String> {
    if let Some(overdue) = bridge.overdue() {
        return Some(format!("the agent did not keep to its dialect: {overdue}"));
    }
    match bridge.over()? {
        Over::Closed(None | Some(1000)) => None,
        Over::Closed(Some(code)) => Some(format!("the agent closed with code {code}")),
        Over::Violation(violation) => Some(format!("the agent broke the WebSocket protocol: {violation}")),
        Over::Grammar(reason) => Some(format!("the agent did not keep to its dialect: {reason}")),
    }
}

/// How often a trunk's life is tested.
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
