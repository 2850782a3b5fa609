//! An sshd of a test's own: on the loopback, with its own keys, on a port that
//! the kernel chose, for whoever runs the tests.

use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::world::{children_of, private_directory, until};

/// A running sshd; dropped, it is killed.
pub struct Sshd {
    dir: TempDir,
    process: Child,
    /// The port that it listens on.
    pub port: u16,
}

/// Where sshd is; sshd must be started by its whole path.
fn program() -> PathBuf {
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("there is no sshd: install the Debian package openssh-server")
}

/// The name of whoever runs the tests.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id: Debian package coreutils");
    String::from_utf8(output.stdout).expect("a name").trim().to_owned()
}

/// A port on the loopback that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback has ports");
    listener.local_addr().expect("it is bound").port()
}

/// Makes a key.
fn generate(key: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(key)
        .stdin(Stdio::null())
        .status()
        .expect("there is no ssh-keygen: install the Debian package openssh-client");
    assert!(made.success(), "ssh-keygen failed");
}

/// Runs one with the configuration in this directory.
fn serve(dir: &Path) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log"));
    Command::new(program())
        .args(["-D", "-e", "-f"])
        .arg(dir.join("config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("it can be written"))
        .spawn()
        .expect("sshd starts")
}

impl Sshd {
    /// Starts one. `options` are lines of sshd_config, such as `PermitOpen none`;
    /// of one given twice the first counts, and theirs come first.
    pub fn start(options: &[&str]) -> Self {
        // Between asking for a free port and binding it, another test may take it.
        for _ in 0..5 {
            if let Some(sshd) = Self::try_start(options) {
                return sshd;
            }
        }
        panic!("sshd could not bind a port in five attempts");
    }

    fn try_start(options: &[&str]) -> Option<Self> {
        let dir = private_directory();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user"] {
            generate(&dir.path().join(key));
        }
        // Without it sshd does not start as root; as another it isn't looked at.
        if user() == "root" {
            fs::create_dir_all("/run/sshd").expect("root can make /run/sshd");
        }
        let port = free_port();
        let mut config: String = options.iter().map(|line| format!("{line}\n")).collect();
        config.push_str(&format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\n\
             MaxStartups 200\nLogLevel VERBOSE\n",
            path("host"),
            path("user.pub"),
        ));
        fs::write(dir.path().join("config"), config).expect("it can be written");
        let process = serve(dir.path());
        let mut sshd = Self { dir, process, port };
        sshd.is_up().then_some(sshd)
    }

    /// Whether an sshd answers at its port: it may be another program's.
    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut greeting = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && stream.read_exact(&mut greeting).is_ok()
            && greeting == *b"SSH-"
    }

    /// Waits until it takes connections; not, where its port is in use: then another
    /// test's sshd may answer there, before this one has ended.
    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        let listening = format!("Server listening on 127.0.0.1 port {}.", self.port);
        while !(self.log().contains(&listening) && self.greets()) {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                let log = self.log();
                assert!(log.contains("in use"), "sshd ended with {status}:\n{log}");
                return false;
            }
            assert!(Instant::now() < deadline, "sshd is not up in time:\n{}", self.log());
            sleep(Duration::from_millis(10));
        }
        true
    }

    /// Starts it again, after it was killed, on its port.
    pub fn start_again(&mut self) {
        // Somebody else may have the port for a moment.
        until("sshd has its port again", || {
            self.process = serve(self.dir.path());
            self.is_up()
        });
    }

    /// Gives it another host key, for when it is started again.
    pub fn change_host_key(&self) {
        let key = self.dir.path().join("host");
        fs::remove_file(&key).expect("it is there");
        generate(&key);
    }

    /// Lets nobody in any more.
    pub fn forget_user(&self) {
        fs::remove_file(self.dir.path().join("user.pub")).expect("it is there");
    }

    /// The options that get ssh in, without the destination.
    pub fn ssh_options(&self) -> Vec<String> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut words = vec!["-F".into(), "none".into(), "-i".into(), path("user")];
        words.extend(["-p".into(), self.port.to_string()]);
        for option in [
            format!("UserKnownHostsFile={}", path("known_hosts")),
            "GlobalKnownHostsFile=/dev/null".into(),
            "StrictHostKeyChecking=accept-new".into(),
            "IdentitiesOnly=yes".into(),
            "BatchMode=yes".into(),
        ] {
            words.extend(["-o".into(), option]);
        }
        words
    }

    /// Where ssh goes: who runs the tests, on the loopback.
    pub fn destination(&self) -> String {
        format!("{}@127.0.0.1", user())
    }

    /// A directory of its own, for what a test keeps beside it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The processes that serve its sessions.
    pub fn sessions(&self) -> Vec<u32> {
        children_of(self.process.id())
    }

    /// Kills it with all its sessions, as a host that dies.
    pub fn kill(&mut self) {
        let sessions = self.sessions();
        let _ = self.process.kill();
        let _ = self.process.wait();
        for pid in sessions {
            // It may have gone by itself.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }

    /// Waits until its log has this.
    pub fn until_log_has(&self, what: &str) {
        until(&format!("sshd logs {what:?}"), || self.log().contains(what));
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}
