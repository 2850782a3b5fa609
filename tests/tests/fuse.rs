//! The FUSE mount, used by the programs that people have: real mounts, as root and
//! as an ordinary user.
//!
//! Where root runs the tests, each is run twice. As root it is in the place where
//! the test is. The ordinary user is `nobody`, in a mount namespace of the test's
//! own: /dev/fuse is often closed to users in virtual machines and containers, so
//! there it is a node of the test's, mode 0666, on a tmpfs that allows devices, and
//! fusermount3 is as it is installed, setuid root. Where an ordinary user runs the
//! tests each is run once, as that user.
//!
//! Whatever looks at a mount is under a time limit: a mount whose program is stuck
//! holds up whoever looks at it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take that has no reason to.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a signal may take to end what waits.
const AT_ONCE: Duration = Duration::from_secs(1);
/// The ordinary user: nobody, in nogroup.
const NOBODY: &str = "65534";

/// The program: `SSHNET_HOST`, or what cargo builds beside this test.
fn program() -> &'static Path {
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
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--locked", "--package", "sshnet-host"])
            .args(["--package", "sshnet-tests", "--bin", "sshnet-host", "--target-dir"])
            .arg(target);
        if directory.ends_with("release") {
            command.arg("--release");
        }
        assert!(command.status().expect("cargo runs").success(), "sshnet-host does not build");
        directory.join("sshnet-host")
    })
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").expect("Linux").uid() == 0
}

/// Who mounts, and uses the mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Who {
    /// Whoever runs the tests.
    Same,
    /// `nobody`, in a mount namespace where /dev/fuse has this mode.
    Nobody(u32),
}

/// Runs a test as all who can.
fn as_each(test: impl Fn(Who)) {
    test(Who::Same);
    if is_root() {
        test(Who::Nobody(0o666));
    }
}

/// A place to mount on, and somebody who does.
struct Place {
    who: Who,
    dir: TempDir,
    /// Keeps the namespace, while programs in it come and go.
    holder: Option<Child>,
}

impl Place {
    fn new(who: Who) -> Self {
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

    fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// The path of a file in the mount.
    fn file(&self, name: &str) -> String {
        self.mnt().join(name).display().to_string()
    }

    /// A command that this user runs here. What it starts is the program itself,
    /// and no shell or helper that would have to pass on signals.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
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

    fn host(&self) -> Command {
        self.command(match self.who {
            Who::Same => program().to_owned(),
            Who::Nobody(_) => self.dir.path().join("program"),
        })
    }

    /// What a program says that must fail.
    #[track_caller]
    fn refusal(&self, arguments: &[&str], path: Option<&str>) -> String {
        let mut command = self.host();
        command.args(["--pipe", "loopback", "-s", "refused"]).args(arguments);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = finish(&mut command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// What a shell script prints; it must not fail. bash, for its `exec 3<>`.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = finish(self.command("bash").args(["-c", &format!("set -eu\n{script}")]));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}\n{}\n{out}{err}", output.status);
        out
    }

    #[track_caller]
    fn python(&self, script: &str) -> String {
        let output = finish(self.command("python3").args(["-c", script]));
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}\n{}\n{out}{err}", output.status);
        out
    }

    /// The mounts on our directory, as /proc/mounts says it. Looks at no mount.
    fn mounts(&self) -> Vec<String> {
        let table = match &self.holder {
            None => "/proc/self/mounts".to_owned(),
            Some(holder) => format!("/proc/{}/mounts", holder.id()),
        };
        let table = fs::read_to_string(table).expect("Linux");
        let point = format!(" {} ", self.mnt().display());
        table.lines().filter(|line| line.contains(&point)).map(ToOwned::to_owned).collect()
    }

    /// Starts a service that mounts here.
    fn serve(&self, more: &[&str]) -> Service<'_> {
        let mut command = self.host();
        command.args(["--pipe", "loopback", "-s", "test", "-m", "mnt"]).args(more);
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command to its end, which must come in time.
#[track_caller]
fn finish(command: &mut Command) -> Output {
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

fn signal(pid: u32, name: &str) {
    let sent = Command::new("bash").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.expect("bash").success(), "there is no process {pid}");
}

/// Waits for the end of a process, which must come in time.
#[track_caller]
fn wait(process: &mut Child, limit: Duration) -> ExitStatus {
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
struct Service<'p> {
    place: &'p Place,
    process: Child,
    said: Receiver<String>,
}

impl Service<'_> {
    /// The next line that it prints on stderr.
    #[track_caller]
    fn line(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("it says something")
    }

    /// How many descriptors it has open. Its own: no helper shares its number.
    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs").count()
    }

