//! The certificate of a door, read again when its files change: whoever renews it need not restart a thing.
//!
//! It is looked at when somebody connects. A disk that hangs holds up that one connection for a moment, and a new pair
//! that is no good leaves the old one in place.

use core::{
    cell::{Cell, RefCell},
    time::Duration,
};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path, rc::Rc, sync::Arc};

use log::{info, warn};
use rustls::ServerConfig;
use tokio::{sync::oneshot, task::spawn_local, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::Pair,
    control::messages,
    leg::websocket::tls::{self, TlsError},
};

/// The certificate of one line.
pub struct Certificate {
    line: String,
    pair: Pair,
    current: RefCell<Arc<ServerConfig>>,
    /// The files as they were when they were last read.
    seen: RefCell<Option<Stamp>>,
    is_checking: Cell<bool>,
}

/// What changes when a file does: of both files when, how long, and which.
type Stamp = [(i64, i64, u64, u64); 2];

impl Certificate {
    /// Reads it. Not for a thread that moves audio.
    ///
    /// # Errors
    /// [`TlsError`] when it cannot be used.
    pub fn load(line: &str, pair: &Pair) -> Result<Self, TlsError> {
        // Asked first: what changes between the two is read once more.
        let seen = stamp(pair).ok();
        let current = tls::server_config(&pair.certificate, &pair.key)?;
        Ok(Self {
            line: line.to_owned(),
            pair: pair.clone(),
            current: RefCell::new(current),
            seen: RefCell::new(seen),
            is_checking: Cell::default(),
        })
    }

    /// What lets the next client in.
    pub async fn acceptor(self: &Rc<Self>) -> TlsAcceptor {
        if !self.is_checking.replace(true) {
            let (done, is_done) = oneshot::channel();
            let own = Rc::clone(self);
            spawn_local(async move {
                own.check().await;
                own.is_checking.set(false);
                // Nobody waited that long.
                let _ = done.send(());
            });
            // Late: the old one will do, and the next client may find the new one.
            let _ = timeout(PATIENCE, is_done).await;
        }
        TlsAcceptor::from(Arc::clone(&self.current.borrow()))
    }

    async fn check(&self) {
        let (pair, seen) = (self.pair.clone(), *self.seen.borrow());
        let Ok(found) = tokio::task::spawn_blocking(move || changed(&pair, seen)).await else { return };
        let Some((stamp, read)) = found else { return };
        *self.seen.borrow_mut() = Some(stamp);
        match read {
            Ok(config) => {
                *self.current.borrow_mut() = config;
                info!(line = self.line; "a new certificate is in use");
            }
            Err(error) => warn!(
                message_id = messages::CERTIFICATE_KEPT, line = self.line, error:%;
                "a new certificate cannot be used: the old one is kept"
            ),
        }
    }
}

/// The pair, if it is another than it was. One that is not there, as between two steps of a renewal, is no other.
fn changed(pair: &Pair, seen: Option<Stamp>) -> Option<(Stamp, Result<Arc<ServerConfig>, TlsError>)> {
    let stamp = stamp(pair).ok().filter(|stamp| Some(*stamp) != seen)?;
    Some((stamp, tls::server_config(&pair.certificate, &pair.key)))
}

fn stamp(pair: &Pair) -> io::Result<Stamp> {
    let of = |path: &Path| {
        let found = fs::metadata(path)?;
        Ok::<_, io::Error>((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
    };
    Ok([of(&pair.certificate)?, of(&pair.key)?])
}

/// A disk that takes longer to answer has other troubles.
const PATIENCE: Duration = Duration::from_millis(500);
