//! Sound lines: what their stations tell becomes calls, and what becomes of calls is told to their stations.

use core::time::Duration;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use log::{info, warn};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_local,
    time,
};

use crate::{
    call::{EndReason, shard::LineOrder},
    clock, config,
    control::messages,
    daemon::{
        Fault,
        calls::{Arrival, Shared},
    },
    exit,
    leg::{
        pipe,
        sound::{
            card::{self, CardSetup},
            engine::EngineSetup,
            start::{Action, Answer, Mode, Start},
            station::{self, Command, News, Running, StationSetup},
            tones::Tones,
        },
    },
    media::Now,
};

/// A sound line, as the control thread has it.
pub(super) struct SoundLine {
    index: usize,
    name: String,
    /// What the config said of it when it was opened: a card that changes is another line.
    config: config::SoundLine,
    start: RefCell<Start>,
    station: RefCell<mpsc::UnboundedSender<Command>>,
    /// Its live call.
    seq: Cell<Option<u64>>,
    /// How the card runs, since it last came.
    running: Cell<Option<Running>>,
    /// Whoever reads the log knows that the card's threads have no realtime rights.
    told_rights: Cell<bool>,
    /// Why the card is out, and since when.
    out: RefCell<Option<(Now, String)>>,
    /// No call begins any more, and after the last one its card is given back.
    is_retired: Cell<bool>,
    /// Its thread has given it back.
    given_back: Notify,
}

