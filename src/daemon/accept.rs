//! Connections of PBXs: who may connect, which call it is, and how a caller is given back who cannot be taken.

use core::time::Duration;
use std::{net::SocketAddr, rc::Rc};

use log::{info, warn};
use socket2::SockRef;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::EndReason,
    config::LineKind,
    daemon::calls::{Arrival, Shared},
    leg::audiosocket::{
        Uuid,
        line::Line,
        message::{Item, Reader, write_hangup},
        rate_of,
    },
    media::Rate,
};

/// Takes connections of PBXs, until the line is closed.
pub(super) async fn accept(shared: Rc<Shared>, line: usize, listener: TcpListener, closed: CancellationToken) {
    while let Some(accepted) = closed.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(line = shared.config().lines[line].name, error:%; "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let config = shared.config();
        let LineKind::Audiosocket { allow, .. } = &config.lines[line].kind else { return };
        if !allow.is_empty() && !allow.iter().any(|cidr| cidr.contains(peer.ip())) {
            shared.on_outsider(line, peer);
            continue;
        }
        if !shared.has_seat() {
            turn_away(&shared, stream);
            continue;
        }
        shared.calls.borrow_mut().arriving += 1;
        let shared = Rc::clone(&shared);
        spawn_local(arrive(shared, line, stream, peer));
    }
}

/// Hears which call a connection is, and begins it.
async fn arrive(shared: Rc<Shared>, line: usize, mut stream: TcpStream, peer: SocketAddr) {
    let config = shared.config();
    let name = &config.lines[line].name;
    let mut reader = Reader::new();
    let first = tokio::select! {
        first = tokio::time::timeout(FIRST_MESSAGE, first_message(&mut stream, &mut reader)) => Some(first),
        () = shared.until_drained() => None,
    };
    let line_rate = if shared.wants_rate(line) && matches!(first, Some(Ok(Ok(_)))) {
        first_rate(&mut stream, &mut reader).await
    } else {
        Rate::Hz8000
    };
    shared.calls.borrow_mut().arriving -= 1;
    let uuid = match first {
        None => return turn_away(&shared, stream),
        Some(Err(_)) => {
            shared.metrics.call_never_began(EndReason::LineSilent);
            info!(line = name, peer:%, end_reason:% = EndReason::LineSilent; "a connection named no call in 2 s");
            return;
        }
        Some(Ok(Err(words))) => {
            shared.metrics.call_never_began(EndReason::Protocol);
            warn!(line = name, peer:%, end_reason:% = EndReason::Protocol, words; "a connection was no AudioSocket call");
            return;
        }
        Some(Ok(Ok(uuid))) => uuid,
    };
    // Between its connection and its name others may have come, or the end of the daemon.
    if !shared.has_seat() {
        return turn_away(&shared, stream);
    }
    match stream.into_std() {
        Ok(stream) => {
            let line_leg = Box::new(Line::new(reader));
            shared.begin(line, Arrival::Audiosocket { stream, line: line_leg, uuid, peer }, line_rate);
        }
        Err(error) => warn!(line = name, peer:%, error:%; "a connection was lost before its call began"),
    }
}

/// Back to the dialplan, which can send the caller elsewhere. The goodbye must not be overtaken by a reset, so the
/// connection stays until the PBX closes it, for a moment; a flood of them does not get that.
pub(super) fn turn_away(shared: &Rc<Shared>, stream: TcpStream) {
    let _ = stream.try_write(write_hangup(&mut [0; 3]));
    if shared.calls.borrow().leaving >= MOST_LEAVING {
        return;
    }
    shared.calls.borrow_mut().leaving += 1;
    let shared = Rc::clone(shared);
    spawn_local(async move {
        let _ = SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
        let mut stream = stream;
        let mut bytes = [0; 512];
        let rest = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
        // Late or not, it is closed now.
        let _ = tokio::time::timeout(FIRST_MESSAGE, rest).await;
        shared.calls.borrow_mut().leaving -= 1;
    });
}

/// Reads the message that names the call.
async fn first_message(stream: &mut TcpStream, reader: &mut Reader) -> Result<Uuid, String> {
    let socket = SockRef::from(&*stream);
    // Wishes, not needs: a socket without them works.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(LINE_SEND_BUFFER);
    let _ = socket.set_tcp_user_timeout(Some(LINE_USER_TIMEOUT));
    loop {
        let uuid = match reader.peek() {
            Err(violation) => return Err(violation.to_string()),
            Ok(Some(Item::Uuid(uuid))) => Some(Uuid(uuid)),
            Ok(Some(_)) => return Err("its first message names no call".to_owned()),
            Ok(None) => None,
        };
        if let Some(uuid) = uuid {
            reader.advance();
            return Ok(uuid);
        }
        match stream.read(reader.spare()).await {
            Ok(0) => return Err("the connection was closed before it named a call".to_owned()),
            Ok(n) => reader.filled(n),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The rate of the first audio, for a trunk that takes the line's. A PBX that waits for us to begin has 8 kHz.
async fn first_rate(stream: &mut TcpStream, reader: &mut Reader) -> Rate {
    let heard = async {
        loop {
            match reader.peek() {
                Ok(Some(Item::Audio { kind, .. })) => return rate_of(kind),
                Ok(Some(_)) | Err(_) => return None,
                Ok(None) => {}
            }
            match stream.read(reader.spare()).await {
                Ok(n @ 1..) => reader.filled(n),
                // Whoever takes the call finds out.
                Ok(0) | Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(FIRST_AUDIO, heard).await.ok().flatten().unwrap_or(Rate::Hz8000)
}

/// A PBX that has connected has so long to name the call.
pub(super) const FIRST_MESSAGE: Duration = Duration::from_secs(2);
/// Connections that were turned away and may stay open for a moment.
pub(super) const MOST_LEAVING: usize = 64;
/// About 400 ms of frames, as the kernel counts them: what hides there a clear cannot reach.
const LINE_SEND_BUFFER: usize = 16 * 1024;
/// A PBX that acknowledges nothing for so long is gone.
const LINE_USER_TIMEOUT: Duration = Duration::from_secs(3);
/// A line's first audio comes with its first frame, or this late it is not waited for.
const FIRST_AUDIO: Duration = Duration::from_millis(100);
