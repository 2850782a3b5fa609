//! `netstat`, `ls`, `cat` and `write`, and programs of others on the service's socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use sshnet_tests::ninep::{Client, Dialect};
use sshnet_tests::sshd::free_port;
use sshnet_tests::world::{Kind, PATIENCE, Service, World, run, signal, until};

on_each_pipe!(
    ls_lists_directories_and_says_where_there_are_some,
    cat_copies_files_and_streams_to_their_end,
    write_passes_lines_and_streams,
    clients_of_diod_list_and_read_the_tree;
    but psusan:
    netstat_shows_each_conversation,
);

/// What a command prints; it must succeed in silence.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = run(command, b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}: {}: {said}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The seconds that a row of JSON gives for its age.
fn age(row: &str) -> u64 {
    let (_, after) = row.split_once("\"age\":").expect("it has an age");
    let digits = after.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).expect("a number")
}

fn netstat_shows_each_conversation(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, data) = client.dial(&echo.address()).expect("it answers");
    data.write(b"hello").wait_count().expect("it takes it");
    assert_eq!(data.read(100).wait_data(), Ok(b"hello".to_vec()));
    let rows = || -> Vec<String> {
        let text = output(&mut world.command(&["netstat", "--json"]));
        text.lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect()
    };
    // It grows older, and who comes later is younger.
    until("it is two seconds old", || age(&rows()[0]) >= 2);
    let (_, refused) = client.clone_client().expect("there is room");
    let closed = format!("127.0.0.1!{}", free_port());
    refused.control(&format!("connect {closed}")).expect_err("nobody is there");
    let rows = rows();
    assert_eq!(rows.len(), 2, "{rows:?}");
    let dialled = format!(
        "{{\"protocol\":\"tcp\",\"number\":0,\"state\":\"Established\",\"age\":{},\"local\":",
        age(&rows[0])
    );
    assert!(rows[0].starts_with(&dialled), "{}", rows[0]);
    let figures = format!(
        "\"remote\":\"{}\",\"received\":5,\"sent\":5,\"unread\":0,\"unsent\":0,\"error\":null}}",
        echo.address()
    );
    assert!(rows[0].trim_end_matches(',').ends_with(&figures), "{}", rows[0]);
    assert!(age(&rows[1]) < age(&rows[0]), "{rows:?}");
    assert!(rows[1].contains("\"state\":\"Closed\"") && rows[1].contains("refused"), "{}", rows[1]);
    // The table has the same.
    let table = output(&mut world.command(&["netstat", "-s", "s"]));
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["Dir", "State", "Age", "Local"], "{table}");
    assert_eq!(lines[1][..2], ["tcp/0", "Established"], "{table}");
    assert!(lines[1][2].ends_with(['s', 'm']), "{table}");
    assert_eq!(lines[1][4], echo.address(), "{table}");
    assert!(table.contains("refused"), "{table}");
}

/// What a command says that must fail with 1, having printed nothing.
#[track_caller]
fn refusal(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{command:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn ls_lists_directories_and_says_where_there_are_some(kind: Kind) {
    let world = World::new(kind);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, _data) = client.dial(&echo.address()).expect("it answers");
    assert_eq!(output(&mut world.command(&["ls"])), "cs\ntcp\nunix\n");
    assert_eq!(output(&mut world.command(&["ls", "/tcp/"])), "clone\n0\nstats\n");
    assert_eq!(
        output(&mut world.command(&["ls", "-s", "s", "tcp/0"])),
        "ctl\ndata\nlisten\nlocal\nremote\nstatus\n"
    );
    assert_eq!(
        refusal(&mut world.command(&["ls", "-s", "s", "tcp/1"]), b""),
        "sshnet-host: cannot list tcp/1: file not found\n\
         to see what there is: sshnet-host ls -s s tcp\n"
    );
    let said = refusal(&mut world.command(&["ls", "cs"]), b"");
    assert_eq!(said, "sshnet-host: cannot list cs: it is not a directory\n");
}

fn cat_copies_files_and_streams_to_their_end(kind: Kind) {
    let world = World::new(kind);
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 5) as u8).collect();
    let sent = bytes.clone();
    let service = Service::new(move |mut stream| {
        stream.write_all(&sent).expect("it is read");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let _ = stream.read(&mut [0]);
    });
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, _data) = client.dial(&service.address()).expect("it answers");
    let remote = output(&mut world.command(&["cat", "-s", "s", "tcp/0/remote"]));
    assert_eq!(remote, format!("{}\n", service.address()));
    let copied = run(&mut world.command(&["cat", "tcp/0/data"]), b"");
    let said = String::from_utf8_lossy(&copied.stderr);
    assert_eq!((copied.status.code(), &*said), (Some(0), ""));
    assert!(copied.stdout == bytes, "{} bytes came", copied.stdout.len());
    assert_eq!(
        refusal(&mut world.command(&["cat", "tcp"]), b""),
        "sshnet-host: cannot read tcp: it is a directory\n\
         to see what is in it: sshnet-host ls tcp\n"
    );
    assert_eq!(
        refusal(&mut world.command(&["cat", "tcp/7/listen"]), b""),
        "sshnet-host: cannot read tcp/7/listen: file not found\n\
         to see what there is: sshnet-host ls tcp\n"
    );
}

