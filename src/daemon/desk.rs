//! The daemon at its desk: what it says of itself, and what it can be told.

use std::rc::Rc;

use tokio::sync::oneshot;

use crate::{
    call::gauges::{Reading, RtpReading},
    clock,
    config::{LineKind, PipeSource},
    control::{
        call_info::CallInfo,
        desk::{
            CallStatus, CameOf, Desk, Handshake, LineStatus, Readiness, RecordsStatus, Refusal, RtpStatus, SinksStatus,
            Status, TellError, TrunkStatus,
        },
        journal,
        metrics::{Counter, Metrics},
    },
    daemon::calls::{Live, Shared},
    leg::{audiosocket::Uuid, websocket::dialer},
    media::Now,
};

impl Desk for Shared {
    fn status(&self) -> Status {
        let config = self.config();
        let calls = self.calls.borrow();
        let mut live: Vec<_> = calls.live.iter().collect();
        live.sort_by_key(|(seq, _)| **seq);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: clock::now().as_secs(),
            state: if calls.draining { Readiness::Draining } else { Readiness::Ready },
            problems: self.problems(),
            max_calls: config.media.max_calls,
            drain_seconds: config.control.drain.as_secs(),
            pool_high_water_bytes: self.metrics.pool_bytes(),
            lines: self.lines_status(),
            trunks: self.trunks_status(),
            calls: live.into_iter().map(|(_, live)| self.call_status(live)).collect(),
            records: RecordsStatus {
                waiting: self.metrics.records_waiting(),
                lost: self.metrics.get(Counter::RecordsLost),
            },
            sinks: SinksStatus {
                waiting: self.metrics.sink_items_waiting(),
                refused: self.metrics.get(Counter::SinkItemsRefused),
                lost: self.metrics.get(Counter::SinkItemsLost),
            },
            journal_dropped: journal::lines_lost(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.calls.borrow().draining {
            problems.push("draining: no new calls are taken".to_owned());
        }
        for thread in &*self.silent.borrow() {
            problems.push(format!("the thread {thread} does not answer"));
        }
        problems.extend(self.sip.borrow().values().filter_map(|line| line.problem()));
        problems.extend(self.sound.borrow().values().filter_map(|line| line.problem()));
        if self.is_overloaded() {
            problems.push("overload: more than 1 % of the last 10 s' frames left over 20 ms late".to_owned());
        }
        if self.records_stuck.get() {
            let waiting = self.metrics.records_waiting();
            problems.push(format!(
                "records cannot be written: {waiting} wait in memory; see the journal, and `df` of [records] directory"
            ));
        }
        problems
    }

    fn metrics(&self) -> &Metrics {
        let unregistered = self.sip.borrow().values().filter(|line| line.tell_metrics(&self.metrics)).count();
        self.metrics.set_unregistered(unregistered as u64);
        &self.metrics
    }

    fn hang_up(&self, call_id: &str) -> bool {
        self.end_call(call_id)
    }

    fn drain(&self) {
        self.begin_draining();
        self.drain.notify_one();
    }

    fn dial(self: Rc<Self>, line: &str, target: &str) -> Result<String, String> {
        self.order_call(line, target)
    }

    fn transfer(&self, call_id: &str, target: &str) -> Result<(), String> {
        self.order_transfer(call_id, target)
    }

    fn send_digits(self: Rc<Self>, call_id: &str, digits: &str) -> Result<(), String> {
        self.order_keys(call_id, digits)
    }

    fn key(self: Rc<Self>, line: &str, pressed: bool) -> Result<String, String> {
        self.order_key(line, pressed)
    }

    fn reload(&self) -> Result<oneshot::Receiver<CameOf>, String> {
        self.order_reload()
    }

    fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), TellError> {
        if self.calls.borrow().draining {
            return Err(TellError::Draining);
        }
        self.announced.borrow_mut().put(uuid, info, clock::now())
    }
}