    /// Stops it as users do; nothing is left of it.
    #[track_caller]
    fn stop(mut self) {
        signal(self.process.id(), "TERM");
        let status = wait(&mut self.process, PATIENCE);
        assert!(status.success(), "{status}");
        assert_eq!(self.place.mounts(), [""; 0]);
        assert_eq!(self.said.try_iter().collect::<Vec<_>>(), [""; 0]);
    }

    #[track_caller]
    fn kill(mut self) {
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
fn echo() -> u16 {
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

fn each_caller(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
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
fn silent() -> (u16, Receiver<TcpStream>) {
    let (call, calls) = mpsc::channel();
    (each_caller(move |stream| drop(call.send(stream))), calls)
}

/// A conversation that a shell holds open until this is dropped.
struct Conversation {
    shell: Child,
    number: String,
}

impl Conversation {
    /// Opens `clone`, and writes this to it if there is anything.
    fn new(place: &Place, control: &str) -> Self {
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

    fn file(&self, place: &Place, name: &str) -> String {
        place.file(&format!("tcp/{}/{name}", self.number))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

#[test]
fn shells_dial_read_and_write() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = echo();
        let said = place.sh(&format!(
            "exec 3<>$MNT/tcp/clone
             read -r -u 3 n || :
             echo connect 127.0.0.1!{port} >&3
             read -r -u 3 again || :
             [ $n = $again ]
             cd $MNT/tcp/$n
             cut -d' ' -f1 status; cat remote
             echo hello > data; dd bs=64K count=1 status=none < data
             exec 4<>data
             printf 'one\\ntwo\\n' >&4; read -r -u 4 a; read -r -u 4 b; echo $b $a
             printf abc | dd of=data conv=notrunc status=none; head -c 3 data; echo
             echo closewrite > ctl; cat data; cat data"
        ));
        assert_eq!(said, format!("Established\n127.0.0.1!{port}\nhello\ntwo one\nabc\n"));
        service.stop();
    });
}

#[test]
fn files_look_as_files_do() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let line = place.mounts().join("\n");
        assert!(line.starts_with("sshnet ") && line.contains(" fuse.sshnet "), "{line}");
        for option in ["nosuid", "nodev", "noatime"] {
            assert!(line.contains(option), "{line}");
        }
        let conversation = Conversation::new(&place, "");
        let listed =
            place.sh("cd $MNT; find . | sort; ls -l . tcp/0 | grep -c ^-; ls -la tcp | wc -l");
        assert_eq!(
            listed,
            ".\n./cs\n./tcp\n./tcp/0\n./tcp/0/ctl\n./tcp/0/data\n./tcp/0/listen\n./tcp/0/local\n\
             ./tcp/0/remote\n./tcp/0/status\n./tcp/clone\n./unix\n./unix/clone\n7\n5\n"
        );
        let modes =
            place.sh("cd $MNT; stat -c '%a %U' . cs tcp/clone tcp/0 tcp/0/data tcp/0/status");
        let user = place.sh("id -un");
        let wanted =
            ["500", "600", "600", "500", "600", "400"].map(|mode| format!("{mode} {user}"));
        assert_eq!(modes, wanted.concat());
        // One directory is one file, whenever one looks; a process may stand in it.
        place.sh("cd $MNT/tcp/0; [ . -ef $MNT/tcp/0 ]; ls > /dev/null; [ \"$(pwd -P)\" = $PWD ]
                  test -r status; ! test -w status; test -w data; ! test -e nothing");
        // Shells truncate, programs set times and sync: nothing to us.
        place.sh("cd $MNT/tcp; : > clone; truncate -s 0 clone; touch clone; sync clone; df . >&2");
        let refused =
            place.sh("cd $MNT/tcp/0; export LC_ALL=C; f() { \"$@\" 2>&1 && exit 1 || :; }
             f mkdir x; f rm ctl; f chmod 777 ctl; f bash -c 'echo > x'; f bash -c 'echo > status'
             f cat x; f truncate -s 5 data; f mv ctl x; f ln ctl x");
        for (line, wanted) in refused.lines().zip([
            "Permission denied",
            "Permission denied",
            "Operation not permitted",
            "Permission denied",
            "Permission denied",
            "No such file or directory",
            "Operation not permitted",
            "Permission denied",
            "Permission denied",
        ]) {
            assert!(line.ends_with(wanted), "{refused}");
        }
        assert_eq!(refused.lines().count(), 9, "{refused}");
        drop(conversation);
        service.stop();
    });
}

#[test]
fn python_opens_files() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = echo();
        let said = place.python(&format!(
            "import os, threading, time, hashlib
mnt = os.environ['MNT']
ctl = open(mnt + '/tcp/clone', 'r+b', buffering=0)
n = ctl.read().decode()
ctl.write(b'connect 127.0.0.1!{port}')
data = open(f'{{mnt}}/tcp/{{n}}/data', 'r+b', buffering=0)
# A short answer is an answer.
data.write(b'short'); print(data.read(65536))
# One descriptor, read and written at once.
got = []
reader = threading.Thread(target=lambda: got.append(data.read(100)))
reader.start(); time.sleep(0.3)
start = time.monotonic(); data.write(b'meanwhile'); reader.join()
print(got, time.monotonic() - start < 1)
with open(f'{{mnt}}/tcp/{{n}}/data', 'wb') as w, open(f'{{mnt}}/tcp/{{n}}/data', 'rb') as r:
    w.write(b'line\\n'); w.flush(); print(r.readline())
# More than one request holds, both ways.
sent = os.urandom(4 << 20)
writer = threading.Thread(target=lambda: print(os.write(data.fileno(), sent)))
writer.start()
back = b''
while len(back) < len(sent): back += os.read(data.fileno(), 4 << 20)
writer.join(); print(back == sent)
cs = open(mnt + '/cs', 'r+'); cs.write('tcp!host!80'); cs.flush(); cs.seek(0); print(cs.read())
with open(mnt + '/cs', 'r+b', buffering=0) as cs: cs.write(b'tcp!b!22'); print(cs.read().decode())
try: open(mnt + '/tcp/clone', 'wb', buffering=0).write(b'connect 127.0.0.1!1')
except ConnectionRefusedError: print('refused')
try: open(mnt + '/tcp/clone', 'wb', buffering=0).write(b'nonsense')
except OSError as error: print(error.strerror)
"
        ));
        let mnt = place.mnt();
        let mnt = mnt.display();
        assert_eq!(
            said,
            format!(
                "b'short'\n[b'meanwhile'] True\nb'line\\n'\n4194304\nTrue\n\
                 {mnt}/tcp/clone host!80\n{mnt}/tcp/clone b!22\nrefused\nInvalid argument\n"
            )
        );
        service.stop();
    });
}

