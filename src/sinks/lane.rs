//! The way to one sink: from memory to its spool, from there to it, and again until it took it.
//!
//! The disk is touched on threads of its own, so that one that hangs holds up this lane and no other.

use core::{future::Future, pin::Pin, time::Duration};
use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use log::{info, warn};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Fault, Trouble,
    backoff::Backoff,
    item::Item,
    redis::Redis,
    spool::{Spool, Waiting},
    webhook::Webhook,
};
use crate::control::{
    messages,
    metrics::{Counter, Metrics},
};

/// What a lane is made of.
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) most_bytes: u64,
    pub(super) intake: mpsc::UnboundedReceiver<Item>,
    pub(super) backlog: Arc<AtomicUsize>,
    pub(super) carrier: Carrier,
    pub(super) metrics: Arc<Metrics>,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) trouble: Arc<Trouble>,
}

/// What carries items to a sink.
pub(super) enum Carrier {
    Webhook(Webhook),
    Redis(Redis),
}

impl Carrier {
    async fn deliver(&mut self, item: &Item) -> Result<(), Fault> {
        match self {
            Self::Webhook(webhook) => webhook.deliver(item).await,
            Self::Redis(redis) => redis.deliver(item).await,
        }
    }
}

/// What became of items that were under way, in their order.
struct Delivery {
    carrier: Carrier,
    /// How many of them are done with, and up to where.
    done: Vec<Waiting>,
    /// Those of them that the sink will never take, and why.
    refused: Vec<(Vec<u8>, String)>,
    /// Why the next one is not.
    fault: Option<(String, Option<Duration>)>,
}

type UnderWay = Pin<Box<dyn Future<Output = Delivery>>>;

/// What a lane is doing.
struct Work {
    name: String,
    folder: PathBuf,
    metrics: Arc<Metrics>,
    backlog: Arc<AtomicUsize>,
    /// `None` only while a thread has it.
    spool: Option<Spool>,
    /// Items that the disk has not taken.
    unwritten: Vec<Item>,
    /// How many wait, as the metrics know it: an item counts from when it was put into the queue.
    told_waiting: u64,
    /// When the disk is asked again.
    disk_retry: Option<Instant>,
    /// When what was written is made safe.
    sync_at: Option<Instant>,
    is_disk_failing: bool,
    /// Why the sink took nothing when it was last asked.
    failing: Option<String>,
    /// Whether one of the two is so, for others to see.
    trouble: Arc<Trouble>,
    backoff: Backoff,
    /// When the sink is asked again.
    retry_at: Option<Instant>,
}

impl Lane {
    /// Carries items until it is told to close, and then puts what is left on disk.
    pub(super) async fn serve(self) {
        let Self { name, folder, most_bytes, mut intake, backlog, carrier, metrics, mut closing, trouble } = self;
        let mut is_told = false;
        let spool = loop {
            let path = folder.clone();
            let error = match spawn_blocking(move || Spool::open(&path, most_bytes)).await {
                Ok(Ok(spool)) => break spool,
                Ok(Err(error)) => error,
                Err(_) => io::Error::other("its thread panicked"),
            };
            trouble.items.store(true, Relaxed);
            if !core::mem::replace(&mut is_told, true) {
                let path = folder.display();
                warn!(
                    message_id = messages::SINK_FAILING, sink = name, path:%, error:%;
                    "a sink does not take what is meant for it: its spool cannot be opened"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(DISK_RETRY) => {}
                _ = closing.changed() => {
                    let lost = intake.len() as u64;
                    on_lost(&name, &metrics, lost, AT_THE_END);
                    return metrics.sink_items_wait(lost, 0);
                }
            }
        };
        let waiting = spool.waiting();
        if waiting > 0 {
            info!(sink = name, waiting; "what waited for a sink goes on its way");
        }
        let mut work = Work {
            name,
            folder,
            metrics,
            backlog,
            spool: Some(spool),
            unwritten: Vec::new(),
            told_waiting: 0,
            disk_retry: None,
            sync_at: None,
            is_disk_failing: false,
            failing: None,
            trouble,
            backoff: Backoff::default(),
            retry_at: None,
        };
        work.tell_waiting();
        work.tell_trouble();
        work.run(&mut intake, carrier, &mut closing).await;
    }
}

impl Work {
    async fn run(
        &mut self,
        intake: &mut mpsc::UnboundedReceiver<Item>,
        carrier: Carrier,
        closing: &mut watch::Receiver<bool>,
    ) {
        let mut resting = Some(carrier);
        let mut under_way: Option<UnderWay> = None;
        while !*closing.borrow() {
            if under_way.is_none() && self.retry_at.is_none() {
                let batch = self.peek().await;
                if !batch.is_empty()
                    && let Some(carrier) = resting.take()
                {
                    under_way = Some(Box::pin(carry(carrier, batch)));
                }
            }
            let next = [self.retry_at, self.sync_at, self.disk_retry].into_iter().flatten().min();
            tokio::select! {
                came = intake.recv_many(&mut self.unwritten, MOST_AT_ONCE), if self.unwritten.is_empty() => {
                    self.told_waiting += came as u64;
                    self.write().await;
                }
                delivery = finished(&mut under_way) => {
                    under_way = None;
                    resting = Some(self.settle(delivery).await);
                }
                () = until(next) => self.on_time().await,
                // Its sender is gone: that is a close too.
                changed = closing.changed() => if changed.is_err() { break },
            }
        }
        while let Ok(item) = intake.try_recv() {
            self.unwritten.push(item);
            self.told_waiting += 1;
        }
        self.write().await;
        on_lost(&self.name, &self.metrics, self.unwritten.len() as u64, AT_THE_END);
        // What is under way may arrive: then it is not sent again.
        if under_way.is_some()
            && let Ok(delivery) = timeout(LAST_DELIVERY, finished(&mut under_way)).await
        {
            self.settle(delivery).await;
        }
        let _ = self.on_disk(Spool::sync).await;
        // What is left waits for the next start, which counts it.
        self.metrics.sink_items_wait(self.told_waiting, 0);
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        // The next turn of the loop asks the sink.
        take_due(&mut self.retry_at, now);
        if take_due(&mut self.disk_retry, now) {
            self.write().await;
        }
        if take_due(&mut self.sync_at, now)
            && let Some(Err(error)) = self.on_disk(Spool::sync).await
        {
            self.on_disk_failed(&error);
        }
    }

