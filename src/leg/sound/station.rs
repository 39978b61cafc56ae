//! The thread of a sound line: opens the card and opens it again, and has the engine turn every 10 ms.
//!
//! It waits on its ticker, on the frames of the call, and on what the control thread tells it. It may wait for ALSA when it
//! opens a card; nobody waits for it.

use std::{
    any::Any,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
};

use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
};

use crate::{
    clock,
    control::metrics::{Counter, Metrics},
    leg::{
        pipe::Piece,
        sound::{
            card::{self, Card, CardSetup, Counts, End, Fault, Format},
            engine::{Engine, EngineSetup, Lives},
            tones::Tone,
        },
    },
    media::{Now, clock::TICK, frame::Frame},
    ticker::Ticker,
};

/// What a station is made of.
pub struct StationSetup {
    /// The line, which names the thread.
    pub name: String,
    /// Its card.
    pub card: CardSetup,
    /// Its sound.
    pub engine: EngineSetup,
    /// Where it tells what happens.
    pub news: mpsc::UnboundedSender<News>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// What a station is told.
pub enum Command {
    /// A call has the card: where its microphone goes, and what its speaker plays.
    Call {
        /// 10 ms at a time; full is a media thread that stands still.
        heard: mpsc::Sender<Piece>,
        /// 20 ms at a time.
        to_play: mpsc::Receiver<Frame>,
    },
    /// This tone is played.
    Play(Tone),
    /// None is.
    Hush,
}

/// What a station tells.
#[derive(Clone, Debug)]
pub enum News {
    /// The card is there, and both its sides have run for a moment.
    There(Running),
    /// It is not, or no more.
    Out(Fault),
    /// Somebody began to speak.
    SpeechBegan,
    /// When both sides were last heard; told while that changes, and not more than a few times a second.
    Lives(Lives),
}

/// How a card runs.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Its microphone.
    pub input: Format,
    /// Its speaker.
    pub output: Format,
    /// How old what the microphone heard is when we get it, as the card says.
    pub input_delay: Now,
    /// How long the card keeps what it gets before it is heard, as it says.
    pub output_delay: Now,
    /// Its threads have the right to run before others.
    pub realtime: bool,
}

/// A station that runs. It ends when [`Handle::commands`] is dropped.
pub struct Handle {
    /// What it is told.
    pub commands: mpsc::UnboundedSender<Command>,
    /// How the first attempt at the card came out.
    pub first: oneshot::Receiver<Result<(), Fault>>,
}

/// Starts a station.
///
/// # Errors
/// When there is no thread for it.
pub fn start(setup: StationSetup) -> io::Result<Handle> {
    let (commands, orders) = mpsc::unbounded_channel();
    let (tell_first, first) = oneshot::channel();
    let builder = thread::Builder::new().name(format!("sound-{}", setup.name));
    builder.spawn(move || {
        let realtime = set_precedence(Precedence::Station);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let ended = runtime.and_then(|runtime| runtime.block_on(run(setup, orders, tell_first, realtime)));
        if let Err(error) = ended {
            log::error!(error:%; "the thread of a sound line failed");
        }
    })?;
    Ok(Handle { commands, first })
}

/// Whom a thread runs before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precedence {
    /// Everybody but the kernel's own: SCHED_FIFO.
    Station,
    /// The same, behind the station: one that spins must not keep it from dropping that stream.
    Card,
    /// Nobody. cpal asks a sound server's plugin again and again while it has less than a period, and takes the lock each
    /// time that the plugin's own thread needs to bring more: with precedence that thread never gets it.
    None,
}

/// Gives this thread, and those that it will make, this right. `false`: it may not.
#[cfg(feature = "sound")]
fn set_precedence(precedence: Precedence) -> bool {
    use thread_priority::{
        NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let (priority, policy) = match precedence {
        Precedence::Station => (PRIORITY, fifo),
        Precedence::Card => (CARD_PRIORITY, fifo),
        Precedence::None => (NICE_0, ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other)),
    };
    let Ok(priority) = priority.try_into() else { return false };
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy).is_ok()
}

/// There is no card that would need it.
#[cfg(not(feature = "sound"))]
const fn set_precedence(_: Precedence) -> bool {
    false
}

