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
    media::{Now, frame::Frame},
    ticker::Ticker,
};

/// What a station is made of.
pub struct StationSetup {
    /// The line, which names the thread.
    pub name: String,
    /// Its card.
    pub card: CardSetup,
    /// Its sound.
    /// Made on the station's thread, because an echo canceller does not move to another.
    pub engine: Box<dyn FnOnce() -> EngineSetup + Send>,
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
        // ALSA's threads are made by this one, and have the same rights.
        let realtime = take_precedence();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let ended = runtime.and_then(|runtime| runtime.block_on(run(setup, orders, tell_first, realtime)));
        if let Err(error) = ended {
            log::error!(error:%; "the thread of a sound line failed");
        }
    })?;
    Ok(Handle { commands, first })
}

/// Gives this thread, and those that it will make, the right to run before others. `false`: it may not.
#[cfg(feature = "sound")]
fn take_precedence() -> bool {
    use thread_priority::{
        RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    let Ok(priority) = PRIORITY.try_into() else { return false };
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy).is_ok()
}

/// There is no card that would need it.
#[cfg(not(feature = "sound"))]
const fn take_precedence() -> bool {
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
        engine: Engine::new(engine()),
        news,
        metrics,
        realtime,
        card: None,
        open_at: Now::ZERO,
        told_out: false,
        heard: None,
        lives: Lives::default(),
    };
    let first = station.open(clock::now());
    // The daemon is there, or the process is ending anyway.
    let _ = tell_first.send(first);
    ticker.get_ref().arm(clock::now());
    let mut to_play: Option<mpsc::Receiver<Frame>> = None;
    loop {
        tokio::select! {
            biased;
            expired = expired(&ticker) => station.tick(clock::now(), expired?),
            frame = frame(&mut to_play), if station.plays() => match frame {
                Some(frame) => station.engine.say(clock::now(), &frame),
                None => to_play = None,
            },
            command = orders.recv() => match command {
                Some(Command::Call { heard, to_play: frames }) => {
                    (station.heard, to_play) = (Some(heard), Some(frames));
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
    /// Whoever listens knows that the card is out.
    told_out: bool,
    heard: Option<mpsc::Sender<Piece>>,
    lives: Lives,
}

/// A card that was opened.
struct Open {
    // Its rings are the engine's.
    _streams: Box<dyn Any + Send>,
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

    fn open(&mut self, now: Now) -> Result<(), Fault> {
        self.open_at = now + RETRY;
        let Card { heard, to_play, input, output, counts, streams } = match card::open(&self.setup) {
            Ok(card) => card,
            Err(fault) => {
                self.tell_out(fault.clone());
                return Err(fault);
            }
        };
        self.engine.set_card((heard, input.hz), (to_play, output.hz), output.period as usize);
        let now = clock::now();
        self.card = Some(Open {
            _streams: streams,
            counts,
            formats: [input, output],
            told: false,
            seen: [(0, now); 2],
            counted: Counted::default(),
        });
        Ok(())
    }

    fn tell_out(&mut self, fault: Fault) {
        if !core::mem::replace(&mut self.told_out, true) {
            self.metrics.add(Counter::SoundCardLosses, 1);
            // The daemon is there, or the process is ending anyway.
            let _ = self.news.send(News::Out(fault));
        }
    }

    fn tick(&mut self, now: Now, expired: u64) {
        if let Some(fault) = self.card.as_mut().and_then(|card| card.look(now, &self.setup)) {
            // Dropped first: its threads are waited for, and what they counted is final.
            self.count();
            self.card = None;
            self.engine.drop_card();
            self.open_at = now + RETRY;
            self.tell_out(fault);
        }
        if self.card.is_none() && now >= self.open_at {
            // Why not was told when it went out; another reason will be told when it is asked for.
            let _ = self.open(now);
        }
        if self.card.is_some() {
            // Ticks that were missed are made up for by what waits in the rings.
            self.hear(now);
            self.engine.keep_playing(now, expired);
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
            self.told_out = false;
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
            jumps: self.engine.bends().jumps,
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
