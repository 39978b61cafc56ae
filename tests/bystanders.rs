//! A fault of ours in one call, on a real media thread with real sockets: the others do not notice.

#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use trunkline::{
    call::{
        EndReason, Outcome,
        attention::BargeIn,
        bridge::Limits,
        gauges::Gauges,
        shard::{self, Answered, Listen, NewCall, NewLine, Order, ShardSetup},
        vitals::Vitals,
    },
    control::metrics::Metrics,
    dialect::{
        Carrier, Dialect, Facts, Format, Full, Incoming, Malformed, MarksOnClear, Message, Role, Say, Stamp,
        binary::Binary,
    },
    leg::{
        audiosocket::{line::Line, message::Reader},
        websocket::link::Link,
    },
    media::{Now, Rate},
};

const CALLS: u64 = 21;
const UNLUCKY: u64 = 7;

/// A dialect with a fault: a text message breaks it.
struct Faulty(Binary);

impl Dialect for Faulty {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn rate(&self) -> Rate {
        self.0.rate()
    }
    fn chunk(&self) -> usize {
        self.0.chunk()
    }
    fn lead_ms(&self) -> u64 {
        self.0.lead_ms()
    }
    fn expected(&self) -> Format {
        self.0.expected()
    }
    fn carrier(&self, key: &[u8], depth: usize) -> Option<Carrier> {
        self.0.carrier(key, depth)
    }
    fn binary_is_audio(&self) -> bool {
        true
    }
    fn marks_ride_on_audio(&self) -> bool {
        false
    }
    fn marks_on_clear(&self) -> MarksOnClear {
        self.0.marks_on_clear()
    }
    fn facts(&self) -> Option<&Facts> {
        None
    }
    fn write_opening(&mut self, _: usize, _: &Facts, _: Stamp, _: &mut Message<'_>) -> Result<bool, Full> {
        Ok(false)
    }
    fn write_audio(&mut self, samples: &[i16], facts: &Facts, at: Stamp, out: &mut Message<'_>) -> Result<(), Full> {
        self.0.write_audio(samples, facts, at, out)
    }
    fn write(&mut self, _: Say<'_>, _: &Facts, _: Stamp, _: &mut Message<'_>) -> Result<bool, Full> {
        Ok(false)
    }
    fn handle_text<'m>(&mut self, _: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        panic!("the fault that this test is about")
    }
    fn handle_binary<'m>(&mut self, payload: &'m [u8]) -> Result<Incoming<'m>, Malformed> {
        self.0.handle_binary(payload)
    }
}

/// The far ends of a call's two sockets.
struct FarEnds {
    pbx: TcpStream,
    agent: TcpStream,
}

/// Our end, and the peer's.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    far.set_nodelay(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (ours, far)
}

fn start(seq: u64, orders: &mpsc::Sender<Order>) -> FarEnds {
    let (line, pbx) = pair();
    let (trunk, agent) = pair();
    let line = NewLine::Audiosocket { stream: line, line: Box::new(Line::new(Reader::new())) };
    let (dialing, _) = oneshot::channel();
    let give_up_after = Now::from_secs(60);
    let gauges = Arc::new(Gauges::default());
    let (facts, listen) = (Facts::default(), Listen::No);
    let new = NewCall {
        seq,
        facts,
        line,
        give_up_after,
        dialing,
        gauges,
        trunkless: false,
        listen,
        barge_in: BargeIn::Cloud,
        tell_steps: false,
    };
    orders.blocking_send(Order::Call(Box::new(new))).ok().unwrap();
    let dialect = Box::new(Faulty(Binary::new(Role::Vendor, Rate::Hz8000)));
    let answered = Answered { stream: trunk, link: Link::new(None, Vec::new()), dialect };
    orders.blocking_send(Order::Trunk { seq, result: Ok(Box::new(answered)) }).ok().unwrap();
    FarEnds { pbx, agent }
}

