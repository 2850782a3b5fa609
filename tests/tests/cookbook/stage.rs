//! Where the cookbook's blocks run: a machine with a network of its own.
//!
//! In new namespaces for network, mounts and processes, nothing of this machine's
//! is touched, every port is free, and names and addresses are as the text has
//! them. The test enters by running itself again, through unshare(1), which takes
//! root. There
//!
//! - the *far side* is what the test itself sees. Its `/etc/hosts` knows
//!   `intranet`, `db.internal` and `inner.internal`; there are several real sshds,
//!   a web server, a PostgreSQL, and on `/var/run/docker.sock` a web server that
//!   answers as docker does (docker itself needs more than a test may ask for);
//! - the *near side*, where the blocks run, is a mount namespace more: there
//!   `/etc/hosts` knows the ssh hosts alone, so that a far name is found by the far
//!   side or not at all. There is an ordinary user `me`, with an ssh key and a
//!   `/dev/fuse` that users may open.
//!
//! Both have one network, so it is not the stage that proves that bytes go through
//! ssh; `main_job` does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sshnet_tests::sshd::Sshd;
use sshnet_tests::world::{PATIENCE, program, until};

/// In the environment of the test when it has entered.
const ENTERED: &str = "SSHNET_ON_STAGE";
/// Everything that the stage keeps is on a tmpfs here.
const KEPT: &str = "/home/kept";
/// `me`, user and group.
const ME: u32 = 1000;
/// How long a block may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The far side, as a script of root's. sshnet-host is bound to a place of its own
/// before /home, where it may have been built, is covered.
const FAR: &str = r#"set -eu
mount -t tmpfs -o mode=755 none /mnt
mkdir -m 755 /mnt/me /mnt/kept
cd /mnt/kept
mkdir -m 755 bin www
mkdir -m 1777 tmp
touch bin/sshnet-host
mount --bind "$SSHNET_HOST" bin/sshnet-host
mount --rbind /mnt /home
cd /home/kept
mount -t tmpfs -o mode=755 none /run
[ /var/run -ef /run ] || mount --bind /run /var/run
mkdir -p /run/sshd /run/user
mkdir -m 700 /run/user/1000

# What somebody's killed program has left outside is not left by what runs here.
grep ' fuse.sshnet ' /proc/mounts | cut -d ' ' -f 2 | xargs -r umount -l
ip link set lo up
for n in 1 2 3 5 7 9; do ip addr add 10.0.0.$n/32 dev lo; done
ssh_hosts='127.0.0.1 localhost
10.0.0.1 example.com
10.0.0.2 yes.example.com
10.0.0.3 client.example.com'
echo "$ssh_hosts" >near.hosts
echo "$ssh_hosts
10.0.0.5 db.internal
10.0.0.7 intranet
10.0.0.9 inner.internal" >far.hosts
mount --bind far.hosts /etc/hosts
# There is nobody to ask for other names.
echo 'hosts: files' >nsswitch.conf
mount --bind nsswitch.conf /etc/nsswitch.conf

grep -v '^me:\|^[^:]*:[^:]*:1000:' /etc/passwd >passwd
echo 'me:*:1000:1000::/home/me:/bin/bash' >>passwd
mount --bind passwd /etc/passwd
mknod fuse c 10 229
chmod 666 fuse
mount --bind fuse /dev/fuse

mkdir -m 700 /home/me/.ssh
ssh-keygen -q -t ed25519 -N '' -C me -f /home/me/.ssh/id_ed25519
cp /home/me/.ssh/id_ed25519.pub authorized_keys
chown -R 1000:1000 /home/me /run/user/1000

echo 'hello from the intranet' >www/hello
"#;

/// Answers two questions of docker's API as docker does.
const DOCKER: &str = r#"
import http.server, json, os, socketserver
class Docker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {'/_ping': 'OK', '/version': json.dumps({'Version': '20.10.24'}) + '\n'}
        body = answers.get(self.path, '').encode()
        self.send_response(200 if body else 404)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self): return 'local'
    def log_message(self, *rest): pass
os.umask(0)
socketserver.ThreadingUnixStreamServer('/var/run/docker.sock', Docker).serve_forever()
"#;

/// A stage that was entered.
pub(crate) struct Stage {
    /// Keeps the near side's mount namespace.
    near: Child,
    blocks: AtomicU32,
    _sshds: Vec<Sshd>,
    _services: Vec<Child>,
}

