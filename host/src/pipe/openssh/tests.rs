//! The pipe against a real sshd on the loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sshnet_core::message::{Global, Message, Open, reason};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::pipe::testing::*;

/// An sshd with keys of its own, and what ssh needs to get in.
struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

const SSHD: &str = "/usr/sbin/sshd";

impl Sshd {
    async fn start(extra: &[&str]) -> Self {
        // Between asking for a free port and binding it, another test may take it.
        for _ in 0..5 {
            if let Some(sshd) = Self::try_start(extra).await {
                return sshd;
            }
        }
        panic!("sshd could not bind a port in five attempts");
    }

    async fn try_start(extra: &[&str]) -> Option<Self> {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: install the package openssh-server");
        let dir = tempfile::tempdir().unwrap();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.path().join(key))
                .status()
                .expect("ssh-keygen: install the package openssh-client");
            assert!(made.success());
        }
        // Without it, sshd does not run as root.
        let _ = std::fs::create_dir_all("/run/sshd");
        let port = free_port().await;
        let file = |name: &str| dir.path().join(name).display().to_string();
        let process = Command::new(SSHD)
            // Of an option given twice, the first counts.
            .args(extra.iter().flat_map(|option| ["-o", option]))
            .args(["-D", "-e", "-f", "/dev/null", "-o", "ListenAddress=127.0.0.1"])
            .args(["-p", &port.to_string(), "-h", &file("host")])
            .args(["-o", &format!("AuthorizedKeysFile={}", file("user.pub"))])
            .args(["-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PidFile=none"])
            .args(["-o", "PermitRootLogin=yes", "-o", "PasswordAuthentication=no"])
            .args(["-o", "KbdInteractiveAuthentication=no"])
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let sshd = Self { dir, port, process };
        // Whoever took its port may answer there, too: its own word counts.
        let up = async {
            loop {
                let log = sshd.log();
                if log.contains("Server listening on") || log.contains("in use") {
                    return !log.contains("in use");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let up = timeout(PATIENCE, up).await;
        assert!(up.is_ok(), "sshd is not up: {}", sshd.log());
        up.is_ok_and(|up| up).then_some(sshd)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn options(&self) -> Options {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let options = [
            "-F",
            "none",
            "-i",
            &file("user"),
            "-p",
            &self.port.to_string(),
            "-o",
            &format!("UserKnownHostsFile={}", file("known")),
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            "IdentitiesOnly=yes",
        ];
        Options { options: options.map(OsString::from).to_vec(), ..Options::new("127.0.0.1") }
    }

    async fn pipe(&self, options: Options) -> Running {
        let pipe = match start(options, Login::First).await {
            Ok(pipe) => pipe,
            Err(error) => panic!("{error}\n{}", self.log()),
        };
        let dir = pipe.first.master.dir().to_owned();
        let pid = pipe.first.master.pid().expect("a process");
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let (engine, link) = Engine::new();
        Running { engine, pipe: tokio::spawn(pipe.run(link)), dir, pid }
    }

    /// Ends the sshd processes that serve connections.
    fn end_sessions(&self) {
        for child in children(self.process.id()) {
            let pid = rustix::process::Pid::from_raw(child).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Direct children of a process.
fn children(parent: u32) -> Vec<i32> {
    let of = |entry: &std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let field = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (field == parent.to_string()).then_some(pid)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(&entry.ok()?)).collect()
}

struct Running {
    engine: Engine,
    pipe: JoinHandle<Result<(), PipeError>>,
    dir: PathBuf,
    pid: i32,
}

impl Running {
    async fn end(self) {
        self.engine.close();
        timeout(PATIENCE, self.pipe).await.expect("an end").unwrap().unwrap();
        assert_gone(self.pid, &self.dir).await;
    }
}

async fn assert_gone(pid: i32, dir: &Path) {
    let gone = async {
        while Path::new(&format!("/proc/{pid}")).exists() || dir.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok(), "left behind: {pid} or {}", dir.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_pipe_can() {
    let sshd = Sshd::start(&[]).await;
    let mut running = sshd.pipe(sshd.options()).await;
    dials_and_moves_a_mebibyte_both_ways(&mut running.engine).await;
    refuses_in_the_systems_words(&mut running.engine).await;
    let originators = takes_calls(&mut running.engine).await;
    assert!(originators.iter().all(|o| o == "::"), "{originators:?}");
    running.engine.all_taken().await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_are_answered_in_order() {
    let sshd = Sshd::start(&[]).await;
    let mut running = sshd.pipe(sshd.options()).await;
    let engine = &mut running.engine;
    for number in 0..300 {
        // Every third is refused, the others get a port.
        let request = match number % 3 {
            0 => Global::Other { name: b"no-such-request", data: b"" },
            _ => Global::TcpipForward { address: b"127.0.0.1", port: 0 },
        };
        engine.send(&Message::GlobalRequest { want_reply: true, request });
    }
    for number in 0..300 {
        let reply = engine.next().await;
        match Message::decode(&reply).unwrap() {
            Message::RequestFailure => assert_eq!(number % 3, 0),
            Message::RequestSuccess { data } => assert!(number % 3 != 0 && data.len() == 4),
            other => panic!("{other:?}"),
        }
    }
    running.end().await;
}

/// The far side decides what an address stands for, by its GatewayPorts.
#[tokio::test(flavor = "multi_thread")]
async fn the_empty_address_is_all_that_the_far_side_allows() {
    for (gateway, beyond) in [("GatewayPorts=no", false), ("GatewayPorts=clientspecified", true)] {
        let sshd = Sshd::start(&[gateway]).await;
        let mut running = sshd.pipe(sshd.options()).await;
        for address in ["", "localhost"] {
            let port = running.engine.announce(address, 0).await.expect("announced");
            let port = u32::from_be_bytes(port.try_into().unwrap()) as u16;
            // All of 127/8 is this machine; only a wildcard listens beyond 127.0.0.1.
            let other = TcpStream::connect(("127.0.0.2", port)).await;
            assert_eq!(other.is_ok(), beyond && address.is_empty(), "{gateway} {address}");
            if other.is_ok() {
                assert_eq!(running.engine.call().await.3, address);
            }
            // sshd takes a port that is free at one address, and goes without another at
            // which it is not.
            let here = [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()];
            let here = here.map(|address| SocketAddr::new(address, port));
            let _caller = TcpStream::connect(&here[..]).await.unwrap();
            let (.., called, called_port, _) = running.engine.call().await;
            assert_eq!((called.as_str(), called_port), (address, port.into()));
            assert_eq!(running.engine.cancel(address, port).await, Some(Vec::new()));
            port_is_free(port).await;
        }
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_dialled_and_listened_at() {
    let sshd = Sshd::start(&[]).await;
    let mut running = sshd.pipe(sshd.options()).await;
    let path = sshd.dir.path().join("calls");
    let bytes = path.as_os_str().as_encoded_bytes();
    let listen = Global::StreamlocalForward { path: bytes };
    assert_eq!(running.engine.global(listen).await, Some(Vec::new()));
    // The call that we make is our own; its two ends come in either order.
    let kind = Open::DirectStreamlocal { path: bytes };
    running.engine.send(&Message::Open { sender: 1, window: 100, packet: 100, kind });
    let (mut confirmed, mut called) = (false, false);
    while !(confirmed && called) {
        match Message::decode(&running.engine.next().await).unwrap() {
            Message::OpenConfirmation { recipient: 1, .. } => confirmed = true,
            Message::Open { kind: Open::ForwardedStreamlocal { path }, .. } => {
                assert_eq!(path, bytes);
                called = true;
            }
            other => panic!("{other:?}"),
        }
    }
    let cancel = Global::CancelStreamlocalForward { path: bytes };
    assert_eq!(running.engine.global(cancel).await, Some(Vec::new()));
    assert_eq!(running.engine.global(cancel).await, None);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_caller_addresses_calls_tell_who_calls() {
    let sshd = Sshd::start(&[]).await;
    let options = Options { caller_address: true, ..sshd.options() };
    let mut running = sshd.pipe(options).await;
    let engine = &mut running.engine;
    assert_eq!(engine.announce("127.0.0.1", 0).await, None);
    let port = free_port().await;
    assert_eq!(engine.announce("127.0.0.1", port).await, Some(Vec::new()));
    assert_eq!(engine.announce("127.0.0.1", port).await, None);
    let connect = async || {
        // The answer came before the far side had heard of it.
        let connected = async {
            loop {
                match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, connected).await.expect("a listener")
    };
    let _waiting = connect().await;
    let (theirs, window, packet, address, called, originator) = engine.call().await;
    assert_eq!((address.as_str(), called), ("127.0.0.1", port.into()));
    assert_eq!(originator, "127.0.0.1");
    let channel = engine.accept(3, (theirs, window, packet));
    assert_eq!(engine.cancel("127.0.0.1", port).await, Some(Vec::new()));
    // New calls are refused, the one that goes on does.
    assert_ended(connect().await).await;
    tokio::time::sleep(2 * Duration::from_millis(200)).await;
    engine.send(&Message::Data { recipient: channel.theirs, data: b"still there" });
    drop(_waiting);
    assert_eq!(engine.exchange(channel, b"").await, b"");
    port_is_free(port).await;
    // And all else goes on, too.
    dials_and_moves_a_mebibyte_both_ways(engine).await;
    assert_eq!(engine.announce("127.0.0.1", port).await, Some(Vec::new()));
    drop(connect().await);
    engine.call().await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_and_pending_dials_do_no_harm() {
    let sshd = Sshd::start(&["PermitOpen=127.0.0.1:*"]).await;
    let mut running = sshd.pipe(sshd.options()).await;
    let forbidden = running.engine.dial("127.0.0.2", 1).await.unwrap_err();
    assert_eq!(forbidden.0, reason::PROHIBITED, "{forbidden:?}");
    let port = free_port().await;
    for _ in 0..200 {
        running.engine.dial("127.0.0.1", port).await.unwrap_err();
    }
    dials_and_moves_a_mebibyte_both_ways(&mut running.engine).await;
    running.end().await;
}

/// `SSHNET_REFUSED_DIALS` makes it so many, with the real limit: `just refused`.
#[tokio::test(flavor = "multi_thread")]
async fn refused_dials_wear_a_master_and_another_takes_its_place() {
    let (dials, limit) = match std::env::var("SSHNET_REFUSED_DIALS") {
        Ok(text) => (text.parse().expect("SSHNET_REFUSED_DIALS is a number"), FAILED_DIALS),
        Err(_) => (300, 100),
    };
    let begun = std::time::Instant::now();
    let sshd = Sshd::start(&[]).await;
    let options = Options { failed_dials: limit, ..sshd.options() };
    let mut running = sshd.pipe(options).await;
    let sessions = children(sshd.process.id()).len();
    let engine = &mut running.engine;
    let echo = echo().await;
    let channel = engine.dial("127.0.0.1", echo.port()).await.unwrap();
    let listening = engine.announce("127.0.0.1", 0).await.expect("announced");
    let listening = u32::from_be_bytes(listening.try_into().unwrap()) as u16;
    let closed = free_port().await;
    let (mut refused, mut at_the_limit) = (0, 0);
    while refused < dials {
        match engine.dial("127.0.0.1", closed).await.unwrap_err() {
            (reason::CONNECT_FAILED, _) => refused += 1,
            // They came faster than a new ssh logs in.
            (reason::RESOURCE_SHORTAGE, words) => {
                assert_eq!(words, "this ssh has seen too many failed dials");
                at_the_limit += 1;
                assert!(at_the_limit < 2_000, "no other ssh");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    println!("{refused} dials refused, {at_the_limit} at the limit, in {:?}", begun.elapsed());
    // The newest may be at its limit, too, until the next has logged in.
    let other = crate::pipe::testing::echo().await;
    let next = async {
        loop {
            match engine.dial("127.0.0.1", other.port()).await {
                Ok(channel) => return channel,
                Err((reason::RESOURCE_SHORTAGE, _)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    };
    let good = timeout(PATIENCE, next).await.expect("another ssh");
    assert_eq!(engine.exchange(good, b"a good one").await, b"a good one");
    // The first has the conversation and the listener; those in between have gone.
    let left = async |count: usize| {
        let left = async {
            while children(sshd.process.id()).len() != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, left).await.expect("the others go");
    };
    left(2 * sessions).await;
    let other = engine.announce("127.0.0.1", 0).await.expect("announced");
    let other = u32::from_be_bytes(other.try_into().unwrap()) as u16;
    for port in [listening, other] {
        let caller = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (theirs, .., called, _) = engine.call().await;
        assert_eq!(called, u32::from(port));
        engine.refuse(theirs);
        assert_ended(caller).await;
    }
    assert_eq!(engine.exchange(channel, b"still there").await, b"still there");
    dials_and_moves_a_mebibyte_both_ways_only(engine).await;
    // Its last listener keeps it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    left(2 * sessions).await;
    assert_eq!(engine.cancel("127.0.0.1", listening).await, Some(Vec::new()));
    left(sessions).await;
    dials_and_moves_a_mebibyte_both_ways_only(engine).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_can_log_in_dials_fail_at_the_limit_and_say_so() {
    let sshd = Sshd::start(&[]).await;
    let options = Options { failed_dials: 100, ..sshd.options() };
    let mut running = sshd.pipe(options).await;
    std::fs::remove_file(sshd.dir.path().join("user.pub")).unwrap();
    let engine = &mut running.engine;
    let echo = echo().await;
    let channel = engine.dial("127.0.0.1", echo.port()).await.unwrap();
    let closed = free_port().await;
    let mut refused = 0;
    let words = async {
        loop {
            match engine.dial("127.0.0.1", closed).await.unwrap_err() {
                (reason::CONNECT_FAILED, _) => refused += 1,
                (_, words) if words.contains("no new ssh") => break words,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let words = timeout(PATIENCE, words).await.expect("an end of it");
    assert!(words.starts_with("too many failed dials, and no new ssh: ssh ended: "), "{words}");
    assert!(words.contains("Permission denied"), "{words}");
    assert_eq!(refused, 100);
    assert_eq!(engine.exchange(channel, b"still there").await, b"still there");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_not_for_ssh_are_not_sent() {
    let sshd = Sshd::start(&[]).await;
    let mut running = sshd.pipe(sshd.options()).await;
    let engine = &mut running.engine;
    for request in [
        Global::Other { name: b"keepalive@openssh.com", data: b"" },
        Global::CancelTcpipForward { address: b"", port: 1 },
    ] {
        assert_eq!(engine.global(request).await, None);
    }
    engine.send(&Message::RequestFailure);
    engine.push(vec![2, 0, 0, 0, 0]);
    engine.push(vec![]);
    engine.send(&Message::Close { recipient: 99 });
    dials_and_moves_a_mebibyte_both_ways_only(engine).await;
    running.end().await;
}

/// As often as there are 5 bytes that were pushed by hand, too.
async fn dials_and_moves_a_mebibyte_both_ways_only(engine: &mut Engine) {
    let echo = echo().await;
    let channel = engine.dial("127.0.0.1", echo.port()).await.unwrap();
    assert_eq!(engine.exchange(channel, b"bytes").await, b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_ssh_is_told_in_its_words() {
    let sshd = Sshd::start(&[]).await;
    let running = sshd.pipe(sshd.options()).await;
    sshd.end_sessions();
    let error = timeout(PATIENCE, running.pipe).await.expect("an end").unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("ssh ended: "), "{text}");
    assert!(text.contains("closed by remote host") || text.contains("reset"), "{text}");
    assert!(text.ends_with("(exit status 255)"), "{text}");
    assert_gone(running.pid, &running.dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_told_in_sshs_words() {
    let error = start(Options::new("host.invalid"), Login::First).await.unwrap_err().to_string();
    assert!(error.starts_with("ssh ended: ssh: Could not resolve hostname"), "{error}");
    assert!(error.ends_with("(exit status 255)"), "{error}");

    let sshd = Sshd::start(&["AuthorizedKeysFile=none"]).await;
    let mut options = sshd.options();
    options.options.push("-oBatchMode=yes".into());
    options.destination = "nobody@127.0.0.1".into();
    let error = start(options, Login::First).await.unwrap_err().to_string();
    assert!(error.contains("nobody@127.0.0.1: Permission denied"), "{error}");

    let options = Options { program: "/no/such/ssh".into(), ..Options::new("host") };
    let error = start(options, Login::First).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot run /no/such/ssh: No such file"), "{error}");

    // What the user's configuration may ask for; nothing stays behind.
    let sshd = Sshd::start(&[]).await;
    let mut options = sshd.options();
    options.options.push("-oForkAfterAuthentication=yes".into());
    let error = match start(options, Login::First).await {
        Ok(pipe) => pipe.run(Engine::new().1).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("went to the background"), "{error}");
    let gone = async {
        while !children(sshd.process.id()).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok(), "ssh is still connected");

    // A destination is never an option.
    let error =
        start(Options::new("-oProxyCommand=touch /tmp/never"), Login::First).await.unwrap_err();
    assert!(error.to_string().contains("hostname contains invalid characters"), "{error}");
}

/// With the clock stopped, a deadline comes as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn an_ssh_that_is_no_master_is_given_up_and_got_its_words_as_given() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ssh");
    let args = dir.path().join("args");
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >'{0}.new'; mv '{0}.new' '{0}'; exec sleep 100\n",
        args.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
    let socket = std::thread::spawn(move || {
        let said = loop {
            match std::fs::read_to_string(&args) {
                Ok(said) => break said,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let said: Vec<_> = said.lines().map(str::to_owned).collect();
        let socket = std::os::unix::net::UnixListener::bind(&said[2]).unwrap();
        (said, socket)
    });
    let options =
        Options { program, options: vec!["-J".into(), "a b".into()], ..Options::new("-dest") };
    let error = start(options, Login::First).await.unwrap_err().to_string();
    assert_eq!(error, "multiplexing with ssh: no answer in 10 seconds");
    let (said, _socket) = socket.join().unwrap();
    assert!(said[2].len() <= 90, "{}", said[2]);
    let expected = format!(
        "-M -S {} -N -n -T -x -a -o ControlMaster=yes -o ControlPersist=no \
         -o ClearAllForwardings=yes -o PermitLocalCommand=no -o RemoteCommand=none \
         -o RequestTTY=no -o EscapeChar=none -o Tunnel=no -o ConnectTimeout=30 \
         -o LogLevel=INFO -o ServerAliveInterval=15 -o ServerAliveCountMax=3 -J a b -- -dest",
        said[2]
    );
    assert_eq!(said.join(" "), expected);
    assert!(!Path::new(&said[2]).parent().unwrap().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pipe_leaves_nothing_behind() {
    let sshd = Sshd::start(&[]).await;
    let mut running = sshd.pipe(sshd.options()).await;
    let port = running.engine.announce("127.0.0.1", 0).await.expect("announced");
    running.pipe.abort();
    assert!(running.pipe.await.unwrap_err().is_cancelled());
    assert_gone(running.pid, &running.dir).await;
    port_is_free(u32::from_be_bytes(port.try_into().unwrap()) as u16).await;

    // Nor does one that was never run, or never came to be.
    let pipe = start(sshd.options(), Login::First).await.unwrap();
    let master = &pipe.first.master;
    let (pid, dir) = (master.pid().expect("a process"), master.dir().to_owned());
    drop(pipe);
    assert_gone(pid, &dir).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let before = children(std::process::id()).len();
    let mut options = sshd.options();
    let port = silent.local_addr().unwrap().port();
    options.options.insert(0, format!("-oPort={port}").into());
    let starting = timeout(Duration::from_millis(300), start(options, Login::First)).await;
    assert!(starting.is_err(), "it cannot be up");
    let gone = async {
        while children(std::process::id()).len() > before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, gone).await.is_ok());
}