impl FarEnds {
    /// The caller speaks and the agent hears something; the agent says this, and the caller hears this and nothing older.
    fn speaks_both_ways(&mut self, words: i16) {
        // PCM16 at 16 kHz by its kind, so that nothing has to be found out.
        let mut frame = vec![0x12, 2, 128];
        frame.extend([0x11, 0x22].repeat(320));
        self.pbx.write_all(&frame).unwrap();
        assert_eq!(self.opcode_from_us(), 0x82, "a whole binary message");
        // The agent's own: unmasked, 20 ms at 8 kHz.
        let mut message = vec![0x82, 126, 1, 64];
        message.extend(words.to_le_bytes().repeat(160));
        self.agent.write_all(&message).unwrap();
        loop {
            let (kind, payload) = self.message_from_us();
            assert_ne!(kind, 0x00, "the call goes on");
            let samples = payload.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
            // The resampler makes a little more or less of the first and last of them.
            if samples.filter(|sample| sample.abs_diff(words) < words.unsigned_abs() / 100).count() > 100 {
                return;
            }
        }
    }

    fn message_from_us(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 3];
        self.pbx.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        self.pbx.read_exact(&mut payload).unwrap();
        (head[0], payload)
    }

    /// Reads one message that is masked as a client's are.
    fn opcode_from_us(&mut self) -> u8 {
        let mut head = [0; 2];
        self.agent.read_exact(&mut head).unwrap();
        let mut long = [0; 2];
        let mut len = usize::from(head[1] & 0x7f);
        if len == 126 {
            self.agent.read_exact(&mut long).unwrap();
            len = usize::from(u16::from_be_bytes(long));
        }
        self.agent.read_exact(&mut vec![0; 4 + len]).unwrap();
        head[0]
    }

    fn hangs_up(&mut self) {
        self.pbx.write_all(&[0, 0, 0]).unwrap();
        while self.opcode_from_us() != 0x88 {}
    }

    fn gets_its_caller_back(&mut self) {
        while self.message_from_us().0 != 0x00 {}
        match self.pbx.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("nothing follows the hangup, but {other:?}"),
        }
    }
}

#[test]
fn a_panic_in_one_call_ends_it_and_the_other_twenty_go_on() {
    let (orders, mailbox) = mpsc::channel(64);
    let (reporter, mut reports) = mpsc::channel(64);
    let (ready, is_ready) = oneshot::channel();
    let metrics = Arc::new(Metrics::default());
    let setup = ShardSetup {
        blocks: 2000,
        seats: 32,
        seat: Limits::reserve(Rate::Hz8000),
        limits: Limits { downlink_seconds: 10, uplink_max_ms: 2000, cushion: Now::from_millis(10) },
        orders: mailbox,
        reports: reporter,
        asks: mpsc::channel(1).0,
        tap: None,
        metrics: Arc::clone(&metrics),
        vitals: Arc::new(Vitals::default()),
        ready,
    };
    let media = thread::spawn(move || shard::run(setup).unwrap());
    is_ready.blocking_recv().unwrap();

    let mut calls: Vec<_> = (0..CALLS).map(|seq| start(seq, &orders)).collect();
    calls.iter_mut().for_each(|call| call.speaks_both_ways(3000));

    let mut unlucky = calls.remove(UNLUCKY as usize);
    unlucky.agent.write_all(&[0x81, 2, b'h', b'i']).unwrap();
    unlucky.gets_its_caller_back();
    let Outcome { seq, reason, .. } = *reports.blocking_recv().unwrap();
    assert_eq!((seq, reason), (UNLUCKY, EndReason::Bug));

    calls.iter_mut().for_each(|call| call.speaks_both_ways(12_000));
    let mut next = start(CALLS, &orders);
    next.speaks_both_ways(7000);
    assert!(reports.try_recv().is_err(), "no other call ended");

    calls.push(next);
    for call in &mut calls {
        call.hangs_up();
    }
    drop(calls);
    for _ in 0..CALLS {
        assert_eq!(reports.blocking_recv().unwrap().reason, EndReason::LineHungUp);
    }
    drop(orders);
    media.join().unwrap();
}
