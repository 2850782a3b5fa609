//! A place to mount on, somebody who does, and what they talk to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use sshnet_tests::world::program;
use tempfile::TempDir;

/// How long anything may take that has no reason to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a signal may take to end what waits.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);
/// The ordinary user: nobody, in nogroup.
const NOBODY: &str = "65534";

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").expect("Linux").uid() == 0
}

/// Who mounts, and uses the mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// Whoever runs the tests.
    Same,
    /// `nobody`, in a mount namespace where /dev/fuse has this mode.
    Nobody(u32),
}

/// Runs a test as all who can.
pub(crate) fn as_each(test: impl Fn(Who)) {
    test(Who::Same);
    if is_root() {
        test(Who::Nobody(0o666));
    }
}

/// A place to mount on, and somebody who does.
pub(crate) struct Place {
    who: Who,
    pub(crate) dir: TempDir,
    /// Keeps the namespace, while programs in it come and go.
    holder: Option<Child>,
}

impl Place {
    pub(crate) fn new(who: Who) -> Self {
        let mode = fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("sn").permissions(mode).tempdir();
        let dir = dir.expect("a directory");
        for name in ["mnt", "run", "dev"] {
            let mode = fs::Permissions::from_mode(0o700);
            fs::create_dir(dir.path().join(name)).expect("made");
            fs::set_permissions(dir.path().join(name), mode).expect("ours");
        }
        let mut place = Self { who, dir, holder: None };
        let Who::Nobody(mode) = who else { return place };
        let setup = format!(
            "set -e; cd '{dir}'
             mount -t tmpfs -o mode=755 none dev
             mknod dev/fuse c 10 229; chmod {mode:o} dev/fuse
             mount --bind dev/fuse /dev/fuse
             touch program; mount --bind '{program}' program
             chown {NOBODY}:{NOBODY} mnt run .
             echo ready; exec sleep 1000",
            dir = place.dir.path().display(),
            program = program().display(),
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", &setup])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of Debian's package util-linux");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says something");
        place.holder = Some(holder);
        assert_eq!(line, "ready\n", "no mount namespace of our own");
        place
    }

    pub(crate) fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// The path of a file in the mount.
    pub(crate) fn file(&self, name: &str) -> String {
        self.mnt().join(name).display().to_string()
    }

    /// A command that this user runs here. What it starts is the program itself,
    /// and no shell or helper that would have to pass on signals.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match &self.holder {
            None => Command::new(program),
            Some(holder) => {
                let mut command = Command::new("nsenter");
                command.args(["--mount", "--target", &holder.id().to_string(), "setpriv"]);
                command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
                // To enter a namespace is to go to its root.
                command.arg("env").arg("--chdir").arg(self.dir.path()).arg(program);
                command
            }
        };
        command
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env("MNT", self.mnt())
            .env("DIR", self.dir.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn host(&self) -> PathBuf {
        match self.who {
            Who::Same => program().to_owned(),
            Who::Nobody(_) => self.dir.path().join("program"),
        }
    }

    /// What a program says that must fail.
    #[track_caller]
    pub(crate) fn refusal(&self, arguments: &[&str], path: Option<&str>) -> String {
        let host = self.host();
        // env sets PATH for the program alone: what brings it there is found by ours.
        let mut command = self.command("env");
        command.args(path.map(|path| format!("PATH={path}"))).arg(host);
        command.args(["--pipe", "loopback", "-s", "refused"]).args(arguments);
        let output = finish(&mut command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// What a shell script prints; it must not fail. bash, for its `exec 3<>`.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = finish(self.command("bash").args(["-c", &format!("set -eu\n{script}")]));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}\n{}\n{out}{err}", output.status);
        out
    }

    #[track_caller]
    pub(crate) fn python(&self, script: &str) -> String {
        let output = finish(self.command("python3").args(["-c", script]));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}\n{}\n{out}{err}", output.status);
        out
    }

    /// Makes the kernel forget the files that nobody uses, which it may keep in mind
    /// until then. Only root can; whether it did.
    #[track_caller]
    pub(crate) fn forget(&self) -> bool {
        if !is_root() {
            return false;
        }
        let mut command = match &self.holder {
            None => Command::new("mount"),
            Some(holder) => {
                let mut command = Command::new("nsenter");
                command.args(["--mount", "--target", &holder.id().to_string(), "mount"]);
                command
            }
        };
        let output = finish(command.args(["-i", "-c", "-o", "remount"]).arg(self.mnt()));
        assert!(output.status.success(), "{output:?}");
        true
    }

    /// The mounts on our directory, as /proc/mounts says it. Looks at no mount.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = match &self.holder {
            None => "/proc/self/mounts".to_owned(),
            Some(holder) => format!("/proc/{}/mounts", holder.id()),
        };
        let table = fs::read_to_string(table).expect("Linux");
        let point = format!(" {} ", self.mnt().display());
        table.lines().filter(|line| line.contains(&point)).map(ToOwned::to_owned).collect()
    }

    /// Starts a service that mounts here.
    pub(crate) fn serve(&self, more: &[&str]) -> Service<'_> {
        self.serve_logging("", more)
    }

    /// The same, and it logs what `RUST_LOG` asks for with this.
    pub(crate) fn serve_logging(&self, log: &str, more: &[&str]) -> Service<'_> {
        let mut command = self.command(self.host());
        command.args(["--pipe", "loopback", "-s", "test", "-m", "mnt"]).args(more);
        if !log.is_empty() {
            command.env("RUST_LOG", log);
        }
        let mut process = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let (say, said) = mpsc::channel();
        let stderr = process.stderr.take().expect("piped");
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        let service = Service { place: self, process, said };
        let ready = service.line();
        let wanted = format!(", mounted on {}", self.mnt().display());
        assert!(ready.contains("serving this machine on ") && ready.ends_with(&wanted), "{ready}");
        service
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            // And with it the namespace and its mounts.
            let _ = holder.kill();
            let _ = holder.wait();
        }
        // A failed test's: or the directory could not be removed.
        if thread::panicking() && !self.mounts().is_empty() {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.mnt()).status();
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command to its end, which must come in time.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = command.spawn().expect("it starts");
    let (done, outcome) = mpsc::channel();
    let pid = process.id();
    thread::spawn(move || done.send(process.wait_with_output()));
    match outcome.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("it can be waited for"),
        Err(_) => {
            signal(pid, "KILL");
            panic!("not within {PATIENCE:?}: {command:?}");
        }
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("bash").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.expect("bash").success(), "there is no process {pid}");
}