/// Whether the test may do this, which takes root: what to put before a command.
fn root() -> Option<&'static [&'static str]> {
    if fs::metadata("/proc/self").expect("Linux").uid() == 0 {
        return Some(&[]);
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
    if sudo.is_ok_and(|status| status.success()) {
        return Some(&["sudo", "-n"]);
    }
    let why = "the cookbook's blocks need namespaces of their own, and so root, or a sudo \
               that asks for no password";
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("NOT RUN: {why}");
    None
}

impl Stage {
    /// Runs the test of this name again, on the stage, and there makes the stage.
    /// What calls it goes on only there.
    pub(crate) fn enter(test: &str) -> Option<Self> {
        if std::env::var_os(ENTERED).is_some() {
            // Mounts are made next, over directories that are in use outside.
            assert_eq!(std::process::id(), 1, "{ENTERED} is set, but this is no stage");
            return Some(Self::new());
        }
        let mut words: Vec<&str> = root()?.to_vec();
        let entered = format!("{ENTERED}=1");
        words.extend(["env", &entered, "TMPDIR=/home/kept/tmp"]);
        let host = format!("SSHNET_HOST={}", program().display());
        words.push(&host);
        words.extend(["timeout", "--foreground", "--kill-after=5", "300"]);
        // When unshare goes, so does everything on the stage.
        words.extend(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]);
        words.push("--mount-proc");
        let this = std::env::current_exe().expect("a test has a path");
        let output = Command::new(words[0])
            .args(&words[1..])
            .arg(this)
            .args(["--exact", test, "--nocapture"])
            .stdin(Stdio::null())
            .output()
            .expect("unshare: Debian package util-linux");
        let said =
            [output.stdout, output.stderr].map(|all| String::from_utf8_lossy(&all).into_owned());
        assert!(output.status.success(), "{}\n{}", output.status, said.concat());
        assert!(said[0].contains("1 passed"), "the test {test} has another name: {}", said[0]);
        None
    }

    fn new() -> Self {
        let far = Command::new("sh").args(["-c", FAR]).output().expect("sh");
        assert!(far.status.success(), "no stage: {}", String::from_utf8_lossy(&far.stderr));
        let keys = format!("AuthorizedKeysFile {KEPT}/authorized_keys");
        // Names, addresses, and what listens there.
        let sshds = [
            // Two hosts, that is, and the second is one that only the first knows.
            ("example.com,inner.internal", "10.0.0.1,10.0.0.9", "no"),
            ("yes.example.com", "10.0.0.2", "yes"),
            ("client.example.com", "10.0.0.3", "clientspecified"),
        ];
        let mut known = String::new();
        let sshds = sshds.map(|(names, addresses, ports)| {
            let listen = addresses.split(',').map(|address| format!("ListenAddress {address}:22"));
            let mut options: Vec<String> = listen.collect();
            options.extend([format!("GatewayPorts {ports}"), keys.clone()]);
            // sshnet-host is installed there, too.
            options.push(format!("SetEnv PATH={KEPT}/bin:/usr/local/bin:/usr/bin:/bin"));
            let sshd = Sshd::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
            let key = fs::read_to_string(sshd.dir().join("host.pub")).expect("it has a key");
            known += &format!("{names},{addresses} {key}");
            sshd
        });
        fs::write("/home/me/.ssh/known_hosts", known).expect("it can be written");

        let mut web = Command::new("python3");
        web.args(["-m", "http.server", "--bind", "10.0.0.7", "--directory"]);
        web.args(["/home/kept/www", "80"]);
        let docker = serve(Command::new("python3").args(["-c", DOCKER]));
        let services = [serve(&mut web), docker, postgres()];
        until("the web server is up", || TcpStream::connect(("10.0.0.7", 80)).is_ok());
        until("docker's socket is there", || Path::new("/var/run/docker.sock").exists());

        let script = "mount --bind /home/kept/near.hosts /etc/hosts; echo ready; exec sleep 1000";
        let mut near = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare: Debian package util-linux");
        let mut line = String::new();
        let stdout = near.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says something");
        assert_eq!(line, "ready\n", "there is no near side");
        Self { near, blocks: AtomicU32::new(0), _sshds: sshds.into(), _services: services.into() }
    }

    /// Starts a block as `me` would at home on the near side, with no terminal.
    pub(crate) fn start(&self, what: &str, language: &str, text: &str) -> Running {
        let number = self.blocks.fetch_add(1, Ordering::Relaxed);
        let said = Path::new(KEPT).join(format!("block.{number}"));
        let output = File::create(&said).expect("room in memory");
        let both = output.try_clone().expect("a descriptor");
        let interpreter = if language == "python" { "python3" } else { language };
        let process = Command::new("nsenter")
            .args(["--mount", "--target", &self.near.id().to_string()])
            .args(as_me())
            // To enter a namespace is to go to its root.
            .args(["env", "-i", "--chdir=/home/me"])
            .args([
                "HOME=/home/me",
                "USER=me",
                "LOGNAME=me",
                "LC_ALL=C.UTF-8",
                "PYTHONUNBUFFERED=1",
            ])
            .args(["XDG_RUNTIME_DIR=/run/user/1000"])
            .arg(format!("PATH={KEPT}/bin:/usr/local/bin:/usr/bin:/bin"))
            .args([interpreter, "-c", text])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(both)
            // A group of its own, for Ctrl-C.
            .process_group(0)
            .spawn()
            .expect("nsenter: Debian package util-linux");
        Running { what: what.to_owned(), process, said }
    }

    /// What every sshnet-host said.
    fn said() -> String {
        let blocks = fs::read_dir(KEPT).into_iter().flatten().flatten();
        let said = blocks.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        said.filter(|said| said.contains("sshnet-host:")).collect()
    }

    /// Nothing of ours is left, after what ran has ended.
    pub(crate) fn is_as_it_was(&self) {
        let table = format!("/proc/{}/mounts", self.near.id());
        let mounted = || {
            let table = fs::read_to_string(&table).expect("the near side is there");
            table.lines().find(|line| line.contains("fuse.sshnet")).map(str::to_owned)
        };
        let deadline = Instant::now() + PATIENCE;
        while let Some(mount) = mounted() {
            assert!(Instant::now() < deadline, "{mount} is left\n{}", Self::said());
            sleep(Duration::from_millis(10));
        }
        let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        until("no process is left", || {
            !fs::read_dir("/proc").expect("Linux").flatten().any(|entry| {
                text(entry.path().join("comm")) == "sshnet-host\n"
                    && !text(entry.path().join("stat")).contains(") Z")
            })
        });
        let services = fs::read_dir("/run/user/1000/sshnet")
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
        assert!(services.as_ref().map_or(true, Vec::is_empty), "{services:?}");
    }
}

