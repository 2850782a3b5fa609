//! What the figures were taken on.

use std::fs;
use std::process::{Command, Stdio};

use serde::Serialize;

/// The machine, the programs and the date.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory: String,
    pub(crate) kernel: String,
    pub(crate) openssh: String,
    pub(crate) sshnet: String,
    pub(crate) rustc: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn this() -> Self {
        let sshnet = format!("{} {}", env!("CARGO_PKG_VERSION"), commit());
        Self {
            date: first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: field("/proc/meminfo", "MemTotal"),
            kernel: first_line("uname", &["-sr"]),
            openssh: first_line("ssh", &["-V"]),
            sshnet: sshnet.trim().to_owned(),
            rustc: first_line("rustc", &["-V"]),
        }
    }

    /// As lines for people.
    pub(crate) fn lines(&self) -> String {
        format!(
            "{}\n{}, {} cores, {}, {}\n{}\nsshnet {}, {}\n",
            self.date,
            self.cpu,
            self.cores,
            self.memory,
            self.kernel,
            self.openssh,
            self.sshnet,
            self.rustc
        )
    }
}

fn commit() -> String {
    first_line("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// What a program says of itself; ssh does on stderr.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).stdin(Stdio::null()).output() else {
        return "unknown".to_owned();
    };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or("unknown").to_owned()
}
