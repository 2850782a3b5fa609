//! `sshnet-bench`: sshnet-host beside ssh, on the loopback of one machine.
//!
//! ```text
//! Service <- sshd <- [Relay] <- ssh -L, ssh -W, ssh's proxy socket, sshnet-host
//! counts                        \______ each with a connection of its own ____/
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `plan` | what is measured and how; within it the subjects take turns |
//! | `rig` | the subjects and their connections |
//! | `service`, `relay` | what is behind sshd, and a delay in front of it |
//! | `ssh`, `mux`, `ninep`, `host` | what a subject is made of |
//! | `engine`, `idle` | the engine alone; many conversations |
//! | `results`, `bars`, `chart`, `machine` | what is made of the figures |

mod bars;
mod chart;
mod engine;
mod host;
mod idle;
mod machine;
mod mux;
mod ninep;
mod plan;
mod process;
mod relay;
mod results;
mod rig;
mod service;
mod ssh;
mod wait;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::machine::Machine;
use crate::plan::{Bench, Pace};
use crate::results::Results;
use crate::rig::Subject;

/// Measure sshnet-host beside ssh, on the loopback of this machine.
///
/// Without arguments everything is measured, in less than ten minutes, and the
/// results go to bench/results.
#[derive(Debug, Parser)]
struct Options {
    /// Shorter and fewer runs, for a first look; nothing is written.
    #[arg(long)]
    quick: bool,
    /// How often each subject has its turn.
    #[arg(long, value_name = "N")]
    repetitions: Option<usize>,
    /// Seconds for which bulk streams and pings are measured: long ones are for a
    /// profiler.
    #[arg(long, value_name = "SECONDS")]
    stretch: Option<f64>,
    /// Only these subjects, by a part of their names, such as `9P,-L`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', allow_hyphen_values = true)]
    only: Vec<String>,
    /// Write results.json and charts to this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// List the measurements.
    #[arg(long)]
    list: bool,
    /// Only measurements of these names, such as `ping`, or, where none has it, with
    /// this in their names, such as `down`.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let whole = !options.quick && options.filters.is_empty() && options.only.is_empty();
    let mut tasks = plan::all();
    let names: Vec<String> = tasks.iter().map(|task| task.name()).collect();
    tasks.retain(|task| {
        let name = task.name();
        let fits = |filter: &String| match names.contains(filter) {
            true => name == *filter,
            false => name.contains(filter.as_str()),
        };
        options.filters.is_empty() || options.filters.iter().any(fits)
    });
    if options.list {
        tasks.iter().for_each(|task| println!("{}", task.name()));
        return Ok(());
    }
    if tasks.is_empty() {
        bail!("no measurement has a name like that: see --list");
    }
    let mut subjects = Subject::ALL.to_vec();
    let is_part = |part: &String, subject: &Subject| subject.name().contains(part.as_str());
    let unknown = options.only.iter().find(|part| !subjects.iter().any(|s| is_part(part, s)));
    if let Some(unknown) = unknown {
        let names: Vec<&str> = subjects.iter().map(|subject| subject.name()).collect();
        bail!("--only {unknown}: not among {}", names.join(", "));
    }
    subjects.retain(|subject| {
        options.only.is_empty() || options.only.iter().any(|part| is_part(part, subject))
    });
    let mut pace = if options.quick { Pace::quick() } else { Pace::full() };
    if let Some(stretch) = options.stretch {
        pace.stretch = Duration::try_from_secs_f64(stretch).context("--stretch")?;
        pace.pings = pace.stretch;
    }
    pace.repetitions = options.repetitions.unwrap_or(pace.repetitions).max(1);
    // Found out now, not after some minutes.
    host::program()?;
    sshnet_host::sys::raise_file_limit();

    let machine = Machine::this();
    print!("{}", machine.lines());
    let started = Instant::now();
    let mut bench = Bench::new(pace, subjects)?;
    let mut measurements = Vec::new();
    for task in tasks {
        let measured = bench.run(task)?;
        measured.iter().for_each(|measurement| print!("{}", measurement.table()));
        measurements.extend(measured);
    }
    let bars = bars::all(&measurements);
    if !bars.is_empty() {
        print!("{}", results::bars_table(&bars));
    }
    println!("\n{} seconds", started.elapsed().as_secs());
    let (repetitions, quick) = (pace.repetitions, options.quick);
    let results = Results { machine, repetitions, quick, measurements, bars };
    let default = whole.then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("results"));
    if let Some(to) = options.out.or(default) {
        write(&results, &to).with_context(|| format!("cannot write to {}", to.display()))?;
        println!("written to {}", to.display());
    }
    Ok(())
}

fn write(results: &Results, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(to.join("results.json"), json)?;
    chart::all(&results.measurements, to)
}
