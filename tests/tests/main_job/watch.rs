//! Those who watch a service: systemd, Prometheus, a collector of logs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sshnet_tests::ninep::{Client, Dialect, tversion};
use sshnet_tests::world::{
    Kind, Running, Service, World, command, private_directory, program, run, until,
};

fn stdout(command: &mut Command, input: &str) -> String {
    let output = run(command, input.as_bytes());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// The next that systemd would be told.
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1000];
    let length = socket.recv(&mut buffer).expect("it is told in time");
    String::from_utf8(buffer[..length].to_vec()).expect("text")
}

#[test]
fn systemd_is_told_when_a_service_is_up_and_when_it_goes() {
    let dir = private_directory();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let mut command = command(dir.path());
    command.args(["-s", "s", "--pipe", "loopback"]).env("NOTIFY_SOCKET", &path);
    let service = Running::start(&mut command);
    let ready = told(&socket);
    assert!(ready.starts_with("READY=1\nSTATUS=serving this machine on "), "{ready}");
    // It is, and not only says so.
    Client::connect(&dir.path().join("sshnet/s"), Dialect::Linux);
    let (status, said) = service.stop("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(told(&socket), "STOPPING=1");
}

/// Starts the program as systemd does: with a socket that listens as descriptor 3.
const ACTIVATE: &str = "\
import os, socket, sys
kind, path, program = sys.argv[1:4]
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == 'stream' else socket.SOCK_DGRAM)
s.bind(path)
if kind == 'stream':
    s.listen()
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ['LISTEN_PID'] = str(os.getpid())
os.environ['LISTEN_FDS'] = '1'
os.execv(program, [program] + sys.argv[4:])
";

#[test]
fn a_socket_that_systemd_hands_over_is_served_and_stays() {
    let dir = private_directory();
    let socket = dir.path().join("activated");
    let mut activate = Command::new("python3");
    activate.env("XDG_RUNTIME_DIR", dir.path()).args(["-c", ACTIVATE, "stream"]);
    activate.arg(&socket).arg(program()).args(["--pipe", "loopback"]);
    let service = Running::start(&mut activate);
    let line = service.until_said("serving this machine on ");
    assert!(line.ends_with(&format!(" on {}", socket.display())), "{line}");
    let echo = Service::echo();
    let client = Client::connect(&socket, Dialect::Linux);
    let (_, ctl, data) = client.dial(&echo.address()).expect("it answers");
    data.write(b"hello").wait_count().expect("it is taken");
    assert_eq!(data.read(5).wait_data().expect("it comes back"), b"hello");
    drop((ctl, data, client));
    let (status, said) = service.stop("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(socket.exists(), "it was not ours to remove");
    // One that does not listen is no socket to serve on.
    let mut activate = Command::new("python3");
    activate.args(["-c", ACTIVATE, "datagram"]).arg(dir.path().join("d")).arg(program());
    let output = run(activate.args(["--pipe", "loopback"]), b"");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no Unix socket that listens"), "{said}");
}

fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd")
}

/// With the systemd of this machine, where there is one.
#[test]
fn the_units_are_what_systemd_takes() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("not tried: there is no systemd-analyze");
        return;
    }
    let dir = private_directory();
    for kind in ["service", "socket"] {
        let unit = std::fs::read_to_string(contrib().join(format!("sshnet@.{kind}")));
        // Where it is installed is not where it is tested.
        let unit = unit.expect("a unit").replace("%h/.cargo/bin/sshnet-host", "/bin/true");
        std::fs::write(dir.path().join(format!("sshnet@.{kind}")), unit).expect("a file");
    }
    let units = ["service", "socket"].map(|kind| dir.path().join(format!("sshnet@x.{kind}")));
    let mut verify = Command::new("systemd-analyze");
    verify.env("XDG_RUNTIME_DIR", dir.path()).args(["--user", "--man=no", "verify"]);
    let output = run(verify.args(units), b"");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("sshnet@")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// The value of a line `name value`.
fn figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

