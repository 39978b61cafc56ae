//! Sound lines: what their stations tell becomes calls, and what becomes of calls is told to their stations.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use log::{info, warn};
use tokio::{sync::mpsc, sync::oneshot, task::spawn_local, time};

use crate::{
    call::{EndReason, shard::LineOrder},
    clock,
    config::{self, Echo},
    control::messages,
    daemon::{
        Fault,
        calls::{Arrival, Shared},
    },
    leg::{
        pipe,
        sound::{
            card::{self, CardSetup},
            duplex::HalfDuplex,
            engine::{EchoPath, EngineSetup},
            start::{Action, Answer, Mode, Start},
            station::{self, Command, News, Running, StationSetup},
            tones::Tones,
        },
    },
    media::{Now, Rate},
};

/// A sound line, as the control thread has it.
pub(super) struct SoundLine {
    index: usize,
    start: RefCell<Start>,
    station: mpsc::UnboundedSender<Command>,
    /// Its live call.
    seq: Cell<Option<u64>>,
    /// Why the card is out, and since when.
    out: RefCell<Option<(Now, String)>>,
}

impl SoundLine {
    /// Opens the card and has the line run, whether the card is there or not.
    ///
    /// # Errors
    /// When the card can never be opened as the config wants it.
    pub(super) async fn open(shared: &Rc<Shared>, index: usize) -> Result<(), Fault> {
        let config::Line { name, kind } = &shared.config.lines[index];
        let Some(config) = kind.sound() else { return Ok(()) };
        let tones = Tones::open(&config.tones, config.rate)
            .map_err(|refused| Fault::config(format!("[line.{name}.tones] {}", refused)))?;
        let (tell, news) = mpsc::unbounded_channel();
        let (rate, echo) = (config.rate, config.echo);
        let wants_speech = matches!(config.start, Mode::Vad { .. });
        let setup = StationSetup {
            name: name.clone(),
            card: CardSetup {
                input: config.input.clone(),
                output: config.output.clone(),
                rate: config.card_rate,
                period: config.period,
            },
            engine: Box::new(move || EngineSetup { rate, echo: echo_path(echo, rate), tones, wants_speech }),
            news: tell,
            metrics: shared.metrics.clone(),
        };
        let station::Handle { commands, first } =
            station::start(setup).map_err(|error| Fault::system("a thread could not be started", &error))?;
        if let Err(fault) = opened(first).await?
            && fault.is_lasting
        {
            return Err(Fault::config(format!("[line.{name}] {fault}")));
        }
        let this = Rc::new(Self {
            index,
            start: RefCell::new(Start::new(config.start)),
            station: commands,
            seq: Cell::new(None),
            out: RefCell::default(),
        });
        shared.sound.borrow_mut().insert(index, Rc::clone(&this));
        spawn_local(this.run(Rc::clone(shared), news));
        Ok(())
    }

    async fn run(self: Rc<Self>, shared: Rc<Shared>, mut news: mpsc::UnboundedReceiver<News>) {
        loop {
            self.drive(&shared);
            let wait = self.start.borrow().poll_timeout().map(|at| at.saturating_sub(clock::now()));
            tokio::select! {
                told = news.recv() => match told {
                    Some(told) => self.on_news(&shared, told),
                    // Its thread is gone, and said why.
                    None => return self.on_news(&shared, News::Out(card::Fault {
                        words: "the thread of the sound card ended".to_owned(),
                        is_lasting: true,
                    })),
                },
                () = time::sleep(wait.unwrap_or(FOREVER)), if wait.is_some() => {}
            }
        }
    }

    fn on_news(&self, shared: &Shared, news: News) {
        let now = clock::now();
        let line = shared.config.lines[self.index].name.as_str();
        let mut start = self.start.borrow_mut();
        match news {
            News::There(running) => {
                let out = self.out.borrow_mut().take();
                let Running { input, output, input_delay, output_delay, realtime } = running;
                let ms = |delay: Now| (delay.as_micros() as f64 / 100.0).round() / 10.0;
                let out_seconds = out.map_or(-1.0, |(since, _)| ms(now.saturating_sub(since)) / 1000.0);
                info!(
                    message_id = messages::CARD_THERE, line, out_seconds,
                    input:%, output:%, input_delay_ms = ms(input_delay), output_delay_ms = ms(output_delay), realtime;
                    "the sound card is there"
                );
                start.handle_card_there(now);
            }
            News::Out(fault) => {
                warn!(message_id = messages::CARD_OUT, line; "the sound card is out: {fault}");
                *self.out.borrow_mut() = Some((now, fault.words));
                start.handle_card_out(now);
            }
            News::SpeechBegan => start.handle_speech_began(now),
            News::Lives(lives) => {
                if lives.caller.is_some_and(|at| now.saturating_sub(at) < FRESH) {
                    start.handle_spoke(now);
                }
                if lives.agent.is_some_and(|at| now.saturating_sub(at) < FRESH) {
                    start.handle_heard(now);
                }
            }
        }
    }

