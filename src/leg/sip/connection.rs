//! One connection of a stream transport, from its first byte to its end.
//!
//! ```text
//!   peer --> read --> Splitter --> the line          waits while the line is busy, and the peer with it
//!   peer <-- write <-- queue of fixed length <-- the line, which never waits: full is the end of the connection
//! ```

use core::{cell::Cell, fmt, future::Future, time::Duration};
use std::{io, rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::leg::sip::{Item, Malformed, Message, Splitter, flow::Flow, stream::PONG, transport::Received};

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer closed it.
    Ended,
    /// It broke.
    Broken(io::ErrorKind),
    /// Nothing came for too long.
    Idle,
    /// A message was begun, or waited for, and did not come in time.
    Slow,
    /// What came cannot be cut into messages, and why.
    NotSip(String),
    /// The peer does not take what it is sent.
    Lagging,
    /// It did not come about, and why.
    Unreachable(String),
    /// We closed it.
    Ours,
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the peer closed the connection"),
            Self::Broken(kind) => write!(f, "the connection broke: {kind}"),
            Self::Idle => f.write_str("nothing came for too long"),
            Self::Slow => f.write_str("no whole message came in time"),
            Self::NotSip(why) => write!(f, "what came is no SIP: {why}"),
            Self::Lagging => f.write_str("the peer does not take what it is sent"),
            Self::Unreachable(why) => f.write_str(why),
            Self::Ours => f.write_str("we closed the connection"),
        }
    }
}

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// To come about: TCP and TLS.
    pub connect: Duration,
    /// For a whole message: the first one of a connection that a peer makes, and each once it has begun.
    pub message: Duration,
    /// For the peer to take what it is sent.
    pub write: Duration,
    /// Between two messages, where the peer made the connection.
    pub idle: Duration,
    /// Before we say that we are still there, where we made it (RFC 5626 4.4.1 has 95 to 120 s on TCP).
    pub ping: Duration,
}

impl Default for Patience {
    /// As in service.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            message: Duration::from_secs(10),
            write: Duration::from_secs(10),
            // A call may last that long without a word, and its BYE wants a connection; dead peers TCP finds by itself.
            idle: Duration::from_secs(3600),
            ping: Duration::from_secs(110),
        }
    }
}

/// What waits to be sent to the peer of one connection. It is measured in bytes: at the end of the daemon a hundred calls
/// say goodbye by one connection in one turn.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    messages: mpsc::UnboundedSender<Arc<[u8]>>,
    waiting: Rc<Cell<usize>>,
}

/// Its other end.
pub(super) struct Queued {
    messages: mpsc::UnboundedReceiver<Arc<[u8]>>,
    waiting: Rc<Cell<usize>>,
}

/// Why something cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// Too much waits already.
    Full,
    /// Nobody fetches it any more.
    Gone,
}

impl Queue {
    pub(super) fn new() -> (Self, Queued) {
        let (messages, fetched) = mpsc::unbounded_channel();
        let waiting = Rc::new(Cell::new(0));
        (Self { messages, waiting: Rc::clone(&waiting) }, Queued { messages: fetched, waiting })
    }

    pub(super) fn push(&self, bytes: Arc<[u8]>) -> Result<(), NotQueued> {
        let waiting = self.waiting.get() + bytes.len();
        if waiting > MOST_WAITING {
            return Err(NotQueued::Full);
        }
        self.messages.send(bytes).map_err(|_| NotQueued::Gone)?;
        self.waiting.set(waiting);
        Ok(())
    }
}

impl Queued {
    /// What never left.
    pub(super) fn into_rest(mut self) -> impl Iterator<Item = Arc<[u8]>> {
        core::iter::from_fn(move || self.messages.try_recv().ok())
    }

    fn on_written(&self, len: usize) {
        self.waiting.set(self.waiting.get().saturating_sub(len));
    }
}

/// What a connection is served with.
pub(super) struct Served<'s> {
    pub(super) flow: Flow,
    /// We made it: the peer need not say anything.
    pub(super) is_ours: bool,
    pub(super) patience: Patience,
    pub(super) queue: Queue,
    pub(super) received: &'s mpsc::Sender<Received>,
}