#[test]
fn a_large_read_does_not_wait_for_more_than_there_is() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let mut caller = calls.recv_timeout(PATIENCE).expect("a call");
        // As much as one request of the kernel's asks for, in one piece.
        caller.write_all(&vec![7; 1 << 20]).expect("room for it");
        let status = conversation.file(&place, "status");
        until("all of it is there", || place.sh(&format!("cat {status}")).contains("qin 1048576 "));
        let data = conversation.file(&place, "data");
        let said = place.python(&format!(
            "import os; fd = os.open('{data}', os.O_RDONLY); print(len(os.read(fd, 4 << 20)))"
        ));
        assert_eq!(said, "1048576\n");
        drop(conversation);
        service.stop();
    });
}

/// Starts a program that must come to wait, sends it a signal, and expects it gone
/// at once.
#[track_caller]
fn interrupted(place: &Place, name: &str, words: &[&str]) {
    let mut command = place.command(words[0]);
    command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().expect("it starts");
    sleep(Duration::from_millis(400));
    if let Some(status) = process.try_wait().expect("ours") {
        panic!("{words:?} did not wait: {status}");
    }
    signal(process.id(), name);
    let status = wait(&mut process, AT_ONCE);
    assert!(status.signal().is_some(), "{words:?}: {status}");
}