/// Waits for the end of a process, which must come in time.
#[track_caller]
pub(crate) fn wait(process: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = process.try_wait().expect("ours") {
            return status;
        }
        if Instant::now() > deadline {
            let state = fs::read_to_string(format!("/proc/{}/status", process.id()));
            panic!("not gone after {limit:?}: {}", state.unwrap_or_default());
        }
        sleep(Duration::from_millis(2));
    }
}

/// A program that serves a mount.
pub(crate) struct Service<'p> {
    place: &'p Place,
    pub(crate) process: Child,
    said: Receiver<String>,
}

impl Service<'_> {
    /// The next line that it prints on stderr.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("it says something")
    }

    /// How many descriptors it has open. Its own: no helper shares its number.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs").count()
    }

    /// Stops it as users do; nothing is left of it.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        signal(self.process.id(), "TERM");
        let status = wait(&mut self.process, PATIENCE);
        assert!(status.success(), "{status}");
        assert_eq!(self.place.mounts(), [""; 0]);
        assert_eq!(self.said.try_iter().collect::<Vec<_>>(), [""; 0]);
    }

    #[track_caller]
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("ours");
        let _ = self.process.wait();
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A service of the far side that says back what it is told. Its port.
pub(crate) fn echo() -> u16 {
    each_caller(|mut stream| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
    })
}

pub(crate) fn each_caller(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// A service of the far side that does nothing: its port, and its callers.
pub(crate) fn silent() -> (u16, Receiver<TcpStream>) {
    let (call, calls) = mpsc::channel();
    (each_caller(move |stream| drop(call.send(stream))), calls)
}

/// A conversation that a shell holds open until this is dropped.
pub(crate) struct Conversation {
    shell: Child,
    number: String,
}

impl Conversation {
    /// Opens `clone`, and writes this to it if there is anything.
    pub(crate) fn new(place: &Place, control: &str) -> Self {
        let script = "exec 3<>$MNT/tcp/clone; read -r -u 3 n || :
            if [ -n \"$1\" ]; then echo \"$1\" >&3 || exit; fi
            echo $n; read -r _ || :";
        let mut shell = place
            .command("bash")
            .args(["-c", script, "bash", control])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let mut number = String::new();
        let stdout = shell.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut number).expect("it says something");
        assert!(!number.is_empty(), "{control}: no conversation");
        Self { shell, number: number.trim().to_owned() }
    }

    pub(crate) fn file(&self, place: &Place, name: &str) -> String {
        place.file(&format!("tcp/{}/{name}", self.number))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
