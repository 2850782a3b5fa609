//! Others on this machine: who may connect, and what those who may cannot do.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sshnet_tests::ninep::{Client, Dialect, tversion};
use sshnet_tests::world::{Kind, Running, Service, World, command, run, until};

const NOBODY: &str = "65534";

/// How many bytes a Tversion is answered with, for this user. Connecting itself may
/// fail, which counts as none.
fn answered(user: &str, socket: &Path) -> String {
    let script = "\
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
    s.sendall(b'\\x13\\0\\0\\0\\x64\\xff\\xff\\0\\x20\\0\\0\\x06\\x009P2000')
    print(len(s.recv(100)))
except PermissionError:
    print('no permission')
except ConnectionError:
    print(0)
";
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    // Another's may be in a place that nobody else gets to.
    command.args(["/usr/bin/python3", "-c", script]);
    let output = run(command.arg(socket), b"");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Only root can try it.
#[test]
fn another_user_connects_to_the_socket_only_if_allowed() {
    if run(Command::new("id").arg("-u"), b"").stdout != b"0\n" {
        println!("not tried: it takes root to connect as somebody else");
        return;
    }
    let dir = tempfile::Builder::new()
        .prefix("sn")
        .permissions(std::fs::Permissions::from_mode(0o711))
        .tempdir()
        .expect("a directory");
    let socket = dir.path().join("s");
    let path = socket.to_str().expect("a plain path");
    let serve = |more: &[&str]| {
        let service =
            Running::start(command(dir.path()).args(["-s", path, "--pipe", "loopback"]).args(more));
        service.until_said("serving ");
        service
    };
    // The mode keeps others out.
    let service = serve(&[]);
    assert_eq!(answered("0", &socket), "19");
    assert_eq!(answered(NOBODY, &socket), "no permission");
    // And were it no obstacle, whoever takes the connection asks.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("it is ours");
    assert_eq!(answered(NOBODY, &socket), "0");
    service.until_said("a 9P connection of user 65534 was refused");
    drop(service.stop("TERM"));
    // Of two others one is allowed.
    let service = serve(&["--allow-user", NOBODY]);
    assert_eq!(answered(NOBODY, &socket), "19");
    assert_eq!(answered("65533", &socket), "0");
    service.until_said("a 9P connection of user 65533 was refused");
    drop(service.stop("TERM"));
    // The socket of `forward` is the user's alone, too.
    let world = World::new(Kind::Loopback);
    let local = dir.path().join("f");
    let path = local.to_str().expect("a plain path");
    let echo = Service::echo();
    let forward = Running::start(&mut world.command(&["forward", path, &echo.address()]));
    forward.until_said("listening on ");
    std::fs::set_permissions(&local, std::fs::Permissions::from_mode(0o666)).expect("it is ours");
    assert_eq!(answered(NOBODY, &local), "0");
    forward.until_said("a connection of user 65534 was refused");
    assert_eq!(answered("0", &local), "19");
}

/// A small generator (xorshift): the same noise each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Frames with a true size and a known type as often as not, whatever is in them.
fn garbage(noise: &mut Noise) -> Vec<u8> {
    let length = noise.next() % 60;
    let mut frame: Vec<u8> = (0..length).map(|_| (noise.next() % 256) as u8).collect();
    if frame.len() >= 7 && !noise.next().is_multiple_of(16) {
        let size = u32::try_from(frame.len()).expect("a short frame");
        frame[..4].copy_from_slice(&size.to_le_bytes());
        frame[4] = (100 + noise.next() % 28) as u8;
    }
    frame
}

#[test]
fn a_9p_client_that_sends_garbage_harms_no_other() {
    let world = World::new(Kind::Loopback);
    let echo = Service::echo();
    let other = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, data) = other.dial(&echo.address()).expect("it answers");
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for round in 0..200_u32 {
        let mut stream = UnixStream::connect(world.socket()).expect("it takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        let mut said: Vec<u8> = match round % 4 {
            0 => Vec::new(),
            1 => tversion("9P2000"),
            2 => tversion("9P2000.u"),
            _ => tversion("9P2000.L"),
        };
        for _ in 0..100 {
            said.extend(garbage(&mut noise));
        }
        // It may have been cut off by then.
        let _ = stream.write_all(&said);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // It ends what it does not understand, and all that it said before is read.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    data.write(b"still here").wait_count().expect("it is taken");
    let mut came = Vec::new();
    while came.len() < 10 {
        came.extend(data.read(100).wait_data().expect("it comes back"));
    }
    assert_eq!(came, b"still here");
    until("nothing is left of the others", || other.names("tcp") == ["clone", "0", "stats"]);
}

#[test]
fn connections_past_the_limit_are_refused_and_fill_no_log() {
    let world = World::new(Kind::Loopback);
    let first = Client::connect(&world.socket(), Dialect::Plan9);
    let hold: Vec<UnixStream> =
        (0..1023).map(|_| UnixStream::connect(world.socket()).expect("it waits")).collect();
    for _ in 0..200 {
        let mut late = UnixStream::connect(world.socket()).expect("it waits");
        late.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        let _ = late.write_all(&tversion("9P2000"));
        let mut answer = Vec::new();
        let read = late.read_to_end(&mut answer);
        assert!(read.is_err() || answer.is_empty(), "it was served: {answer:?}");
    }
    until("it says so", || world.said().contains("refused: there are 1024 already"));
    assert!(world.said().lines().count() < 60, "{}", world.said());
    assert_eq!(first.names("tcp"), ["clone", "stats"]);
    drop(hold);
    until("there is room again", || {
        let mut stream = UnixStream::connect(world.socket()).expect("it waits");
        stream.write_all(&tversion("9P2000")).is_ok()
            && stream.read(&mut [0; 100]).is_ok_and(|count| count == 19)
    });
}