#[test]
fn what_blocks_ends_with_its_program() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let announced = Conversation::new(&place, "announce 127.0.0.1!0");
        let mut caller = calls.recv_timeout(PATIENCE).expect("a call");
        let data = conversation.file(&place, "data");
        let listen = announced.file(&place, "listen");
        let stuck = Stuck::new();
        let dial = place.dir.path().join("dial");
        fs::write(&dial, format!("connect 127.0.0.1!{}", stuck.port)).expect("written");
        let (dial, clone) = (format!("if={}", dial.display()), place.file("tcp/clone"));
        for name in ["INT", "KILL"] {
            interrupted(&place, name, &["cat", &data]);
            interrupted(&place, name, &["cat", &listen]);
            interrupted(&place, name, &["dd", &dial, &format!("of={clone}")]);
        }
        // What was not read by those who are gone is there for who comes.
        caller.write_all(b"hello").expect("sent");
        assert_eq!(place.sh(&format!("head -c 5 {data}")), "hello");
        for name in ["INT", "KILL"] {
            let to = format!("of={data}");
            interrupted(&place, name, &["dd", "if=/dev/zero", "bs=1M", &to]);
        }
        // And a call goes to one who takes it.
        let taken = place.sh(&format!(
            "cat $(dirname {listen})/local > $DIR/run/local
             port=$(cut -d! -f2 $DIR/run/local)
             exec 5<>/dev/tcp/127.0.0.1/$port; cat {listen}"
        ));
        assert!(taken.parse::<u32>().is_ok(), "{taken}");
        drop((conversation, announced));
        service.stop();
    });
}

/// An address of the far side where dials wait: nobody takes calls, and no more of
/// them may wait to be taken.
struct Stuck {
    process: Child,
    port: String,
}

impl Stuck {
    fn new() -> Self {
        let script = "import socket, time
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(0)
held = []
for _ in range(4):
    c = socket.socket(); c.setblocking(False); c.connect_ex(s.getsockname()); held.append(c)
time.sleep(0.2); print(s.getsockname()[1], flush=True); time.sleep(1000)";
        let mut process = Command::new("python3")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut port = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
        Self { process, port: port.trim().to_owned() }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn who_waits_holds_up_nobody_else() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, _calls) = silent();
        let echo = echo();
        let stuck = Stuck::new();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let data = conversation.file(&place, "data");
        let connect = format!("echo connect 127.0.0.1!{} > $MNT/tcp/clone", stuck.port);
        let scripts =
            [format!("cat {data}"), format!("exec dd if=/dev/zero bs=1M of={data}"), connect];
        let mut waiting: Vec<Child> = scripts
            .iter()
            .map(|script| {
                let mut command = place.command("bash");
                command.args(["-c", script]).stderr(Stdio::null()).spawn().expect("bash")
            })
            .collect();
        sleep(Duration::from_millis(500));
        let start = Instant::now();
        let said = place.sh(&format!(
            "ls -lR $MNT > /dev/null; stat {data} > /dev/null; : > {data}
             exec 3<>$MNT/tcp/clone; read -r -u 3 n || :
             echo connect 127.0.0.1!{echo} >&3; exec 4<>$MNT/tcp/$n/data
             echo there >&4; read -r -u 4 line; echo $line
             echo hangup > {ctl}",
            ctl = conversation.file(&place, "ctl"),
        ));
        assert_eq!(said, "there\n");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        // The hangup has ended the first two.
        for process in &mut waiting[..2] {
            wait(process, PATIENCE);
        }
        let _ = waiting[2].kill();
        wait(&mut waiting[2], AT_ONCE);
        drop(conversation);
        service.stop();
    });
}

