//! The simulator: fixed seeds, and as many more as one likes.
//!
//! | variable | what it does |
//! |---|---|
//! | `SSHNET_SIM_RUNS=N` | runs so many seeds |
//! | `SSHNET_SIM_FIRST=N` | starts at this seed |
//! | `SSHNET_SEED=N` | runs one seed |
//! | `SSHNET_SIM_NATIVE=1` | leaves the component out, which is five times as fast |
//!
//! With another component in `SSHNET_CORE` the runs are on it alone.
//!
//! What a seed finds is printed as a transcript with as few calls as still show
//! it, and written to a file whole. Transcripts of what was found once are kept in
//! `transcripts/`.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sshnet_core::message::Message;
use sshnet_core::{ClientId, ClientInfo, Limits, Protocol, Statistics};
#[cfg(feature = "component")]
use sshnet_tests::promise::another;
#[cfg(feature = "component")]
use sshnet_tests::sim::component::component;
use sshnet_tests::sim::oracle::{Answer, Call, Coverage, Machine, call};
use sshnet_tests::sim::run::{Failure, Machines, Maker, native, replay};
use sshnet_tests::sim::world;

/// Seeds of every `cargo test`, enough for every pair of a state and an event
/// that can be met.
const SEEDS: u64 = 2_048;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The native engine, and the component beside it; or another component.
fn machines() -> Machines<'static> {
    let alone = Machines { first: &native, second: None, ours: true };
    #[cfg(feature = "component")]
    if another() {
        return Machines { first: &component, second: None, ours: false };
    } else if std::env::var_os("SSHNET_SIM_NATIVE").is_none() {
        return Machines { second: Some(&component), ..alone };
    }
    alone
}

/// Lines of a transcript that are printed, and characters of each: what shows a
/// defect has mostly fewer, and one that has more is in the file.
const LINES: usize = 60;
const WIDTH: usize = 160;

/// Tells of a failure: one line to repeat it, the calls that show it, the file with
/// a transcript of them. Where one was cut to a lawful peer's calls, the file has
/// the whole run behind it, as remarks.
fn tell(seed: u64, mut failure: Failure, machines: Machines<'_>) -> String {
    let whole = failure.transcript();
    let count = failure.calls.len();
    failure.shrink(machines);
    let transcript = failure.transcript();
    let file = std::env::temp_dir().join(format!("sshnet-seed-{seed}.txt"));
    let remarks = whole.lines().map(|line| format!("# {line}\n")).collect::<String>();
    let _ = fs::write(&file, format!("{transcript}\n# The whole run:\n{remarks}"));
    format!(
        "SSHNET_SEED={seed} cargo test -p sshnet-tests --test sim: {}\n\
         {count} calls, of which {} show it: {}\n{}",
        failure.why,
        failure.calls.len(),
        file.display(),
        shown(&transcript),
    )
}

/// The first lines of a transcript, the limits among them, and the last ones, each
/// with its first characters.
fn shown(transcript: &str) -> String {
    let lines: Vec<String> = transcript
        .lines()
        .map(|line| match line.char_indices().nth(WIDTH) {
            Some((at, _)) => format!("    {}...", &line[..at]),
            None => format!("    {line}"),
        })
        .collect();
    if lines.len() <= LINES {
        return lines.join("\n");
    }
    let last = &lines[lines.len() - LINES / 2..];
    let left = lines.len() - LINES / 2 * 2;
    format!("{}\n    # {left} more\n{}", lines[..LINES / 2].join("\n"), last.join("\n"))
}

/// An engine that forgets what it has to say of control messages.
struct Forgetful(Box<dyn Machine>);

impl Machine for Forgetful {
    fn perform(&mut self, call: &Call) -> Answer {
        let answer = self.0.perform(call);
        if matches!(call, Call::Control(..)) { Answer::Effects(Vec::new()) } else { answer }
    }

    fn snapshot(&mut self) -> Vec<ClientInfo> {
        self.0.snapshot()
    }

    fn figures(&mut self) -> Statistics {
        self.0.figures()
    }
}

/// What is printed has the seed, the defect, the limits and the calls that show it,
/// no others, and fits on a screen. So it has where the defect is a complaint about
/// a lawful peer.
#[test]
fn a_failure_is_told_with_the_calls_that_show_it() {
    let limits = Limits::default();
    let id = ClientId { number: 0, incarnation: 0 };
    let forgetful: Maker<'_> = &|limits| Box::new(Forgetful(native(limits)));
    let eof = Message::Eof { recipient: 7 }.encode();
    let cases = [
        (Call::Control(2, id, vec![b'x'; 4_000]), Some(forgetful), false, "control 2 0.0 7878"),
        (Call::Receive(eof), None, true, "pipe-up\n    receive 6000000007"),
    ];
    for (last, second, lawful, told) in cases {
        let mut calls = vec![Call::PipeUp, Call::Clone(1, Protocol::Tcp)];
        calls.extend((0..300).map(Call::Advance));
        calls.push(last);
        let machines = Machines { first: &native, second, ours: true };
        let Err((at, why)) = replay(limits, lawful, &calls, machines) else { panic!("{told}") };
        assert_eq!(at + 1, calls.len(), "{why}");
        let text = tell(u64::MAX, Failure { why, calls, limits, lawful }, machines);
        assert!(text.starts_with("SSHNET_SEED=18446744073709551615 cargo test"), "{text}");
        assert!(text.contains("limits clients=12000"), "{text}");
        assert!(text.contains(told) && !text.contains("advance"), "{text}");
        assert!(text.lines().count() < 8, "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 2 * WIDTH), "{text}");
    }
    let long: String = (0..1_000).map(|line| format!("{line}\n")).collect();
    let text = shown(&long);
    assert!(text.contains("    0\n") && text.ends_with("    999"), "{text}");
    assert!(text.contains("# 940 more") && text.lines().count() == LINES + 1, "{text}");
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
            let run = world::run(seed, machines());
            let mut total = total.lock().expect("no thread panics");
            match run {
                Ok(report) => {
                    total.calls += report.calls;
                    total.coverage.merge(&report.coverage);
                }
                Err(failure) => {
                    eprintln!("{}\n", tell(seed, *failure, machines()));
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
    // What the seeds meet depends on when an engine sends what: they are made for ours.
    if runs >= SEEDS && machines().ours {
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
        if let Err((at, why)) = replay(limits, false, &calls, machines()) {
            panic!("{}: call {at}: {why}", path.display());
        }
    }
}