fn write_passes_lines_and_streams(kind: Kind) {
    let world = World::new(kind);
    let (say, said) = channel();
    let say = std::sync::Mutex::new(say);
    let service = Service::new(move |mut stream| {
        let mut all = Vec::new();
        let clean = stream.read_to_end(&mut all).is_ok();
        let _ = say.lock().expect("no panic").send((all, clean));
    });
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, _data) = client.dial(&service.address()).expect("it answers");
    let write = |path, input: &[u8]| run(&mut world.command(&["write", path]), input);
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 3) as u8).collect();
    let written = write("tcp/0/data", &bytes);
    let told = String::from_utf8_lossy(&written.stderr);
    assert_eq!((written.status.code(), &*told), (Some(0), ""));
    // A line is a message. The first that is refused is named, and ends it.
    let refused = refusal(
        &mut world.command(&["write", "-s", "s", "tcp/0/ctl"]),
        b"keepalive\n\ncloseread\nhangup\n",
    );
    let why = "tcp/0/ctl, line 3: 'closeread': bad or inappropriate tcp control message";
    assert!(refused.starts_with(&format!("sshnet-host: {why}")), "{refused}");
    assert_eq!(write("tcp/0/ctl", b"closewrite").status.code(), Some(0));
    let (all, clean) = said.recv_timeout(PATIENCE).expect("it ends there");
    assert!(clean && all == bytes, "{} bytes", all.len());
    let refused = refusal(&mut world.command(&["write", "tcp/0/status"]), b"x");
    assert!(refused.contains("cannot write to tcp/0/status: permission denied"), "{refused}");
}

/// They hear nothing of it from stdin.
#[test]
fn who_waits_for_stdin_notices_the_end_of_the_service() {
    let mut world = World::new(Kind::Loopback);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Plan9);
    let (_, _ctl, _data) = client.dial(&echo.address()).expect("it answers");
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", world.pid())).expect("it runs").count();
    let before = descriptors();
    let waiting = [vec!["write", "tcp/clone"], vec!["write", "tcp/0/data"], vec!["attach"]];
    let mut waiting = waiting.map(|words| {
        let mut command = world.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    });
    until("all are connected", || descriptors() >= before + 3);
    until("one is at it", || client.names("tcp") == ["clone", "0", "1", "stats"]);
    signal(world.pid(), "TERM");
    assert_eq!(world.wait(PATIENCE).code(), Some(0));
    for process in &mut waiting {
        let mut status = None;
        until("it ends", || {
            status = process.try_wait().expect("it is our child");
            status.is_some()
        });
        let mut said = String::new();
        process.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{said}");
        assert!(said.contains("the service has ended; start it, then this again"), "{said}");
    }
}

/// Only root can try it.
#[test]
fn another_users_connection_by_tcp_is_refused() {
    let own = run(Command::new("id").arg("-u"), b"").stdout;
    if own != b"0\n" {
        println!("not tried: it takes root to connect as somebody else");
        return;
    }
    let world = World::launch(None, &["--pipe", "loopback", "--listen", "tcp!127.0.0.1!0"]);
    until("it is up", || world.said().contains("serving "));
    let said = world.said();
    let (_, port) = said.trim_end().rsplit_once('!').expect("it says its port");
    // How many bytes a Tversion is answered with.
    let script = format!(
        r"exec 3<>/dev/tcp/127.0.0.1/{port}
        {{
            printf '\023\0\0\0\144\377\377\0\040\0\0\006\0009P2000' >&3
            head -c 19 <&3
        }} 2>/dev/null | wc -c"
    );
    assert_eq!(output(Command::new("bash").args(["-c", &script])), "19\n");
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "-c"];
    assert_eq!(output(Command::new("setpriv").args(nobody).arg(&script)), "0\n");
    until("it says so", || world.said().contains("connection of user 65534 was refused"));
}

/// They speak 9P2000.L, ask for authentication first, and walk from directories
/// that they have open.
fn clients_of_diod_list_and_read_the_tree(kind: Kind) {
    let diod = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        // Debian has one of them where root's programs are.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin")).args(words);
        output(&mut command)
    };
    let world = World::new(kind);
    let echo = Service::echo();
    let client = Client::connect(&world.socket(), Dialect::Linux);
    let (_, _ctl, _data) = client.dial(&echo.address()).expect("it answers");
    let socket = world.socket().display().to_string();
    assert_eq!(diod("diodls", &["-s", &socket, "-a", "/"]), "cs\ntcp\nunix\n");
    let long = diod("diodls", &["-s", &socket, "-a", "/", "-l", "tcp"]);
    assert!(long.lines().any(|line| line.starts_with("-rw-------")), "{long}");
    assert!(long.lines().any(|line| line.starts_with("dr-x------")), "{long}");
    assert_eq!(
        diod("diodls", &["-s", &socket, "-a", "/", "tcp/0"]),
        "ctl\ndata\nlisten\nlocal\nremote\nstatus\n"
    );
    let cat = |path| diod("diodcat", &["-s", &socket, "-a", "/", path]);
    assert_eq!(cat("tcp/0/remote"), format!("{}\n", echo.address()));
    assert!(cat("tcp/0/status").starts_with("Established qin 0 "));
    // Each open of clone is a client of its own, and gone when it is closed.
    assert_eq!(cat("tcp/clone"), "1");
    assert_eq!(cat("tcp/clone"), "1");
}