#[test]
fn signals_lose_no_byte() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = each_caller(|mut stream| {
            for number in 0..4000_u32 {
                if stream.write_all(format!("{number:07}\n").as_bytes()).is_err() {
                    return;
                }
                if number % 4 == 0 {
                    sleep(Duration::from_micros(300));
                }
            }
        });
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        // os.read asks again after a signal, as cat(1) would in a shell.
        let said = place.python(&format!(
            "import os, signal
count = 0
def handler(*_):
    global count; count += 1
signal.signal(signal.SIGALRM, handler); signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
fd = os.open('{}', os.O_RDONLY)
got = b''
while piece := os.read(fd, 100): got += piece
signal.setitimer(signal.ITIMER_REAL, 0)
assert count > 50, count
print(got == b''.join(b'%07d\\n' % n for n in range(4000)))",
            conversation.file(&place, "data")
        ));
        assert_eq!(said, "True\n");
        drop(conversation);
        service.stop();
    });
}

#[test]
fn a_hundred_shells_at_once_leave_nothing_behind() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let port = echo();
        place.sh("head -c 1048576 /dev/urandom > $DIR/run/sent; ls $MNT/tcp");
        let before = service.descriptors();
        let script = format!(
            "set -eu; exec 3<>$MNT/tcp/clone; read -r -u 3 n || :
             echo connect 127.0.0.1!{port} >&3; cd $MNT/tcp/$n
             cat data > $DIR/run/back.$1 & cat $DIR/run/sent > data; echo closewrite >&3
             wait $!; cmp $DIR/run/sent $DIR/run/back.$1; rm $DIR/run/back.$1"
        );
        let clients: Vec<Child> = (0..100)
            .map(|number| {
                let mut command = place.command("bash");
                command.args(["-c", &script, "bash", &number.to_string()]);
                command.stderr(Stdio::piped()).spawn().expect("bash")
            })
            .collect();
        let limit = Instant::now() + 4 * PATIENCE;
        for mut client in clients {
            let status = wait(&mut client, limit.saturating_duration_since(Instant::now()));
            let mut said = String::new();
            client.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
            assert!(status.success() && said.is_empty(), "{status}: {said}");
        }
        until("no conversation is left", || {
            place.sh("ls $MNT/tcp $MNT/unix | grep -c ^[0-9] || :") == "0\n"
        });
        until("no descriptor is left", || service.descriptors() <= before);
        service.stop();
    });
}

#[test]
fn a_busy_mount_is_gone_with_its_program() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, _calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let data = conversation.file(&place, "data");
        let mut reader =
            place.command("cat").arg(&data).stderr(Stdio::null()).spawn().expect("cat");
        let mut inside = place
            .command("bash")
            .args(["-c", "cd $MNT/tcp; exec sleep 1000"])
            .spawn()
            .expect("bash");
        sleep(Duration::from_millis(400));
        service.stop();
        assert!(!wait(&mut reader, AT_ONCE).success(), "it was told");
        assert_eq!(place.sh("ls -A $MNT"), "");
        // The place can be used again at once, with somebody still in the old one.
        let service = place.serve(&[]);
        assert_eq!(place.sh("ls $MNT"), "cs\ntcp\nunix\n");
        service.stop();
        inside.kill().expect("ours");
        wait(&mut inside, AT_ONCE);
        drop(conversation);
    });
}

