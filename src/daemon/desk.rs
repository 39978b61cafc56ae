//! The daemon at its desk: what it says of itself, and what it can be told.

use crate::{
    call::gauges::Reading,
    clock,
    config::LineKind,
    control::{
        call_info::CallInfo,
        desk::{Busy, Call, Desk, Handshake, Line, Refusal, Status, Trunk},
        journal,
        metrics::Counter,
    },
    daemon::calls::Shared,
    leg::{audiosocket::Uuid, websocket::dialer},
    media::Now,
};

impl Desk for Shared {
    fn status(&self) -> Status {
        let calls = self.calls.borrow();
        let (line_news, trunk_news) = (self.lines.borrow(), self.trunks.borrow());
        let now = clock::now();
        let mut live: Vec<_> = calls.live.iter().collect();
        live.sort_by_key(|(seq, _)| **seq);
        let with = |is_its: &dyn Fn(usize, Option<usize>) -> bool| {
            calls.live.values().filter(|live| is_its(live.line, live.trunk.map(|(trunk, _)| trunk))).count()
        };
        let lines = self.config.lines.iter().zip(&*line_news).enumerate();
        let trunks = self.config.trunks.iter().zip(&*trunk_news).enumerate().map(|(index, (trunk, news))| Trunk {
            name: trunk.name.clone(),
            url: trunk.url.to_string(),
            dialect: trunk.dialect.to_owned(),
            calls: with(&|_, its_trunk| its_trunk == Some(index)),
            last_handshake: news.handshake.as_ref().map(|(at_ms, handshake)| shown(*at_ms, handshake)),
            last_refusal: news.refusal.clone().map(|(at_ms, words)| Refusal { at_ms, words }),
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: now.as_secs(),
            draining: calls.draining,
            problems: self.problems(),
            max_calls: self.config.media.max_calls,
            refused: self.metrics.get(Counter::CallsRefused),
            trunks: trunks.collect(),
            lines: lines
                .map(|(index, (line, news))| Line {
                    name: line.name.clone(),
                    kind: match line.kind {
                        LineKind::Audiosocket { .. } => "audiosocket".to_owned(),
                        LineKind::Pipe { .. } => "pipe".to_owned(),
                    },
                    listens_on: news.listens_on.map(|address| address.to_string()),
                    calls: with(&|its_line, _| its_line == index),
                    calls_so_far: news.calls,
                })
                .collect(),
            calls: live
                .iter()
                .map(|(_, live)| {
                    let Reading { stage, level_up, level_down, delay_ms, backlog_ms, .. } = live.gauges.get();
                    let Reading { frames_up, frames_down, heard, dropped, underruns, late, .. } = live.gauges.get();
                    Call {
                        call_id: live.call_id.clone(),
                        line: self.config.lines[live.line].name.clone(),
                        trunk: live.trunk.map(|(trunk, _)| self.config.trunks[trunk].name.clone()),
                        stage: stage.to_owned(),
                        seconds: now.saturating_sub(live.since).as_secs(),
                        level_up_dbov: level_up,
                        level_down_dbov: level_down,
                        delay_ms,
                        backlog_ms,
                        frames_up,
                        frames_down,
                        heard_samples: heard,
                        dropped_samples: dropped,
                        underruns,
                        late,
                    }
                })
                .collect(),
            records_waiting: self.metrics.records_waiting(),
            records_lost: self.metrics.get(Counter::RecordsLost),
            log_lines_lost: journal::lines_lost(),
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
        if self.is_overloaded() {
            problems.push("overload: more than 1 % of the last 10 s' frames left over 20 ms late".to_owned());
        }
        let waiting = self.metrics.records_waiting();
        if self.records_stuck.get() {
            problems.push(format!(
                "records cannot be written: {waiting} wait in memory; see the journal, and `df` of [records] directory"
            ));
        }
        problems
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }

    fn hang_up(&self, call_id: &str) -> bool {
        self.end_call(call_id)
    }

    fn drain(&self) -> usize {
        self.drain.notify_one();
        self.calls.borrow().live.len()
    }

    fn tell_of_call(&self, uuid: Uuid, info: CallInfo) -> Result<(), Busy> {
        if self.calls.borrow().draining {
            return Err(Busy::Draining);
        }
        if self.expected.borrow_mut().tell(clock::now(), uuid, info) { Ok(()) } else { Err(Busy::Full) }
    }
}

fn shown(at_ms: u64, handshake: &dialer::Handshake) -> Handshake {
    let ms = |took: Now| took.as_millis() as u64;
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