async fn run(
    setup: StationSetup,
    mut orders: mpsc::UnboundedReceiver<Command>,
    tell_first: oneshot::Sender<Result<(), Fault>>,
    realtime: bool,
) -> io::Result<()> {
    #[expect(deprecated, reason = "its successor is unsafe; a Ticker owns its descriptor for as long as it lives")]
    let ticker = AsyncFd::new(Ticker::new()?)?;
    let StationSetup { card, engine, news, metrics, .. } = setup;
    let mut station = Station {
        setup: card,
        engine: Engine::new(engine),
        news,
        metrics,
        realtime,
        card: None,
        open_at: Now::ZERO,
        told_out: None,
        heard: None,
        lives: Lives::default(),
    };
    let first = station.open();
    // The daemon is there, or the process is ending anyway.
    let _ = tell_first.send(first);
    ticker.get_ref().arm(clock::now());
    let mut to_play: Option<mpsc::Receiver<Frame>> = None;
    let mut in_step = false;
    loop {
        tokio::select! {
            biased;
            expired = expired(&ticker) => station.tick(clock::now(), expired?),
            frame = frame(&mut to_play), if station.plays() => match frame {
                Some(frame) => {
                    let now = clock::now();
                    station.engine.say(now, &frame);
                    if !in_step {
                        // Our ticks follow the frames, which come on somebody else's, and so do not wait for 5 ms.
                        ticker.get_ref().arm((now + BEHIND).saturating_sub(TICK));
                        in_step = true;
                    }
                }
                None => to_play = None,
            },
            command = orders.recv() => match command {
                Some(Command::Call { heard, to_play: frames }) => {
                    (station.heard, to_play, in_step) = (Some(heard), Some(frames), false);
                }
                Some(Command::Play(tone)) => station.engine.play(tone),
                Some(Command::Hush) => station.engine.hush(),
                None => return Ok(()),
            },
        }
    }
}

async fn expired(ticker: &AsyncFd<Ticker>) -> io::Result<u64> {
    loop {
        let mut guard = ticker.readable().await?;
        if let Ok(expired) = guard.try_io(|ticker| ticker.get_ref().expirations()) {
            return expired;
        }
    }
}

async fn frame(to_play: &mut Option<mpsc::Receiver<Frame>>) -> Option<Frame> {
    match to_play {
        Some(frames) => frames.recv().await,
        None => core::future::pending().await,
    }
}

struct Station {
    setup: CardSetup,
    engine: Engine,
    news: mpsc::UnboundedSender<News>,
    metrics: Arc<Metrics>,
    realtime: bool,
    card: Option<Open>,
    /// When the card is tried again.
    open_at: Now,
    /// Why the card is out, as far as whoever listens knows.
    told_out: Option<String>,
    heard: Option<mpsc::Sender<Piece>>,
    lives: Lives,
}

/// A card that was opened.
struct Open {
    // Its rings are the engine's.
    streams: Box<dyn Any + Send>,
    counts: Arc<Counts>,
    formats: [Format; 2],
    /// Whoever listens knows that it is there.
    told: bool,
    /// What its two sides had done when they were last looked at, and when one of them did something.
    seen: [(u64, Now); 2],
    /// What the metrics know.
    counted: Counted,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    xruns: u64,
    starved: u64,
    overrun: u64,
    jumps: u64,
    allocations: u64,
}

impl Station {
    /// Whether what a call says is played. Else it waits: nothing that an agent says is lost on a card that is out.
    fn plays(&self) -> bool {
        self.card.is_some() && self.engine.has_room()
    }

    fn open(&mut self) -> Result<(), Fault> {
        // ALSA's threads are made by this one, and have the same rights.
        let set = |precedence| self.realtime && set_precedence(precedence);
        set(if self.setup.is_hardware() { Precedence::Card } else { Precedence::None });
        let opened = card::open(&self.setup);
        set(Precedence::Station);
        // It may have taken long, and the next attempt may, too.
        self.open_at = clock::now() + RETRY;
        let Card { heard, to_play, input, output, counts, streams } = match opened {
            Ok(card) => card,
            Err(fault) => {
                self.tell_out(fault.clone());
                return Err(fault);
            }
        };
        let early = if self.setup.is_hardware() { Now::ZERO } else { SERVED };
        self.engine.set_card((heard, input.hz), (to_play, output.hz), output.period as usize, early);
        let now = clock::now();
        self.card = Some(Open {
            streams,
            counts,
            formats: [input, output],
            told: false,
            seen: [(0, now); 2],
            counted: Counted::default(),
        });
        Ok(())
    }

    fn tell_out(&mut self, fault: Fault) {
        if self.told_out.as_ref() != Some(&fault.words) {
            // Another reason than before is news, and no other loss.
            self.metrics.add(Counter::SoundCardLosses, u64::from(self.told_out.is_none()));
            self.told_out = Some(fault.words.clone());
            // The daemon is there, or the process is ending anyway.
            let _ = self.news.send(News::Out(fault));
        }
    }

    fn tick(&mut self, now: Now, expired: u64) {
        if let Some(fault) = self.card.as_mut().and_then(|card| card.look(now, &self.setup)) {
            // Its threads are waited for, and what they counted is final.
            let has_run = self.card.as_mut().is_some_and(|card| {
                card.streams = Box::new(());
                card.told
            });
            self.count();
            self.card = None;
            self.engine.drop_card();
            // At once where it had run: ALSA's PulseAudio plugin says EIO after an xrun, and opened anew it is there again.
            self.open_at = if has_run { now } else { now + RETRY };
            self.tell_out(fault);
        }
        if self.card.is_none() && now >= self.open_at {
            // Why not is told, if it is another reason than before.
            let _ = self.open();
        }
        if let Some(card) = &self.card {
            let played_at = Now::from_micros(card.counts.played_at_us.load(Relaxed));
            // Ticks that were missed are made up for by what waits in the rings.
            self.hear(now);
            self.engine.keep_playing(now, expired, played_at);
        } else {
            for _ in 0..expired.min(MOST_SILENCE) {
                self.hear(now);
            }
        }
        self.tell();
    }