impl SoundLine {
    /// Opens the card and has the line run, whether the card is there or not.
    ///
    /// # Errors
    /// When the card can never be opened as the config wants it.
    pub(super) async fn open(
        shared: &Rc<Shared>,
        index: usize,
        name: &str,
        config: &config::SoundLine,
    ) -> Result<(), Fault> {
        let (station::Handle { commands, first }, news) = start_station(shared, name, config)?;
        let hangs = match time::timeout(PATIENCE, first).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(fault))) if fault.is_lasting => return Err(Fault::config(format!("[line.{name}] {fault}"))),
            // It tells of it itself.
            Ok(Ok(Err(_))) => None,
            Ok(Err(_)) => {
                return Err(Fault { code: exit::FAILED, words: format!("[line.{name}] its thread ended") });
            }
            // A sound server that hangs may come round; the others' calls do not wait for it.
            Err(_) => Some("it does not open; is its sound server up?".to_owned()),
        };
        if let Some(words) = &hangs {
            warn!(message_id = messages::CARD_OUT, line = name; "the sound card is out: {words}");
        }
        let this = Rc::new(Self {
            index,
            name: name.to_owned(),
            config: config.clone(),
            start: RefCell::new(Start::new(config.start)),
            station: RefCell::new(commands),
            seq: Cell::new(None),
            running: Cell::new(None),
            out: RefCell::new(hangs.map(|words| (clock::now(), words))),
            told_rights: Cell::new(false),
            is_retired: Cell::new(false),
            given_back: Notify::new(),
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
                    Some(told) => self.on_news(told),
                    None if self.is_retired.get() && self.seq.get().is_none() => {
                        self.given_back.notify_waiters();
                        return;
                    }
                    None => news = self.begin_anew(&shared).await,
                },
                () = time::sleep(wait.unwrap_or(FOREVER)), if wait.is_some() => {}
            }
        }
    }

    /// The card's thread ended, which is a fault of ours, and the log has it: another takes its place.
    async fn begin_anew(&self, shared: &Shared) -> mpsc::UnboundedReceiver<News> {
        let words = "its thread ended, and is started again".to_owned();
        self.on_news(News::Out(card::Fault { words, is_lasting: false }));
        loop {
            time::sleep(ANEW).await;
            match start_station(shared, &self.name, &self.config) {
                Ok((handle, news)) => {
                    *self.station.borrow_mut() = handle.commands;
                    return news;
                }
                Err(fault) => warn!(line = self.name; "the sound card's thread is not started: {}", fault.words),
            }
        }
    }

    /// No call begins any more. Once there is none, the card is given back; then this returns.
    pub(super) async fn retire(self: Rc<Self>, shared: Rc<Shared>) {
        self.drain();
        self.is_retired.set(true);
        while self.seq.get().is_some() {
            time::sleep(A_WHILE).await;
        }
        let own = shared.sound_line_of(self.index).filter(|line| Rc::ptr_eq(line, &self));
        if own.is_some() {
            shared.sound.borrow_mut().remove(&self.index);
            let given_back = self.given_back.notified();
            // Its thread ends when nobody can tell it anything any more.
            *self.station.borrow_mut() = mpsc::unbounded_channel().0;
            given_back.await;
        }
    }

    fn on_news(&self, news: News) {
        let now = clock::now();
        let line = self.name.as_str();
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
                self.running.set(Some(running));
                if !realtime && !self.told_rights.replace(true) {
                    warn!(
                        line;
                        "the sound card's threads may not run before others, and a busy machine will be heard as clicks; \
                         the unit's sound drop-in lets them (docs/sound.md)"
                    );
                }
                start.handle_card_there(now);
            }
            News::Out(fault) => {
                let since = self.out.borrow().as_ref().map(|(since, _)| *since);
                if since.is_none() {
                    warn!(message_id = messages::CARD_OUT, line; "the sound card is out: {fault}");
                } else {
                    // Somebody knows already; why it stays out may be another matter.
                    info!(line; "the sound card stays out: {fault}");
                }
                let since = since.unwrap_or(now);
                *self.out.borrow_mut() = Some((since, fault.words));
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
                Some(Action::Play(tone)) => drop(self.station.borrow().send(Command::Play(tone))),
                Some(Action::Hush) => drop(self.station.borrow().send(Command::Hush)),
            }
        }
    }

    fn begin(&self, shared: &Rc<Shared>) {
        if !shared.has_seat() {
            return self.start.borrow_mut().handle_no_seat(clock::now());
        }
        let config = &self.config;
        let (ends, heard, to_play) = pipe::queues(config.rate, PIECES, FRAMES);
        // A station whose thread is gone drops its ends, and the call is over.
        let _ = self.station.borrow().send(Command::Call { heard, to_play });
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
        if shared.config().routes.iter().any(|route| route.line == self.index && route.trunks.is_empty()) {
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
    pub(super) fn problem(&self) -> Option<String> {
        let out = self.out.borrow();
        let (_, words) = out.as_ref()?;
        Some(format!("line {}: its sound card is out: {words}", self.name))
    }

    /// How its card is, for `trunkline status`.
    pub(super) fn card(&self) -> String {
        if self.out.borrow().is_some() {
            return "out".to_owned();
        }
        let Some(Running { input_delay, output_delay, .. }) = self.running.get() else { return "begins".to_owned() };
        let (input_ms, output_ms) = (input_delay.as_millis(), output_delay.as_millis());
        format!("there, by its own account {input_ms} ms in and {output_ms} ms out")
    }
}

impl Shared {
    /// `trunkline press` and `trunkline release`.
    pub(super) fn order_key(self: &Rc<Self>, line: &str, pressed: bool) -> Result<String, String> {
        let index = super::outgoing::named(&self.config().lines, line)?;
        let Some(sound) = self.sound.borrow().get(&index).cloned() else {
            return Err(format!("the line {line} is not of the kind sound, and has no key"));
        };
        if pressed && sound.is_retired.get() {
            return Err(format!(
                "line {line}: its config has changed, and it takes that up after the call that it has"
            ));
        }
        let now = clock::now();
        let answer = {
            let mut start = sound.start.borrow_mut();
            if pressed { start.handle_pressed() } else { start.handle_released(now) }
        };
        sound.drive(self);
        match answer {
            Answer::Begins if !sound.start.borrow().is_on() => {
                Err(format!("line {line}: no call begins: {}", self.why_full().unwrap_or("it was over at once")))
            }
            Answer::Begins | Answer::Ends => Ok(answer.to_string()),
            Answer::NoCard => Err(sound
                .problem()
                .unwrap_or_else(|| format!("line {line}: its sound card only begins; try again in a moment"))),
            Answer::AlreadyOn | Answer::NotOn | Answer::NotByKey | Answer::Draining => {
                Err(format!("line {line}: {answer}"))
            }
        }
    }
}

/// Starts the thread of a line's card. Gives where it is told things, and what it tells.
fn start_station(
    shared: &Shared,
    name: &str,
    config: &config::SoundLine,
) -> Result<(station::Handle, mpsc::UnboundedReceiver<News>), Fault> {
    let tones = Tones::open(&config.tones, config.rate)
        .map_err(|refused| Fault::config(format!("[line.{name}.tones] {refused}")))?;
    let (tell, news) = mpsc::unbounded_channel();
    let setup = StationSetup {
        name: name.to_owned(),
        card: CardSetup {
            input: config.input.clone(),
            output: config.output.clone(),
            rate: config.card_rate,
            period: config.period,
        },
        engine: EngineSetup {
            rate: config.rate,
            echo: config.echo,
            tones,
            wants_speech: matches!(config.start, Mode::Vad { .. }),
        },
        news: tell,
        metrics: shared.metrics.clone(),
    };
    let handle = station::start(setup).map_err(|error| Fault::system("a thread could not be started", &error))?;
    Ok((handle, news))
}

/// Pieces between a station and its call: more than a card's ring holds, which may come at once.
const PIECES: usize = 64;
/// And frames: 80 ms of the agent.
const FRAMES: usize = 4;
/// How often a line that is given up looks whether its call is over.
const A_WHILE: Duration = Duration::from_millis(100);
/// Signs of life that are older are not news.
const FRESH: Now = Now::from_secs(1);
/// How long the start waits for a card that does not open.
const PATIENCE: Now = Now::from_secs(3);
/// How long after a thread that ended another takes its place.
const ANEW: Now = Now::from_secs(1);
const FOREVER: Now = Now::from_secs(3600);
