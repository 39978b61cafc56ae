//! Lines: how they are opened, go on by another config, and are closed, while the daemon runs.
//!
//! What can fail for want of a port comes first and changes nothing: [`bind`]. A line that is closed takes no more calls;
//! those that it has go on.

use core::net::SocketAddr;
use std::{net::TcpListener as StdTcpListener, path::Path, rc::Rc, sync::Arc};

use log::{info, warn};
use tokio::{net::TcpListener, sync::mpsc, task::spawn_local};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Line, LineKind, PipeSource, SipLine as SipConfig, SoundLine as SoundConfig},
    control::{local::Local, messages},
    daemon::{
        Fault, accept,
        calls::Shared,
        cannot_listen, pipes,
        sip::{self, SipLine},
        sound::SoundLine,
    },
    leg::websocket::{
        dialer::{Opening, Roots},
        door::{self, DoorSetup},
        outbound::OutboundSetup,
    },
};

/// What a line needs that another process may have.
pub(super) enum Bound {
    Tcp(StdTcpListener),
    Unix(Local),
    Sip(Box<sip::Bound>),
    /// It needs nothing, or says itself what it lacks.
    Nothing,
}

/// What a line needs that another process may have: where two are alike, one line can go on for the other.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'c> {
    Tcp(SocketAddr),
    Unix(&'c Path),
    /// What a line of this kind needs it keeps, or takes and gives back by itself.
    Own(&'static str),
}

/// Where a line is.
pub(super) fn place(kind: &LineKind) -> Place<'_> {
    if let Some(address) = listens(kind) {
        return Place::Tcp(address);
    }
    match kind {
        LineKind::Pipe(pipe) if let PipeSource::Socket(path) = &pipe.source => Place::Unix(path),
        kind => Place::Own(kind.name()),
    }
}

/// Where a line listens for connections, if it does.
pub(super) fn listens(kind: &LineKind) -> Option<SocketAddr> {
    match kind {
        LineKind::Audiosocket { listen, .. } => Some(*listen),
        LineKind::Websocket(websocket) => Some(websocket.listen()?.address),
        LineKind::Sip(_) | LineKind::Sound(_) | LineKind::Pipe(_) => None,
    }
}

/// Takes what a line needs.
///
/// # Errors
/// Says what is not to be had, and what to do.
pub(super) fn bind(line: &Line, roots: &Roots) -> Result<Bound, Fault> {
    let name = &line.name;
    if let Some(address) = listens(&line.kind) {
        let listener = door::bind(address);
        return listener
            .map(Bound::Tcp)
            .map_err(|error| cannot_listen(address, &format!("[line.{name}] listen"), &error));
    }
    match &line.kind {
        LineKind::Sip(config) => Ok(Bound::Sip(Box::new(sip::bind(name, config, roots)?))),
        LineKind::Pipe(pipe) => match &pipe.source {
            PipeSource::Socket(path) => {
                let local = Local::open(path, &format!("[line.{name}] listen"));
                local.map(Bound::Unix).map_err(|error| Fault::config(error.to_string()))
            }
            PipeSource::Ends { .. } => Ok(Bound::Nothing),
        },
        LineKind::Audiosocket { .. } | LineKind::Websocket(_) | LineKind::Sound(_) => Ok(Bound::Nothing),
    }
}

/// Opens a line that is new, or was gone.
///
/// # Errors
/// As [`start`].
pub(super) async fn open(shared: &Rc<Shared>, index: usize, bound: Option<Bound>) -> Result<(), Fault> {
    let config = shared.config();
    match &config.lines[index].kind {
        LineKind::Sip(sip) if let Some(former) = shared.sip_line_of(index) => {
            spawn_local(former.change(Rc::clone(shared), SipConfig::clone(sip), true));
            Ok(())
        }
        LineKind::Sound(sound) => {
            // A card takes its time, and the next call may.
            change_sound(shared, index, sound);
            Ok(())
        }
        _ => start(shared, index, bound.unwrap_or(Bound::Nothing)).await,
    }
}