    /// Writes what the disk has not taken.
    async fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let lines: Vec<_> = self.unwritten.iter().map(Item::line).collect();
        match self.on_disk(move |spool| spool.append(&lines)).await {
            Some(Ok(dropped)) => {
                let bytes = self.unwritten.drain(..).map(|item| item.body.len()).sum();
                self.backlog.fetch_sub(bytes, Relaxed);
                self.sync_at.get_or_insert(Instant::now() + SYNC_WITHIN);
                if core::mem::take(&mut self.is_disk_failing) {
                    info!(
                        message_id = messages::SINK_TAKES, sink = self.name, what = "spool";
                        "a sink takes again what is meant for it"
                    );
                }
                on_lost(&self.name, &self.metrics, dropped, "its spool is full: see [sinks] max-mib");
            }
            Some(Err(error)) => self.on_disk_failed(&error),
            None => self.disk_retry = Some(Instant::now() + DISK_RETRY),
        }
        self.tell_trouble();
        self.tell_waiting();
    }

    fn on_disk_failed(&mut self, error: &io::Error) {
        self.disk_retry = Some(Instant::now() + DISK_RETRY);
        if !core::mem::replace(&mut self.is_disk_failing, true) {
            let path = self.folder.display();
            warn!(
                message_id = messages::SINK_FAILING, sink = self.name, path:%, error:%;
                "a sink does not take what is meant for it: its spool cannot be written"
            );
        }
        self.tell_trouble();
    }

