//! Children that do not outlive what started them.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use sshnet_tests::world::children_of;

/// A child; dropped, it is killed and waited for.
pub(crate) struct Process {
    pub(crate) child: Child,
    name: String,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        Ok(Self { child, name })
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }

    /// Ends it.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Bytes of memory that a process has.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("no VmRSS")?.trim().parse()?;
    Ok(kib << 10)
}

/// Seconds of the processor that each program has had which this one runs, sshd
/// among them: all processes of a name together, and `dial` apart.
///
/// Only what is measured has anything to do, so the difference is its own.
pub(crate) fn spent() -> BTreeMap<String, f64> {
    let mut programs = BTreeMap::new();
    for pid in children_of(std::process::id()) {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split('\0');
        let program = words.next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let name = match (program, words.next()) {
            ("sshnet-host", Some("dial")) => "dial",
            // sshd writes there what it does.
            (program, _) => program.split([':', ' ']).next().unwrap_or_default(),
        };
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        let nanoseconds = threads.flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        *programs.entry(name.to_owned()).or_default() += nanoseconds.sum::<u64>() as f64 / 1e9;
    }
    programs
}
