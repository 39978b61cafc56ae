//! Pipe lines: files whose one call begins at once, FIFOs whose writers are calls, and Unix sockets, where a connection is
//! one and may first say who calls.

use core::{mem, time::Duration};
use std::{net::Shutdown, rc::Rc};

use log::{debug, info, warn};
use socket2::SockRef;
use tokio::{io::AsyncReadExt, net::UnixStream, sync::mpsc, task::spawn_local, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    call::EndReason,
    config::{LineKind, PipeEnd, PipeLine, PipeSource},
    control::{call_info::CallInfo, local::Local},
    daemon::{
        Fault,
        accept::{FIRST_MESSAGE, MOST_LEAVING},
        calls::{Arrival, PipeArrival, Shared, made_up_facts},
    },
    dialect::Direction,
    leg::pipe::{
        self, Ends, Fifos,
        hello::{Answer, MAX_LINE, Opening},
    },
    media::Rate,
};

/// Opens a line of files or FIFOs.
pub(super) fn open(
    shared: &Rc<Shared>,
    line: usize,
    name: &str,
    pipe: &PipeLine,
    closed: CancellationToken,
) -> Result<(), Fault> {
    let PipeLine { source, sample_rate, direction } = pipe;
    let failed = |error: &dyn core::fmt::Display| Fault::config(format!("[line.{name}] {error}"));
    let (rate, direction) = (*sample_rate, *direction);
    match source {
        PipeSource::Ends { input: PipeEnd::Fifo(input), output } => {
            let output = match output {
                Some(PipeEnd::Fifo(output)) => Some(output.clone()),
                // The check has seen to it that there is no other.
                Some(PipeEnd::Standard | PipeEnd::Wav(_)) | None => None,
            };
            let fifos = Fifos { line: name.to_owned(), input: input.clone(), output, rate, direction };
            spawn_local(serve(Rc::clone(shared), line, fifos, closed));
        }
        PipeSource::Ends { input, output } => {
            let (ends, writer) = pipe::open(input, output.as_ref(), rate, direction).map_err(|error| failed(&error))?;
            shared.begin(line, Arrival::Pipe(PipeArrival { ends, facts: None, writer }), rate);
        }
        PipeSource::Socket(_) => {} // it was bound, and is accepted from
    }
    Ok(())
}

/// Begins the calls of a FIFO's writers, until the line is closed. One for whom there is no seat is shut out.
async fn serve(shared: Rc<Shared>, line: usize, fifos: Fifos, closed: CancellationToken) {
    // Two that read from one FIFO would each have half of what is said.
    let own = shared.fifo(&fifos.input);
    let Some(alone) = closed.run_until_cancelled(own.lock_owned()).await else { return };
    let (name, path, rate) = (fifos.line.clone(), fifos.input.display().to_string(), fifos.rate);
    let (calls, mut taken) = mpsc::channel(1);
    if let Err(error) = pipe::serve(fifos, calls, alone) {
        shared.lines.borrow_mut()[line].fault = Some(format!("line {name}: a thread could not be started: {error}"));
        return warn!(line = name, error:%; "a thread could not be started");
    }
    info!(line = name, path; "line waits for who writes to its FIFO");
    // Then its thread ends with the call that it has, or soon.
    while let Some(Some(ends)) = closed.run_until_cancelled(taken.recv()).await {
        if let Some(line) = shared.seat(line) {
            shared.begin(line, Arrival::Pipe(PipeArrival { ends, facts: None, writer: None }), rate);
        }
    }
}

/// Takes the connections of a Unix socket.
pub(super) async fn accept(shared: Rc<Shared>, line: usize, socket: Local, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                warn!(line = shared.config().lines[line].name, error:%; "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let config = shared.config();
        let LineKind::Pipe(pipe) = &config.lines[line].kind else { return };
        let sound = (pipe.sample_rate, pipe.direction);
        let has_seat = shared.seat(line).is_some();
        {
            let mut calls = shared.calls.borrow_mut();
            if has_seat {
                calls.arriving += 1;
            } else if calls.leaving < MOST_LEAVING {
                calls.leaving += 1;
            } else {
                // A flood is told nothing.
                continue;
            }
        }
        let shared = Rc::clone(&shared);
        spawn_local(arrive(shared, line, stream, has_seat, sound));
    }
}

