//! Records on a disk that fills up: a tmpfs of fixed size.

#![allow(clippy::unwrap_used)]

#[path = "site/small_disk.rs"]
mod small_disk;

use std::{
    fs,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use small_disk::SmallDisk;
use trunkline::{
    call::record::{Record, Started},
    control::metrics::{Counter, Metrics},
    records::Records,
};

const SOON: Duration = Duration::from_secs(20);

/// What the log was told.
struct Told(Mutex<mpsc::Sender<String>>);

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = self.0.lock().unwrap().send(record.args().to_string());
    }

    fn flush(&self) {}
}

fn record(n: u64) -> Record {
    let letter = |n: u64| char::from(b'a' + (n % 26) as u8);
    let id: String = (0..12).map(|place| letter(n / 26_u64.pow(place))).collect();
    let mut record = Record::cut(Started { call_id: id, ..Started::default() }, n);
    record.words = Some("w".repeat(700));
    record
}

#[test]
fn a_disk_that_fills_up_costs_no_record_and_no_order() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (told, log) = mpsc::channel();
    log::set_logger(Box::leak(Box::new(Told(Mutex::new(told))))).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let until = |words: &str| while log.recv_timeout(SOON).unwrap() != words {};

    let metrics = Arc::<Metrics>::default();
    let records = Records::open(disk.path(), Arc::clone(&metrics)).unwrap();
    // Room for four pages: a dozen records at most, the last of them torn at a page's end.
    disk.fill(4 * 4096);
    for n in 0..100 {
        records.started(&record(n).started);
        records.ended(&record(n));
    }
    until("records cannot be written; they are kept in memory");
    let there = fs::read_to_string(disk.path().join("records.jsonl")).unwrap();
    assert!(there.lines().count() < 100, "the disk is not full");
    assert!(there.is_empty() || there.ends_with("}\n"), "half a line was left: {there}");
    assert!(metrics.records_waiting() > 0);
    for n in 100..110 {
        records.ended(&record(n));
    }
    disk.free();
    until("records are written again");
    assert_eq!(records.close(SOON), 0);
    let text = fs::read_to_string(disk.path().join("records.jsonl")).unwrap();
    let expected: Vec<String> = (0..110).map(|n| String::from_utf8(record(n).line()).unwrap()).collect();
    assert_eq!(text, expected.concat());
    assert_eq!((metrics.get(Counter::RecordsWritten), metrics.get(Counter::RecordsLost)), (110, 0));
    assert_eq!(fs::read_dir(disk.path().join("open")).unwrap().count(), 0);
}