    /// What is to be carried next.
    async fn peek(&mut self) -> Vec<Waiting> {
        if self.spool.as_ref().is_none_or(|spool| spool.waiting() == 0) {
            return Vec::new();
        }
        match self.on_disk(|spool| spool.peek(MOST_AT_ONCE, MOST_BYTES)).await {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => {
                self.on_disk_failed(&error);
                self.retry_at = self.disk_retry;
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Takes note of what became of a delivery, and gives its carrier back.
    async fn settle(&mut self, delivery: Delivery) -> Carrier {
        let Delivery { carrier, done, refused, fault } = delivery;
        let count = done.len() as u64;
        self.metrics.add(Counter::SinkItemsSent, count - refused.len() as u64);
        if !refused.is_empty() {
            self.bury(refused).await;
        }
        if let Some(last) = done.last() {
            let end = last.end;
            // It is remembered all the same; at worst a restart sends again.
            let _ = self.on_disk(move |spool| spool.advance(end, count)).await;
        }
        match fault {
            None => {
                self.backoff.on_taken();
                if self.failing.take().is_some() {
                    self.metrics.sink_fails(false);
                    info!(
                        message_id = messages::SINK_TAKES, sink = self.name;
                        "a sink takes again what is meant for it"
                    );
                }
            }
            Some((words, wait)) => {
                if count > 0 {
                    self.backoff.on_taken();
                }
                self.metrics.add(Counter::SinkFailures, 1);
                self.retry_at = Some(Instant::now() + self.backoff.on_failed(dice(), wait));
                let waiting = self.spool.as_ref().map_or(0, Spool::waiting);
                if self.failing.as_ref() != Some(&words) {
                    warn!(
                        message_id = messages::SINK_FAILING, sink = self.name, error = words, waiting;
                        "a sink does not take what is meant for it"
                    );
                    if self.failing.replace(words).is_none() {
                        self.metrics.sink_fails(true);
                    }
                }
            }
        }
        self.tell_trouble();
        self.tell_waiting();
        carrier
    }

    /// Puts aside what the sink will never take.
    async fn bury(&mut self, refused: Vec<(Vec<u8>, String)>) {
        let (count, why) = (refused.len() as u64, refused[0].1.clone());
        self.metrics.add(Counter::SinkItemsRefused, count);
        let path = self.folder.join(REFUSED);
        warn!(
            message_id = messages::SINK_REFUSED, sink = self.name, items = count, why, path:% = path.display();
            "a sink refuses for ever what is meant for it"
        );
        let kept = spawn_blocking(move || {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
            if file.metadata()?.len() > MOST_REFUSED {
                return Err(io::Error::other("the file is full"));
            }
            let lines: Vec<_> = refused.into_iter().map(|(line, _)| line).collect();
            file.write_all(&[lines.join(&b'\n'), b"\n".to_vec()].concat())
        });
        if !matches!(kept.await, Ok(Ok(()))) {
            self.metrics.add(Counter::SinkItemsLost, count);
        }
    }

    fn tell_trouble(&self) {
        self.trouble.items.store(self.is_disk_failing || self.failing.is_some(), Relaxed);
    }

    fn tell_waiting(&mut self) {
        let waiting = self.spool.as_ref().map_or(0, Spool::waiting) + self.unwritten.len() as u64;
        self.metrics.sink_items_wait(self.told_waiting, waiting);
        self.told_waiting = waiting;
    }

    /// Does something to the spool where it may hang. `None`: it panicked, and the lane is at its end.
    async fn on_disk<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Spool) -> T + Send + 'static) -> Option<T> {
        let mut spool = self.spool.take()?;
        let (spool, done) = spawn_blocking(move || {
            let done = work(&mut spool);
            (spool, done)
        })
        .await
        .ok()?;
        self.spool = Some(spool);
        Some(done)
    }
}

/// Items found no room.
fn on_lost(sink: &str, metrics: &Metrics, lost: u64, why: &str) {
    if lost > 0 {
        metrics.add(Counter::SinkItemsLost, lost);
        warn!(message_id = messages::SINK_LOST, sink, lost, why; "what was meant for a sink is lost");
    }
}

/// Carries items one after the other, until one is not taken, or for so long that the cursor should know of it.
async fn carry(mut carrier: Carrier, batch: Vec<Waiting>) -> Delivery {
    let (mut done, mut refused, mut fault) = (Vec::new(), Vec::new(), None);
    let since = Instant::now();
    for waiting in batch {
        if since.elapsed() > CARRY_FOR {
            break;
        }
        let outcome = match Item::parse(&waiting.line) {
            Some(item) => carrier.deliver(&item).await,
            None => Err(Fault::Never("it is not what a spool holds".to_owned())),
        };
        match outcome {
            Ok(()) => done.push(waiting),
            Err(Fault::Never(words)) => {
                refused.push((waiting.line.clone(), words));
                done.push(waiting);
            }
            Err(Fault::Later { words, wait }) => {
                fault = Some((words, wait));
                break;
            }
        }
    }
    Delivery { carrier, done, refused, fault }
}

async fn finished(under_way: &mut Option<UnderWay>) -> Delivery {
    match under_way {
        Some(delivery) => delivery.await,
        None => core::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => core::future::pending().await,
    }
}

fn take_due(at: &mut Option<Instant>, now: Instant) -> bool {
    let due = at.is_some_and(|at| at <= now);
    if due {
        *at = None;
    }
    due
}

/// A number that nobody else has thrown this moment.
pub(super) fn dice() -> u8 {
    let mut dice = [0];
    // The kernel's generator does not fail once the machine has booted.
    let _ = getrandom::fill(&mut dice);
    dice[0]
}

/// Items that are written, or carried, before anything else is looked at.
const MOST_AT_ONCE: usize = 64;
/// And their bytes.
const MOST_BYTES: usize = 1 << 20;
/// What was written is made safe from power cuts so soon, for all since then at once.
const SYNC_WITHIN: Duration = Duration::from_secs(2);
/// A disk that took nothing is asked again after so long.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// Whoever is killed sends what was taken in so much time once more.
const CARRY_FOR: Duration = Duration::from_millis(200);
/// What is under way at the end has so long to arrive.
const LAST_DELIVERY: Duration = Duration::from_millis(500);
/// Why there was no room for the last items.
const AT_THE_END: &str = "the daemon ends, and the disk takes none";
/// Beside the spool's files: what the sink will never take.
const REFUSED: &str = "refused";
const MOST_REFUSED: u64 = 16 << 20;
