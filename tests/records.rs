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
/// There is one log for the whole process, and one test reads it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

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
fn a_disk_that_is_full_at_the_start_costs_no_record_either() {
    let _alone = ONE_AT_A_TIME.lock();
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.path().join("records.jsonl");
    // It ends at a page's end, and its line does not: that byte needs a page more.
    let mut old = record(1);
    let missing = 4097 - old.line().len();
    old.words = old.words.map(|words| words + &"w".repeat(missing));
    let mut before = old.line();
    before.pop();
    assert_eq!(before.len(), 4096);
    fs::write(&path, &before).unwrap();
    disk.fill(0);
    let metrics = Arc::<Metrics>::default();
    let records = Records::open(disk.path(), Arc::clone(&metrics)).unwrap();
    records.started(&record(2).started);
    records.ended(&record(2));
    assert_eq!(fs::read(&path).unwrap(), before, "a whole record was cut off");
    assert_eq!(metrics.records_waiting(), 1);
    disk.free();
    assert_eq!(records.close(SOON), 0);
    assert_eq!(fs::read(&path).unwrap(), [old.line(), record(2).line()].concat());
}

#[test]
fn a_disk_that_fills_up_costs_no_record_and_no_order() {
    let _alone = ONE_AT_A_TIME.lock();
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