    fn hear(&mut self, now: Now) {
        let (heard, metrics) = (&mut self.heard, &self.metrics);
        let began = self.engine.hear(now, |samples| {
            let Some(call) = &heard else { return };
            match call.try_send(Piece::new(samples)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => metrics.add(Counter::SoundDropped, samples.len() as u64),
                Err(mpsc::error::TrySendError::Closed(_)) => *heard = None,
            }
        });
        if began {
            // The daemon is there, or the process is ending anyway.
            let _ = self.news.send(News::SpeechBegan);
        }
    }

    /// Tells what is new, now and then.
    fn tell(&mut self) {
        let lives = self.engine.lives();
        let is_new = |told: Option<Now>, seen: Option<Now>| match (told, seen) {
            (Some(told), Some(seen)) => seen.saturating_sub(told) >= TOLD_EVERY,
            (told, seen) => told != seen,
        };
        if is_new(self.lives.caller, lives.caller) || is_new(self.lives.agent, lives.agent) {
            self.lives = lives;
            // The daemon is there, or the process is ending anyway.
            let _ = self.news.send(News::Lives(lives));
        }
        self.count();
        let Some(card) = &mut self.card else { return };
        if !card.told && card.seen.iter().all(|(callbacks, _)| *callbacks >= SETTLED) {
            card.told = true;
            self.told_out = None;
            let delay = |us: u32| Now::from_micros(us.into());
            let running = Running {
                input: card.formats[0],
                output: card.formats[1],
                input_delay: delay(card.counts.input_us.load(Relaxed)),
                output_delay: delay(card.counts.output_us.load(Relaxed)),
                realtime: self.realtime,
            };
            // The daemon is there, or the process is ending anyway.
            let _ = self.news.send(News::There(running));
        }
    }

    fn count(&mut self) {
        let Some(card) = &mut self.card else { return };
        let counts = &card.counts;
        let now = Counted {
            xruns: counts.xruns.load(Relaxed),
            starved: counts.starved.load(Relaxed),
            overrun: counts.overrun.load(Relaxed),
            jumps: self.engine.jumps(),
            allocations: counts.allocations.load(Relaxed),
        };
        let before = core::mem::replace(&mut card.counted, now);
        self.metrics.add(Counter::SoundXruns, now.xruns - before.xruns);
        self.metrics.add(Counter::SoundStarved, now.starved - before.starved);
        self.metrics.add(Counter::SoundDropped, now.overrun - before.overrun);
        self.metrics.add(Counter::SoundJumps, now.jumps - before.jumps);
        self.metrics.add(Counter::MediaAllocations, now.allocations - before.allocations);
    }
}

impl Open {
    /// Whether it still runs; else why not.
    fn look(&mut self, now: Now, setup: &CardSetup) -> Option<Fault> {
        let counts = [self.counts.heard.load(Relaxed), self.counts.played.load(Relaxed)];
        for (seen, count) in self.seen.iter_mut().zip(counts) {
            if seen.0 != count {
                *seen = (count, now);
            }
        }
        let CardSetup { input, output, .. } = setup;
        let words = if let Some(end) = self.counts.ended() {
            match end {
                End::Gone => "it was unplugged, or its sound server is gone".to_owned(),
                End::Failed => "it failed".to_owned(),
            }
        } else {
            let patience = |callbacks: u64| if callbacks == 0 { BEGINS } else { STANDS };
            let stands = self.seen.iter().position(|&(seen, at)| now.saturating_sub(at) >= patience(seen))?;
            let way = ["microphone gives", "speaker takes"][stands];
            format!("its {way} no sound any more")
        };
        let name = if input == output { format!("\"{input}\"") } else { format!("\"{input}\" and \"{output}\"") };
        Some(Fault { words: format!("{name}: {words}"), is_lasting: false })
    }
}

/// Of SCHED_FIFO: before everything that is not, behind the kernel's own.
#[cfg(feature = "sound")]
const PRIORITY: u8 = 20;
/// And of the card's threads.
#[cfg(feature = "sound")]
const CARD_PRIORITY: u8 = 19;
/// What the crate makes nice 0 of: 0 to 99 are nice 19 to -20.
#[cfg(feature = "sound")]
const NICE_0: u8 = 47;
/// How long after a frame our tick comes: as much as frames come late.
const BEHIND: Now = Now::from_micros(500);
/// How much earlier than it should a callback may come where a sound server has the clock.
const SERVED: Now = Now::from_millis(30);
/// How often a card that is out is tried.
const RETRY: Now = Now::from_millis(500);
/// A card whose callbacks do not come for so long is out.
const STANDS: Now = Now::from_secs(2);
/// The same for one that begins. PulseAudio takes up to 2 s until a source that nobody heard is heard in small pieces.
const BEGINS: Now = Now::from_secs(5);
/// Callbacks until what a card says of itself is more than its start.
const SETTLED: u64 = 10;
/// How often the signs of life are told.
const TOLD_EVERY: Now = Now::from_millis(300);
/// 10 ms of silence that are made up for at once.
const MOST_SILENCE: u64 = 8;