/// A command's words to become `me`.
fn as_me() -> Vec<String> {
    let id = ME.to_string();
    ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--"].map(str::to_owned).into()
}

/// Starts a service of the far side's. It goes when the stage goes.
fn serve(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A PostgreSQL on db.internal, with a database `me`.
fn postgres() -> Child {
    // Debian has them in a directory for each version, beside the PATH.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = versions
        .map(|entry| entry.path().join("bin"))
        .chain(std::env::split_paths(&path))
        .find(|bin| bin.join("initdb").exists());
    let bin = bin.expect("there is no PostgreSQL: install the Debian package postgresql");
    let data = format!("{KEPT}/tmp/postgres");
    let mut initdb: Vec<String> = as_me();
    initdb.push(bin.join("initdb").display().to_string());
    for word in ["-D", &data, "-U", "me", "-A", "trust", "--no-sync", "--no-locale"] {
        initdb.push(word.to_owned());
    }
    let made = Command::new(&initdb[0]).args(&initdb[1..]).current_dir("/").output();
    let made = made.expect("setpriv: Debian package util-linux");
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    // Calls come from the far host's own addresses.
    let rules = Path::new(&data).join("pg_hba.conf");
    fs::write(rules, "host all me 10.0.0.0/24 trust\nlocal all me trust\n").expect("it is there");
    let mut words = as_me();
    words.push(bin.join("postgres").display().to_string());
    for word in ["-D", &data, "-h", "10.0.0.5", "-k", &data, "-F"] {
        words.push(word.to_owned());
    }
    let server = serve(Command::new(&words[0]).args(&words[1..]));
    until("PostgreSQL is up", || {
        let mut command = Command::new("psql");
        command.args(["-h", &data, "-U", "me", "-d", "postgres", "-c", "create database me"]);
        let made = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        made.expect("there is no psql: install the Debian package postgresql-client").success()
    });
    server
}

/// A block that was started.
pub(crate) struct Running {
    what: String,
    process: Child,
    /// The file that it prints to.
    said: PathBuf,
}

impl Running {
    /// What it printed so far.
    fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.said).expect("it is there")).into_owned()
    }

    /// Waits for this; it must not end before.
    pub(crate) fn until_it_prints(&mut self, so: impl Fn(&str) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !so(&self.printed()) {
            let ended = self.process.try_wait().expect("it is our child");
            if ended.is_some() || Instant::now() > deadline {
                let (what, printed) = (&self.what, self.printed());
                return Err(format!("{what}does not print what is shown, but\n{printed}\n"));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for its end: its status, and what it printed.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.process.try_wait().expect("ours") {
                return (status, self.printed());
            }
            let (what, printed) = (&self.what, self.printed());
            assert!(Instant::now() < deadline, "{what}does not end, having printed\n{printed}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Ctrl-C, and the end.
    pub(crate) fn end(self) {
        let group = format!("-{}", self.process.id());
        let sent = Command::new("kill").args(["-INT", "--", &group]).status();
        assert!(sent.expect("kill").success(), "{}had ended:\n{}", self.what, self.printed());
        self.wait();
    }
}