/// Hears whether a connection has something to say before its audio, and begins its call.
async fn arrive(shared: Rc<Shared>, line: usize, mut stream: UnixStream, has_seat: bool, sound: (Rate, Direction)) {
    let (rate, direction) = sound;
    let mut bytes = Vec::new();
    let opened = tokio::select! {
        opened = timeout(FIRST_MESSAGE, first_words(&mut stream, &mut bytes)) => opened.unwrap_or(Ok(true)),
        () = shared.until_drained() => Ok(true),
    };
    {
        let mut calls = shared.calls.borrow_mut();
        if has_seat { calls.arriving -= 1 } else { calls.leaving -= 1 }
    }
    let config = shared.config();
    let name = &config.lines[line].name;
    match opened {
        // Somebody looked whether there is somebody.
        Ok(false) => return debug!(line = name; "a connection closed before it said anything"),
        Err(error) => return warn!(line = name, error:%; "a connection was lost before its call began"),
        Ok(true) => {}
    }
    let (told, used) = match Opening::of(&bytes) {
        // Half a line is no audio, and has no business with the agent.
        Opening::Unknown if !bytes.is_empty() => (Some(Err("its first line does not end".to_owned())), 0),
        // Who says nothing for so long wants to listen.
        Opening::Audio | Opening::Unknown => (None, 0),
        Opening::Said(json, used) => (Some(CallInfo::parse(json).map_err(|error| error.to_string())), used),
        Opening::Endless => (Some(Err(format!("its first line has more than {MAX_LINE} bytes"))), 0),
    };
    // Since it came others may have come, or the end of the daemon.
    let seat = if has_seat { shared.seat(line) } else { None };
    let Some(line) = seat else {
        if told.is_some() {
            refuse(&stream, shared.why_full().unwrap_or("the line is closed").to_owned());
        }
        return;
    };
    let told = match told.transpose() {
        Ok(told) => told,
        Err(words) => {
            shared.metrics.call_never_began(EndReason::Protocol);
            warn!(line = name, end_reason:% = EndReason::Protocol, words; "a connection's first line was not understood");
            return refuse(&stream, words);
        }
    };
    let mut facts = made_up_facts(&config.account);
    if let Some(CallInfo { from, to, did, custom }) = told {
        (facts.from, facts.to, facts.did, facts.custom) = (from, to, did, custom);
        // Fits: nothing was written to it before.
        let answer = Answer::Taken { call_id: facts.call_id.to_string(), sample_rate: rate.hz(), direction };
        let _ = stream.try_write(answer.to_string().as_bytes());
    }
    let ahead = mem::take(&mut bytes).split_off(used);
    match stream.into_std() {
        Ok(stream) => {
            let ends = Ends::of_socket(stream, ahead, rate, direction);
            let arrival = PipeArrival { ends, facts: Some(Box::new(facts)), writer: None };
            shared.begin(line, Arrival::Pipe(arrival), rate);
        }
        Err(error) => warn!(line = name, error:%; "a connection was lost before its call began"),
    }
}

/// Reads until it is known what a connection begins with. `false`: it was closed without a word.
async fn first_words(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut space = [0; MAX_LINE];
    while Opening::of(bytes) == Opening::Unknown {
        match stream.read(&mut space).await? {
            0 => return Ok(!bytes.is_empty()),
            n => bytes.extend_from_slice(&space[..n]),
        }
    }
    Ok(true)
}

/// Tells somebody who can read it why there is no call.
fn refuse(stream: &UnixStream, refused: String) {
    let _ = stream.try_write(Answer::Refused { refused }.to_string().as_bytes());
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}