/// Where a line listens that does so at no address.
fn socket_of(line: &LineKind) -> Option<String> {
    match line {
        LineKind::Pipe(pipe) => match &pipe.source {
            PipeSource::Socket(path) => Some(path.display().to_string()),
            PipeSource::Ends { .. } => None,
        },
        LineKind::Audiosocket { .. } | LineKind::Websocket(_) | LineKind::Sip(_) | LineKind::Sound(_) => None,
    }
}

impl Shared {
    fn lines_status(&self) -> Vec<LineStatus> {
        let (calls, news, now) = (self.calls.borrow(), self.lines.borrow(), clock::now());
        let config = self.config();
        let lines = config.lines.iter().zip(&*news).enumerate();
        lines
            .filter(|(index, (line, _))| !line.is_gone || calls.live.values().any(|live| live.line == *index))
            .map(|(index, (line, news))| LineStatus {
                name: line.name.clone(),
                kind: line.kind.name().to_owned(),
                listen: news.listens_on.map(|address| address.to_string()).or_else(|| socket_of(&line.kind)),
                calls: calls.live.values().filter(|live| live.line == index).count(),
                last_call_ms_ago: news.last_call.map(|at| ms(now.saturating_sub(at))),
                registration: self.sip_line_of(index).and_then(|sip| sip.registration()).map(str::to_owned),
                card: self.sound_line_of(index).map(|sound| sound.card()),
            })
            .collect()
    }

    fn trunks_status(&self) -> Vec<TrunkStatus> {
        let (calls, news) = (self.calls.borrow(), self.trunks.borrow());
        let config = self.config();
        let has_calls =
            |index: usize| calls.live.values().any(|live| live.trunk.is_some_and(|(trunk, _)| trunk == index));
        let trunks = config.trunks.iter().zip(&*news).enumerate();
        trunks
            .filter(|(index, (trunk, _))| !trunk.is_gone || has_calls(*index))
            .map(|(index, (trunk, news))| TrunkStatus {
                name: trunk.name.clone(),
                url: trunk.url.to_string(),
                dialect: trunk.dialect.to_owned(),
                last_handshake: news.handshake.as_ref().map(|(at_ms, handshake)| shown(*at_ms, handshake)),
                last_refusal: news.refusal.clone().map(|(at_ms, words)| Refusal { at_ms, words }),
                calls: calls.live.values().filter(|live| live.trunk.is_some_and(|(trunk, _)| trunk == index)).count(),
            })
            .collect()
    }

    fn call_status(&self, live: &Live) -> CallStatus {
        let Reading {
            state,
            level_up,
            level_down,
            delay_ms,
            backlog_ms,
            frames_up,
            frames_down,
            dropped,
            underruns,
            late,
            rtp,
        } = live.gauges.get();
        let config = self.config();
        CallStatus {
            call_id: live.call_id.clone(),
            line: config.lines[live.line].name.clone(),
            trunk: live.trunk.map(|(trunk, _)| config.trunks[trunk].name.clone()),
            state,
            seconds: clock::now().saturating_sub(live.since).as_secs(),
            level_up_dbov: level_up,
            level_down_dbov: level_down,
            delay_ms,
            uplink_backlog_ms: backlog_ms,
            frames_up,
            frames_down,
            dropped,
            underruns,
            late,
            rtp: rtp.map(|RtpReading { packets, lost, concealed, jitter, round_trip, delay }| RtpStatus {
                packets,
                lost,
                concealed_samples: concealed,
                jitter_ms: ms(jitter),
                round_trip_ms: round_trip.map(ms),
                delay_ms: ms(delay),
            }),
        }
    }
}

fn shown(at_ms: u64, handshake: &dialer::Handshake) -> Handshake {
    let dialer::Handshake { peer, cipher, stages } = handshake;
    Handshake {
        at_ms,
        peer: peer.to_string(),
        cipher: cipher.map(str::to_owned),
        dns_ms: ms(stages.dns),
        connect_ms: ms(stages.connect),
        tls_ms: ms(stages.tls),
        upgrade_ms: ms(stages.upgrade),
    }
}

const fn ms(time: Now) -> u64 {
    time.as_millis() as u64
}