/// Has a line take calls.
///
/// # Errors
/// What only shows now: the line takes none.
pub(super) async fn start(shared: &Rc<Shared>, index: usize, bound: Bound) -> Result<(), Fault> {
    let config = shared.config();
    let Line { name, kind, .. } = &config.lines[index];
    let closed = CancellationToken::new();
    match (kind, bound) {
        (LineKind::Audiosocket { .. }, Bound::Tcp(listener)) => {
            keep(shared, index, name, &listener);
            let listener =
                TcpListener::from_std(listener).map_err(|error| Fault::system("a socket cannot be used", &error))?;
            spawn_local(accept::accept(Rc::clone(shared), index, listener, closed.clone()));
        }
        (LineKind::Websocket(_), Bound::Tcp(listener)) => {
            keep(shared, index, name, &listener);
            let (line, patience, closed) = (index, door::PATIENCE, closed.clone());
            let (arrivals, metrics) = (shared.arrived.clone(), Arc::clone(&shared.metrics));
            let (config, house) = (shared.config.subscribe(), shared.house.subscribe());
            let setup = DoorSetup { config, line, listener, arrivals, house, metrics, patience, closed };
            tell_dialler(shared, Opening::Door(setup)).await?;
        }
        (LineKind::Websocket(websocket), _) => {
            let ids = websocket.fetches().then(|| {
                let (sender, ids) = mpsc::channel(config.media.max_calls);
                shared.fetches.borrow_mut().insert(index, sender);
                ids
            });
            let (config, closed) = (Arc::clone(&config), closed.clone());
            let (arrivals, house) = (shared.arrived.clone(), shared.house.subscribe());
            let setup = OutboundSetup { config, line: index, arrivals, house, ids, closed };
            tell_dialler(shared, Opening::Outbound(setup)).await?;
        }
        (LineKind::Sip(sip), Bound::Sip(bound)) => SipLine::start(shared, index, name, sip, *bound),
        (LineKind::Sound(sound), _) => SoundLine::open(shared, index, name, sound).await?,
        (LineKind::Pipe(pipe), Bound::Unix(socket)) => {
            if let PipeSource::Socket(path) = &pipe.source {
                info!(line = name, listen = path.display().to_string(); "line listens");
            }
            spawn_local(pipes::accept(Rc::clone(shared), index, socket, closed.clone()));
        }
        (LineKind::Pipe(pipe), _) => pipes::open(shared, index, name, pipe, closed.clone())?,
        (LineKind::Audiosocket { .. } | LineKind::Sip(_), _) => {} // they were bound to what is theirs
    }
    shared.lines.borrow_mut()[index].open = Some(closed.drop_guard());
    Ok(())
}

/// Has a line go on by the config that is in use now. `bound`: it listens elsewhere than before.
///
/// # Errors
/// As [`start`].
pub(super) async fn change(shared: &Rc<Shared>, index: usize, bound: Option<Bound>) -> Result<(), Fault> {
    if let Some(bound) = bound {
        close(shared, index);
        return start(shared, index, bound).await;
    }
    let config = shared.config();
    match &config.lines[index].kind {
        // What they go by they look up, or are told.
        LineKind::Audiosocket { .. } => {}
        LineKind::Websocket(websocket) if websocket.listen().is_some() => {}
        LineKind::Pipe(pipe) if matches!(pipe.source, PipeSource::Socket(_)) => {}
        LineKind::Sip(sip) => {
            if let Some(line) = shared.sip_line_of(index) {
                spawn_local(line.change(Rc::clone(shared), SipConfig::clone(sip), false));
            }
        }
        LineKind::Sound(sound) => change_sound(shared, index, sound),
        LineKind::Websocket(_) | LineKind::Pipe(_) => {
            close(shared, index);
            start(shared, index, Bound::Nothing).await?;
        }
    }
    Ok(())
}

/// Has a line take no more calls.
pub(super) fn close(shared: &Rc<Shared>, index: usize) {
    {
        let news = &mut shared.lines.borrow_mut()[index];
        (news.open, news.listener, news.listens_on) = (None, None, None);
        news.next_turn();
    }
    shared.fetches.borrow_mut().remove(&index);
    if let Some(line) = shared.sip_line_of(index) {
        spawn_local(line.retire(Rc::clone(shared)));
    }
    if let Some(line) = shared.sound_line_of(index) {
        spawn_local(line.retire(Rc::clone(shared)));
    }
}

/// A card is one line's at a time, and a call has it until it ends.
fn change_sound(shared: &Rc<Shared>, index: usize, sound: &SoundConfig) {
    let (shared, sound, name) = (Rc::clone(shared), sound.clone(), shared.config().lines[index].name.clone());
    let turn = shared.lines.borrow_mut()[index].next_turn();
    spawn_local(async move {
        if let Some(line) = shared.sound_line_of(index) {
            line.retire(Rc::clone(&shared)).await;
        }
        // Meanwhile it may have been changed again, or closed.
        if shared.lines.borrow()[index].turn == turn
            && let Err(fault) = SoundLine::open(&shared, index, &name, &sound).await
        {
            warn!(message_id = messages::CARD_OUT, line = name; "the sound card is out: {}", fault.words);
        }
    });
}

async fn tell_dialler(shared: &Shared, opening: Opening) -> Result<(), Fault> {
    shared.openings.send(opening).await.map_err(|_| Fault::config("the dial thread ended".to_owned()))
}

/// Notes where a line listens, and a handle of it for a line that takes its place.
fn keep(shared: &Shared, index: usize, name: &str, listener: &StdTcpListener) {
    let news = &mut shared.lines.borrow_mut()[index];
    news.listens_on = listener.local_addr().ok();
    news.listener = listener.try_clone().ok();
    if let Some(address) = news.listens_on {
        info!(line = name, listen:% = address; "line listens");
    }
}