/// Serves a connection to its end. Gives why it ended, and whether the line ever heard of it.
pub(super) async fn serve<S: AsyncRead + AsyncWrite>(
    stream: S,
    served: Served<'_>,
    mut queued: Queued,
    stop: &mut oneshot::Receiver<Close>,
) -> (Close, bool) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut was_heard = false;
    let ping = served.is_ours.then_some(served.patience.ping);
    let close = tokio::select! {
        close = read(&mut reader, &served, &mut was_heard) => close,
        close = write(&mut writer, &mut queued, served.patience.write, ping) => close,
        why = stop => why.unwrap_or(Close::Ours),
    };
    // TLS says goodbye; a peer that does not listen to it misses nothing.
    let _ = timeout(GOODBYE, writer.shutdown()).await;
    (close, was_heard)
}

async fn read<R: AsyncRead + Unpin>(reader: &mut R, served: &Served<'_>, was_heard: &mut bool) -> Close {
    let patience = &served.patience;
    let mut splitter = Splitter::new();
    let mut buffer = vec![0; READ_LEN];
    let mut is_awaited = !served.is_ours;
    // The last message, or the begin of the one that has begun.
    let mut since = Instant::now();
    loop {
        let is_due = is_awaited || splitter.is_mid_message();
        let deadline = match () {
            () if is_due => Some(since + patience.message),
            () if served.is_ours => None,
            () => Some(since + patience.idle),
        };
        let len = match until(deadline, reader.read(&mut buffer)).await {
            None if is_due => return Close::Slow,
            None => return Close::Idle,
            Some(Ok(0)) => return Close::Ended,
            Some(Ok(len)) => len,
            Some(Err(error)) => return Close::Broken(error.kind()),
        };
        let was_mid_message = splitter.is_mid_message();
        let mut is_new = !was_mid_message && !is_awaited;
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            let taken = splitter.feed(rest);
            rest = &rest[taken..];
            let mut is_stuck = taken == 0;
            while let Some(item) = splitter.poll() {
                is_stuck = false;
                let (message, lost) = match item {
                    Item::Message(message) => (Ok(message), None),
                    Item::Malformed(malformed) => (Err(malformed), None),
                    Item::Lost(malformed) => {
                        let why = Close::NotSip(malformed.to_string());
                        (Err(malformed), Some(why))
                    }
                    Item::Ping => {
                        // Full: then there is more to say than that.
                        let _ = served.queue.push(PONG.into());
                        is_new = !is_awaited;
                        continue;
                    }
                };
                (is_new, is_awaited, *was_heard) = (true, false, true);
                tell(served, message).await;
                if let Some(why) = lost {
                    // Its answer is on the way.
                    tokio::time::sleep(GOODBYE.min(patience.write)).await;
                    return why;
                }
            }
            if is_stuck {
                return Close::NotSip("a message is longer than it may be".to_owned());
            }
        }
        if is_new {
            since = Instant::now();
        }
    }
}

/// Waits while the line is busy: so does the peer, by the window of TCP.
async fn tell(served: &Served<'_>, message: Result<Message, Malformed>) {
    // There is nobody any more: the connection ends with the line.
    let _ = served.received.send(Received::Message { flow: served.flow, message }).await;
}

async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    queued: &mut Queued,
    patience: Duration,
    ping: Option<Duration>,
) -> Close {
    loop {
        let bytes = match until(ping.map(|every| Instant::now() + every), queued.messages.recv()).await {
            Some(Some(bytes)) => bytes,
            Some(None) => return Close::Ours,
            None => {
                // It was never counted among what waits.
                queued.waiting.set(queued.waiting.get() + PING.len());
                PING.into()
            }
        };
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        match timeout(patience, written).await {
            Ok(Ok(())) => queued.on_written(bytes.len()),
            Ok(Err(error)) => return Close::Broken(error.kind()),
            Err(_) => return Close::Lagging,
        }
    }
}

/// `None`: it took too long.
async fn until<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

/// RFC 5626 3.5.1.
const PING: &[u8] = b"\r\n\r\n";
/// What is on its way at the end has so long to leave.
const GOODBYE: Duration = Duration::from_secs(1);
/// A hundred calls' last words. A peer that leaves so much unread does not read.
const MOST_WAITING: usize = 256 * 1024;
/// Most messages are shorter.
const READ_LEN: usize = 4096;
