//! The program under test, and the world around it: processes, echo services.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::sshd::Sshd;

/// How long anything may take that has no reason to.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so; fails with what it was when it takes too long.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// The program: `SSHNET_HOST`, or what cargo builds beside this test.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("SSHNET_HOST") {
            return path.into();
        }
        // target/PROFILE/deps/NAME-HASH
        let this = std::env::current_exe().expect("a test has a path");
        let directory = this.parent().and_then(Path::parent).expect("in target/PROFILE/deps");
        let target = directory.parent().expect("in target/PROFILE");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // Both packages, so that what they depend on has the features that it has
        // in the build of the tests, and is not built again.
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--locked", "--package", "sshnet-host"])
            .args(["--package", "sshnet-tests", "--bin", "sshnet-host", "--target-dir"])
            .arg(target);
        if directory.ends_with("release") {
            command.arg("--release");
        }
        let built = command.status().expect("cargo runs");
        assert!(built.success(), "sshnet-host does not build");
        directory.join("sshnet-host")
    })
}

/// The far side of a plan9 pipe, which cargo builds with the tests.
fn plan9_peer() -> PathBuf {
    let this = std::env::current_exe().expect("a test has a path");
    // target/PROFILE/deps/NAME-HASH
    let directory = this.parent().and_then(Path::parent).expect("in target/PROFILE/deps");
    directory.join("plan9-peer")
}

/// The name of the process that starts sshnet-host's programs.
pub const STARTER: &str = "sshnet-starter";

/// A process's children and theirs, as far as they are there; sshnet-host's starter is
/// none, but those that it has started are.
pub fn children_of(pid: u32) -> Vec<u32> {
    let (mut parents, mut starters) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // After the name, which may hold anything: state, then parent.
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.ends_with(STARTER) {
            starters.push(child);
        }
        let mut words = rest.split_whitespace();
        let (state, parent) = (words.next(), words.next());
        if state != Some("Z")
            && let Some(parent) = parent.and_then(|word| word.parse::<u32>().ok())
        {
            parents.push((child, parent));
        }
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(child, _)| *child));
        at += 1;
    }
    found.remove(0);
    found.retain(|child| !starters.contains(child));
    found
}

/// Descriptors that a process has open.
pub fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it is there, and ours").count()
}

/// Memory that a process has, in KiB.
pub fn memory_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Everything under a directory.
pub fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("it is there").flatten() {
        found.push(entry.path().display().to_string());
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

/// Sends a signal, by name.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .expect("kill: install the Debian package procps");
    assert!(sent.success(), "there is no process {pid}");
}

/// A directory that is the user's alone, as `XDG_RUNTIME_DIR` is. Its path is
/// short: there are limits on those of sockets.
pub fn private_directory() -> TempDir {
    let mode = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix("sn").permissions(mode).tempdir().expect("a directory")
}

/// The far side that a test runs against.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A real sshd, through a real ssh.
    Openssh,
    /// The same, by a socket for each dial.
    OpensshFd,
    /// `sshnet-host peer`, over a bare connection.
    BarePeer,
    /// PuTTY's psusan, over a bare connection.
    BarePsusan,
    /// A program of the tests' own, over a pair of sockets: see tests/peers/plan9.rs.
    Plan9,
    /// The loopback pipe.
    Loopback,
}

/// A running service; dropped, it is stopped, and nothing of it may be left.
pub struct World {
    process: Child,
    /// What it printed on stderr so far.
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    dir: TempDir,
    /// The sshd behind it, if there is one.
    pub sshd: Option<Sshd>,
    ended: bool,
}

impl World {
    /// A service of this kind, up.
    pub fn new(kind: Kind) -> Self {
        Self::with(kind, &[])
    }

    /// The same, with more options of ours.
    pub fn with(kind: Kind, ours: &[&str]) -> Self {
        match kind {
            Kind::Openssh => Self::with_sshd(Sshd::start(&[]), ours),
            Kind::OpensshFd => {
                let words = [ours, &["--pipe", "openssh-fd"]].concat();
                Self::with_sshd(Sshd::start(&[]), &words)
            }
            Kind::BarePeer => Self::bare_with(&format!("{} peer", program().display()), ours),
            Kind::BarePsusan => Self::bare_with("psusan", ours),
            Kind::Plan9 => {
                let peer = plan9_peer().display().to_string();
                Self::start(None, &[ours, &["--pipe", "plan9", "--exec", &peer]].concat())
            }
            Kind::Loopback => Self::start(None, &[ours, &["--pipe", "loopback"]].concat()),
        }
    }

    /// A service over a bare connection to this command.
    pub fn bare(command: &str) -> Self {
        Self::bare_with(command, &[])
    }

    /// The same, with more options of ours.
    pub fn bare_with(command: &str, ours: &[&str]) -> Self {
        Self::start(None, &[ours, &["--pipe", "bare", "--exec", command]].concat())
    }

    /// A service through this sshd, with more options of ours.
    pub fn with_sshd(sshd: Sshd, ours: &[&str]) -> Self {
        let mut words: Vec<String> = ours.iter().map(|&word| word.to_owned()).collect();
        words.extend(sshd.ssh_options());
        words.push(sshd.destination());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Self::start(Some(sshd), &words)
    }

