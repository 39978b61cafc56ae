//! Has the config read again: by SIGHUP, or by `trunkline reload`.
//!
//! ```text
//!   file --load, roots--> Succession --bind--> every port that is needed --> the config in use --> lines, doors, dialler
//!          refused: the file           refused: the port               nothing is refused any more
//! ```
//!
//! Until the last port is bound nothing has changed, and what is refused leaves everything as it was. Live calls keep
//! their line, their trunk and their media thread whatever happens here.

use std::{path::PathBuf, rc::Rc, sync::Arc};

use log::{info, warn};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

use crate::{
    config::{self, Config, LineKind, ProcessEnvironment, Succession},
    control::{desk::CameOf, messages, systemd},
    daemon::{
        calls::{LineNews, Shared, TrunkNews},
        lines::{self, Bound},
    },
    leg::websocket::dialer::Roots,
};

/// Somebody wants the config to be read again, and waits for what came of it.
pub(super) type Wanted = oneshot::Sender<CameOf>;

/// Reads the config again whenever somebody wants it, one time after the other.
pub(super) async fn serve(shared: Rc<Shared>, path: PathBuf, mut wanted: mpsc::Receiver<Wanted>) {
    while let Some(answer) = wanted.recv().await {
        // What systemd does not hear it does not need: the unit says how long it waits.
        let _ = systemd::reloading();
        let came_of_it = reload(&shared, path.clone()).await;
        match &came_of_it {
            Ok(words) => info!(message_id = messages::RELOADED; "the config is read again: {words}"),
            Err(words) => warn!(
                message_id = messages::RELOAD_REFUSED;
                "the config was read again and is refused; the one before stays in use\n{words}"
            ),
        }
        // It waits for this word, so where it was not taken it is said again.
        shared.is_ready_told.set(systemd::ready().is_ok());
        // Whoever asked may have gone.
        let _ = answer.send(came_of_it);
    }
}

async fn reload(shared: &Rc<Shared>, path: PathBuf) -> Result<String, String> {
    // Files, and where the platform keeps its roots dozens of them: not for the thread that feeds the watchdog.
    let read = spawn_blocking(move || {
        let config = config::load(&path, &ProcessEnvironment).map_err(|problems| problems.to_string())?;
        let roots = Roots::load(&config).map_err(|error| format!("TLS cannot be set up: {error}"))?;
        Ok::<_, String>((config, roots))
    });
    let (new, roots) =
        read.await.map_err(|_| "it could not be read, by a fault of ours; see the journal".to_owned())??;
    if shared.calls.borrow().draining {
        return Err("the daemon is going down".to_owned());
    }
    let warnings = new.warnings();
    let old = shared.config();
    let succession = new.succeed(&old);
    let bound = bind_all(shared, &old, &succession, &roots)?;
    for warning in warnings {
        warn!("{warning}");
    }
    let words = in_words(&succession);
    take(shared, succession, roots, bound).await?;
    Ok(words)
}

/// What is bound for which line.
type AllBound = Vec<(usize, Bound)>;

/// Takes what the lines need that open, or listen elsewhere than before.
fn bind_all(shared: &Shared, old: &Config, succession: &Succession, roots: &Roots) -> Result<AllBound, String> {
    let Succession { config, opens, closes, changes, .. } = succession;
    let moves = |&place: &usize| lines::place(&old.lines[place].kind) != lines::place(&config.lines[place].kind);
    let moving: Vec<_> = changes.iter().copied().filter(moves).collect();
    let mut bound = Vec::new();
    for &index in opens.iter().chain(&moving) {
        let line = &config.lines[index];
        if let (LineKind::Sip(sip), Some(former)) = (&line.kind, shared.sip_line_of(index)) {
            if former.is_bound_as(sip) {
                continue;
            }
            let name = &line.name;
            return Err(format!(
                "[line.{name}]: calls of the time when it listened elsewhere still go on; try again later"
            ));
        }
        // One that gives its port up in the same breath hands it on: no connection finds the port closed.
        let handed_on = lines::listens(&line.kind).and_then(|address| {
            let news = shared.lines.borrow();
            let mut leaving = closes.iter().chain(&moving);
            leaving.find_map(|&from| {
                let was_there = lines::listens(&old.lines[from].kind) == Some(address);
                news[from].listener.as_ref().filter(|_| was_there)?.try_clone().ok()
            })
        });
        let bound_to = match handed_on {
            Some(listener) => Bound::Tcp(listener),
            None => lines::bind(line, roots).map_err(|fault| fault.words)?,
        };
        bound.push((index, bound_to));
    }
    Ok(bound)
}

/// The config is in use from here on.
async fn take(shared: &Rc<Shared>, succession: Succession, roots: Roots, mut bound: AllBound) -> Result<(), String> {
    let Succession { config, opens, closes, changes, .. } = succession;
    shared.lines.borrow_mut().resize_with(config.lines.len(), LineNews::default);
    shared.trunks.borrow_mut().resize_with(config.trunks.len(), TrunkNews::default);
    // The roots first: whoever knows a trunk knows whom it trusts there.
    let roots = Arc::new(roots);
    shared.roots.send_replace(Arc::clone(&roots));
    shared.config.send_replace(Arc::new(config));
    for line in shared.sip_lines() {
        line.trust(&roots);
    }
    for &index in &closes {
        lines::close(shared, index);
    }
    let mut failed = Vec::new();
    for (index, changes) in
        changes.into_iter().map(|index| (index, true)).chain(opens.into_iter().map(|index| (index, false)))
    {
        let own = bound.iter().position(|(of, _)| *of == index).map(|place| bound.swap_remove(place).1);
        let done =
            if changes { lines::change(shared, index, own).await } else { lines::open(shared, index, own).await };
        failed.extend(done.err().map(|fault| fault.words));
    }
    shared.tell_doors();
    if failed.is_empty() { Ok(()) } else { Err(format!("all else is in use, but: {}", failed.join("; "))) }
}

fn in_words(succession: &Succession) -> String {
    let told = if succession.told.is_empty() { "nothing changes".to_owned() } else { succession.told.join(", ") };
    if succession.waits.is_empty() {
        return told;
    }
    format!("{told}; only a restart can change {}", succession.waits.join(", "))
}

impl Shared {
    /// SIGHUP: whoever sends it reads the journal.
    pub(super) fn reload_by_signal(&self) {
        // As many as wait already are as good as one more.
        let _ = self.reload.try_send(oneshot::channel().0);
    }

    /// Has the config read again, and is told what comes of it.
    pub(super) fn order_reload(&self) -> Result<oneshot::Receiver<CameOf>, String> {
        if self.calls.borrow().draining {
            return Err("the daemon is going down".to_owned());
        }
        let (wanted, came_of_it) = oneshot::channel();
        self.reload
            .try_send(wanted)
            .map_err(|_| "it is not read again: too many wait for that, or it was not read from a file".to_owned())?;
        Ok(came_of_it)
    }
}