#[test]
fn tcp_stats_has_the_figures_of_the_session() {
    let world = World::new(Kind::Loopback);
    let echo = Service::echo();
    for dialect in Dialect::ALL {
        let client = Client::connect(&world.socket(), dialect);
        let before = client.text("tcp/stats").expect("it is there");
        let (_, ctl, data) = client.dial(&echo.address()).expect("it answers");
        data.write(b"hello").wait_count().expect("it is taken");
        assert_eq!(data.read(5).wait_data().expect("it comes back"), b"hello");
        let (_, refused) = client.clone_client().expect("there is room");
        refused.control("connect 127.0.0.1!1").expect_err("nobody is there");
        let waits = data.read(5);
        let after = client.text("tcp/stats").expect("it is there");
        let more = |name| figure(&after, name) - figure(&before, name);
        assert_eq!((more("dials"), more("dials-failed")), (1, 1), "{after}");
        assert_eq!((more("bytes-sent"), more("bytes-received")), (5, 5), "{after}");
        assert_eq!((figure(&after, "pipe-up"), figure(&after, "clients")), (1, 2), "{after}");
        assert_eq!(figure(&after, "requests"), 1, "{after}");
        client.flush(&waits);
        client.open("tcp/stats", sshnet_tests::ninep::Mode::Both).err().expect("it is read only");
        client.walk("unix/stats").err().expect("there is one for both");
        drop((ctl, data, refused));
        client.hang_up();
        let next = Client::connect(&world.socket(), dialect);
        until("all is closed", || {
            figure(&next.text("tcp/stats").expect("it is there"), "clients") == 0
        });
    }
}

/// What this is answered by HTTP.
fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it takes connections");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    // One that is refused may be reset.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn metrics_are_prometheuss_and_for_those_who_may_connect() {
    let world = World::up(&["--pipe", "loopback", "--metrics", "tcp!127.0.0.1!0"]);
    let said = world.said();
    let port =
        said.split("metrics on http://127.0.0.1:").nth(1).and_then(|rest| rest.split('/').next());
    let port: u16 = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    let answer = http(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    for line in ["# TYPE sshnet_dials_total counter", "sshnet_dials_total 0", "sshnet_pipe_up 1"] {
        assert!(body.lines().any(|other| other == line), "no {line:?} in:\n{body}");
    }
    assert!(http(port, "GET /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(http(port, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert_eq!(http(port, &"x".repeat(100_000)), "", "nonsense is not answered");
    assert!(http(port, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "), "it goes on");
    // Only root can try it as somebody else.
    if stdout(Command::new("id").arg("-u"), "") == "0\n" {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; wc -c <&3"
        );
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "-c"]);
        let output = run(nobody.arg(script), b"");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("13"), "it was answered");
        until("it says so", || world.said().contains("connection for metrics of user 65534"));
    }
}

#[test]
fn metrics_on_a_unix_socket_go_with_the_service() {
    let dir = private_directory();
    let socket = dir.path().join("metrics");
    let path = socket.to_str().expect("a plain path");
    let mut command = command(dir.path());
    command.args(["-s", "s", "--pipe", "loopback", "--metrics", path]);
    let service = Running::start(&mut command);
    service.until_said("serving ");
    let body = stdout(
        Command::new("curl").args(["-sS", "--unix-socket", path, "http://localhost/metrics"]),
        "",
    );
    assert!(body.contains("\nsshnet_clients 0\n"), "{body}");
    let (status, said) = service.stop("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!socket.exists());
}

#[test]
fn a_log_in_json_is_an_object_a_line() {
    let dir = private_directory();
    let mut command = command(dir.path());
    command.args(["-s", "s", "--pipe", "loopback", "--log-format", "json", "--log-level"]);
    let service = Running::start(command.arg("debug"));
    service.until_said("serving ");
    let socket = dir.path().join("sshnet/s");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("it waits");
    stream.write_all(&tversion("9P2000")).expect("it reads");
    stream.write_all(&[1, 0, 0, 0, 0, 0, 0]).expect("it reads");
    service.until_said("a frame of 1 bytes ends the connection");
    let (_, said) = service.stop("TERM");
    let script = "\
import json, sys
for line in sys.stdin:
    entry = json.loads(line)
    assert entry['time'] > 1e9, line
    print(entry['level'], entry['message'])
";
    let read = stdout(Command::new("python3").args(["-c", script]), &said);
    assert!(read.contains("info serving this machine on "), "{read}");
    assert!(read.contains("debug a frame of 1 bytes ends the connection"), "{read}");
    // What ends it is an error, and nothing is said that was not asked for.
    let mut command = sshnet_tests::world::command(dir.path());
    command.args(["-s", "/nonexistent/s", "--pipe", "loopback", "--log-format=json"]);
    let output = run(command.arg("--log-level=error"), b"");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let read = stdout(Command::new("python3").args(["-c", script]), &said);
    assert!(read.starts_with("error cannot make the socket /nonexistent/s"), "{read}");
}
