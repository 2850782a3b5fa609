//! The simulator: fixed seeds, and as many more as one likes.
//!
//! | variable | what it does |
//! |---|---|
//! | `SSHNET_SIM_RUNS=N` | runs so many seeds |
//! | `SSHNET_SIM_FIRST=N` | starts at this seed |
//! | `SSHNET_SEED=N` | runs one seed |
//! | `SSHNET_SIM_NATIVE=1` | leaves the component out, which is five times as fast |
//!
//! What a seed finds is printed and written to a file as a transcript, with as
//! few calls as still show it. Transcripts of what was found once are kept in
//! `transcripts/`.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[cfg(feature = "component")]
use sshnet_tests::sim::component::component;
use sshnet_tests::sim::oracle::{Coverage, call};
use sshnet_tests::sim::run::{Failure, Maker, replay};
use sshnet_tests::sim::world;

/// Seeds of every `cargo test`, enough for every pair of a state and an event
/// that can be met.
const SEEDS: u64 = 1_024;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What runs beside the native engine.
#[cfg(not(feature = "component"))]
fn second() -> Option<Maker<'static>> {
    None
}

/// What runs beside the native engine.
#[cfg(feature = "component")]
fn second() -> Option<Maker<'static>> {
    match std::env::var_os("SSHNET_SIM_NATIVE") {
        Some(_) => None,
        None => Some(&component),
    }
}

/// Tells of a failure: one line to repeat it, the last calls, the file with a
/// transcript.
fn tell(seed: u64, mut failure: Failure) -> String {
    let count = failure.calls.len();
    let last: Vec<String> = failure.calls[count.saturating_sub(50)..]
        .iter()
        .map(|call| format!("    {:.160}", call.to_string()))
        .collect();
    failure.shrink(second());
    let file = std::env::temp_dir().join(format!("sshnet-seed-{seed}.txt"));
    let _ = fs::write(&file, failure.transcript());
    format!(
        "SSHNET_SEED={seed} cargo test -p sshnet-tests --test sim: {}\n\
         {count} calls, of which {} show it: {}; the last ones were\n{}",
        failure.why,
        failure.calls.len(),
        file.display(),
        last.join("\n"),
    )
}

#[derive(Default)]
struct Total {
    coverage: Coverage,
    calls: usize,
    failures: Vec<u64>,
}

#[test]
fn every_seed_keeps_the_contract() {
    let only = number("SSHNET_SEED");
    let first = only.or(number("SSHNET_SIM_FIRST")).unwrap_or(0);
    let runs = only.map_or(number("SSHNET_SIM_RUNS").unwrap_or(SEEDS), |_| 1);
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let total = Mutex::new(Total::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = total.lock().expect("no thread panics").failures.len() >= 5;
            if seed >= first + runs || over {
                return;
            }
            let run = world::run(seed, second());
            let mut total = total.lock().expect("no thread panics");
            match run {
                Ok(report) => {
                    total.calls += report.calls;
                    total.coverage.merge(&report.coverage);
                }
                Err(failure) => {
                    eprintln!("{}\n", tell(seed, *failure));
                    total.failures.push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let total = total.into_inner().expect("no thread panics");
    eprintln!(
        "{runs} seeds, {} calls, {:.0} a second, {} pairs of a state and an event",
        total.calls,
        total.calls as f64 / started.elapsed().as_secs_f64(),
        total.coverage.met(),
    );
    assert_eq!(total.failures, [], "these seeds failed");
    if runs >= SEEDS {
        assert_eq!(total.coverage.missing(), [], "these pairs were not met");
    }
}

#[test]
fn what_once_failed_passes() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let entries = fs::read_dir(directory).expect("there is a directory of transcripts");
    for entry in entries {
        let path = entry.expect("it can be read").path();
        let text = fs::read_to_string(&path).expect("a transcript is text");
        let (limits, calls) = call::parse_transcript(&text).expect("it has calls only");
        if let Err(why) = replay(limits, false, &calls, second()) {
            panic!("{}: {why}", path.display());
        }
    }
}