    /// A service with these options, up, and no sshd.
    pub fn up(words: &[&str]) -> Self {
        Self::start(None, words)
    }

    fn start(sshd: Option<Sshd>, words: &[&str]) -> Self {
        let mut world = Self::launch(sshd, words);
        world.until_up();
        world
    }

    /// Starts a service and does not wait for it.
    pub fn launch(sshd: Option<Sshd>, words: &[&str]) -> Self {
        let dir = private_directory();
        let mut process = command(dir.path())
            .arg("-s")
            .arg("s")
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own, for Ctrl-C.
            .process_group(0)
            .spawn()
            .expect("the program starts");
        let said = Arc::default();
        let reader = hear(process.stderr.take().expect("it is piped"), &said);
        Self { process, said, reader: Some(reader), dir, sshd, ended: false }
    }

    fn until_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said().contains("serving ") {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                self.ended = true;
                panic!("the service ended with {status}:\n{}", self.story());
            }
            assert!(Instant::now() < deadline, "the service is not up:\n{}", self.story());
            sleep(Duration::from_millis(5));
        }
    }

    /// What it printed on stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// What it and its sshd said, for a failure.
    pub fn story(&self) -> String {
        let sshd = self.sshd.as_ref().map(Sshd::log).unwrap_or_default();
        format!("sshnet-host said:\n{}\nsshd said:\n{sshd}", self.said())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The run-time directory that the service's is in.
    pub fn runtime(&self) -> &Path {
        self.dir.path()
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sshnet").join("s")
    }

    /// A command line of the program that finds this service: `dial`, `listen`.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = command(self.dir.path());
        command.args(words);
        command
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                self.ended = true;
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("no panic");
                }
                return status;
            }
            assert!(Instant::now() < deadline, "no end within {limit:?}:\n{}", self.story());
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let children = children_of(self.process.id());
        let _ = self.process.kill();
        let _ = self.process.wait();
        for child in children {
            let _ = Command::new("kill").args(["-KILL", &child.to_string()]).status();
        }
        if thread::panicking() {
            eprintln!("{}", self.story());
        }
    }
}

/// The program, with a run-time directory of its own.
pub fn command(runtime: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .env("XDG_RUNTIME_DIR", runtime)
        // ssh's directory, too, so that what is left there is seen.
        .env("TMPDIR", runtime)
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("RUST_LOG");
    command
}

/// Runs a command to its end, with this on its stdin.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // It may end without reading all of it.
        let _ = stdin.write_all(&input);
    });
    let pid = child.id();
    let (sender, done) = std::sync::mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = done.recv_timeout(3 * PATIENCE) else {
        signal(pid, "KILL");
        panic!("a command does not end");
    };
    writer.join().expect("no panic");
    output.expect("it can be waited for")
}

/// A command that runs until it is stopped; dropped, it is killed.
pub struct Running {
    process: Child,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it, and hears what it says on stderr.
    pub fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let said = Arc::default();
        let reader = Some(hear(process.stderr.take().expect("it is piped"), &said));
        Self { process, said, reader }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until it says this; the line.
    #[track_caller]
    pub fn until_said(&self, what: &str) -> String {
        let mut line = None;
        until(&format!("it says {what:?}"), || {
            line = self.said().lines().find(|line| line.contains(what)).map(str::to_owned);
            line.is_some()
        });
        line.unwrap_or_default()
    }

    /// The port that it listens on, by the line that has this.
    #[track_caller]
    pub fn port(&self, what: &str) -> u16 {
        let line = self.until_said(what);
        let address = line.split(" listening on ").nth(1).and_then(|rest| rest.split(' ').next());
        let port = address.and_then(|address| address.rsplit(':').next()?.parse().ok());
        port.unwrap_or_else(|| panic!("no port in {line:?}"))
    }

    /// Sends a signal, and waits for the end; what it has said.
    pub fn stop(self, name: &str) -> (ExitStatus, String) {
        signal(self.process.id(), name);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("it ends", || {
            status = self.process.try_wait().expect("it is our child");
            status.is_some()
        });
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        (status.expect("it has ended"), self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("a command said:\n{}", self.said());
        }
    }
}

/// Keeps what comes on a process's stderr.
fn hear(stderr: ChildStderr, said: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let hears = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut said = hears.lock().expect("no panic");
            said.push_str(&line);
            said.push('\n');
        }
    })
}

/// A TCP service of this machine: a thread for each connection. Dropped, it takes
/// no more.
pub struct Service {
    /// Its port on 127.0.0.1.
    pub port: u16,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Service {
    /// Serves each connection by this function.
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback has ports");
        let port = listener.local_addr().expect("it is bound").port();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { port, stop }
    }

    /// Gives back what it gets, and ends when its caller does.
    pub fn echo() -> Self {
        Self::new(|mut stream| {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count) = stream.read(&mut buffer) {
                if count == 0 || stream.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    /// As a dial names it.
    pub fn address(&self) -> String {
        format!("127.0.0.1!{}", self.port)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