    /// Does what is to be done now.
    pub(super) fn drive(&self, shared: &Rc<Shared>) {
        loop {
            let action = self.start.borrow_mut().poll_action(clock::now());
            match action {
                None => return,
                Some(Action::Begin) => self.begin(shared),
                Some(Action::End(reason)) => {
                    if let Some(seq) = self.seq.get() {
                        shared.tell_line(seq, LineOrder::Ended { reason, words: None });
                    }
                }
                // A station whose thread is gone has said so.
                Some(Action::Play(tone)) => drop(self.station.send(Command::Play(tone))),
                Some(Action::Hush) => drop(self.station.send(Command::Hush)),
            }
        }
    }

    fn begin(&self, shared: &Rc<Shared>) {
        if !shared.has_seat() {
            return self.start.borrow_mut().handle_no_seat(clock::now());
        }
        let Some(config) = shared.config.lines[self.index].kind.sound() else { return };
        let (ends, heard, to_play) = pipe::queues(config.rate, PIECES, FRAMES);
        // A station whose thread is gone drops its ends, and the call is over.
        let _ = self.station.send(Command::Call { heard, to_play });
        // Before: a call that is over at once is told of by the same way.
        self.start.borrow_mut().handle_begun(clock::now());
        let seq = shared.begin(self.index, Arrival::Sound(ends), config.rate);
        let calls = shared.calls.borrow();
        if calls.live.contains_key(&seq) {
            self.seq.set(Some(seq));
        } else {
            self.start.borrow_mut().handle_ended(clock::now(), EndReason::Overload);
        }
        drop(calls);
        if shared.config.routes.iter().any(|route| route.line == self.index && route.trunks.is_empty()) {
            self.start.borrow_mut().handle_bridged(clock::now());
        }
    }

    /// A trunk took this call.
    pub(super) fn on_bridged(&self, shared: &Rc<Shared>, seq: u64) {
        if self.seq.get() == Some(seq) {
            self.start.borrow_mut().handle_bridged(clock::now());
            self.drive(shared);
        }
    }

    /// This call is over.
    pub(super) fn on_ended(&self, shared: &Rc<Shared>, seq: u64, reason: EndReason) {
        if self.seq.get() == Some(seq) {
            self.seq.set(None);
            self.start.borrow_mut().handle_ended(clock::now(), reason);
            self.drive(shared);
        }
    }

    /// No call begins any more.
    pub(super) fn drain(&self) {
        self.start.borrow_mut().handle_draining(clock::now());
    }

    /// Why no calls can come, if so.
    pub(super) fn problem(&self, shared: &Shared) -> Option<String> {
        let out = self.out.borrow();
        let (_, words) = out.as_ref()?;
        Some(format!("line {}: its sound card is out: {words}", shared.config.lines[self.index].name))
    }

    /// How its card is, for `trunkline status`.
    pub(super) fn card(&self) -> &'static str {
        if self.out.borrow().is_some() { "out" } else { "there" }
    }
}

impl Shared {
    /// `trunkline press` and `trunkline release`.
    pub(super) fn order_key(self: &Rc<Self>, line: &str, pressed: bool) -> Result<String, String> {
        let index = super::outgoing::named(&self.config.lines, line)?;
        let Some(sound) = self.sound.borrow().get(&index).cloned() else {
            return Err(format!("the line {line} is not of the kind sound, and has no key"));
        };
        let now = clock::now();
        let answer = {
            let mut start = sound.start.borrow_mut();
            if pressed { start.handle_pressed() } else { start.handle_released(now) }
        };
        sound.drive(self);
        match answer {
            Answer::Begins | Answer::Ends => Ok(answer.to_string()),
            Answer::AlreadyOn | Answer::NotOn | Answer::NotByKey | Answer::NoCard | Answer::Draining => {
                Err(format!("line {line}: {answer}"))
            }
        }
    }
}

async fn opened(first: oneshot::Receiver<Result<(), card::Fault>>) -> Result<Result<(), card::Fault>, Fault> {
    match time::timeout(PATIENCE, first).await {
        Ok(Ok(first)) => Ok(first),
        Ok(Err(_)) => Err(Fault { code: crate::exit::FAILED, words: "the thread of a sound card ended".to_owned() }),
        // A sound server that hangs may come round; the others' calls do not wait for it.
        Err(_) => Ok(Ok(())),
    }
}

fn echo_path(echo: Echo, rate: Rate) -> EchoPath {
    match echo {
        Echo::HalfDuplex => EchoPath::HalfDuplex(HalfDuplex::new(rate)),
        #[cfg(feature = "aec")]
        Echo::Cancel => EchoPath::Cancelled(Box::new(crate::leg::sound::echo::Canceller::new(rate))),
        #[cfg(not(feature = "aec"))]
        Echo::Cancel => EchoPath::Open, // never: the config refuses it
        Echo::Nothing => EchoPath::Open,
    }
}

/// Pieces between a station and its call: 160 ms of the caller.
const PIECES: usize = 16;
/// And frames: 80 ms of the agent.
const FRAMES: usize = 4;
/// Signs of life that are older are not news.
const FRESH: Now = Now::from_secs(1);
/// How long the start waits for a card that does not open.
const PATIENCE: Now = Now::from_secs(3);
const FOREVER: Now = Now::from_secs(3600);