#[test]
fn a_dead_mount_is_cleared_by_the_next_start() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        let (port, _calls) = silent();
        let conversation = Conversation::new(&place, &format!("connect 127.0.0.1!{port}"));
        let data = conversation.file(&place, "data");
        let mut reader =
            place.command("cat").arg(&data).stderr(Stdio::null()).spawn().expect("cat");
        sleep(Duration::from_millis(400));
        service.kill();
        // Who waited does not wait for ever.
        assert!(!wait(&mut reader, AT_ONCE).success(), "it was told");
        assert_eq!(place.mounts().len(), 1);
        let dead = finish(place.command("stat").arg(place.mnt()).env("LC_ALL", "C"));
        assert!(text(&dead.stderr).contains("not connected"), "{dead:?}");
        let service = place.serve(&[]);
        assert_eq!(place.mounts().len(), 1);
        assert_eq!(place.sh("ls $MNT"), "cs\ntcp\nunix\n");
        drop(conversation);
        service.stop();
    });
}

#[test]
fn a_dead_mount_of_somebody_elses_is_named() {
    // To make one takes root.
    if !is_root() {
        return;
    }
    let place = Place::new(Who::Same);
    place.sh(
        "mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 strange $MNT 3<>/dev/fuse",
    );
    let said = place.refusal(&["-m", "mnt"], None);
    let command = format!("fusermount3 -u -z {}", place.mnt().display());
    assert!(said.trim_end().ends_with(&command), "{said}");
    place.sh(&command);
    assert_eq!(place.mounts(), [""; 0]);
}

#[test]
fn a_mount_that_somebody_unmounts_is_not_missed() {
    as_each(|who| {
        let place = Place::new(who);
        let service = place.serve(&[]);
        place.sh("fusermount3 -u $MNT");
        let line = service.line();
        assert!(line.ends_with("was unmounted; the socket is still served"), "{line}");
        // What is mounted there by then is another's.
        let mut other = place.host();
        other.args(["--pipe", "loopback", "-s", "other", "-m", "mnt"]);
        let mut other = other.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut ready = String::new();
        BufReader::new(other.stderr.as_mut().expect("piped")).read_line(&mut ready).expect("UTF-8");
        assert!(ready.contains("mounted on"), "{ready}");
        let mut service = service;
        signal(service.process.id(), "TERM");
        assert!(wait(&mut service.process, PATIENCE).success());
        assert_eq!(place.mounts().len(), 1);
        assert_eq!(place.sh("ls $MNT"), "cs\ntcp\nunix\n");
        signal(other.id(), "TERM");
        assert!(wait(&mut other, PATIENCE).success());
        assert_eq!(place.mounts(), [""; 0]);
    });
}

#[test]
fn cs_answers_with_where_the_tree_is() {
    as_each(|who| {
        let place = Place::new(who);
        let ask = "exec 3<>$MNT/cs; echo 'tcp!host!80' >&3; cat <&3";
        let service = place.serve(&[]);
        assert_eq!(place.sh(ask), format!("{}/tcp/clone host!80", place.mnt().display()));
        service.stop();
        let service = place.serve(&["--prefix", "/n/far"]);
        assert_eq!(place.sh(ask), "/n/far/tcp/clone host!80");
        service.stop();
        fs::create_dir(place.dir.path().join("a b")).expect("made");
        let said = place.refusal(&["-m", "a b"], None);
        assert!(said.trim_end().ends_with("give --prefix"), "{said}");
    });
}

#[test]
fn what_cannot_be_mounted_on_is_refused_in_words() {
    as_each(|who| {
        let place = Place::new(who);
        let has = |said: &str, words: &str| assert!(said.contains(words), "{said}");
        has(&place.refusal(&["-m", "nowhere"], None), "nowhere: there is no such directory");
        fs::write(place.dir.path().join("file"), "").expect("written");
        has(&place.refusal(&["-m", "file"], None), "file: it is no directory");
        has(&place.refusal(&["-m", "."], None), ": the directory is not empty");
        has(&place.refusal(&["-m", "mnt"], Some("/")), "install the package fuse3");
        let service = place.serve(&[]);
        has(&place.refusal(&["-m", "mnt"], None), ": another sshnet-host is mounted there");
        service.stop();
    });
    if is_root() {
        let place = Place::new(Who::Nobody(0o600));
        let said = place.refusal(&["-m", "mnt"], None);
        assert!(said.contains("/dev/fuse: Permission denied") && said.contains("0666"), "{said}");
    }
}
