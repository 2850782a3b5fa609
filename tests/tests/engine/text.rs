//! Text: `local`, `remote`, `status`, and answers of `cs`.

use sshnet_core::message::Message;
use sshnet_core::{ErrorCode, Protocol, TextFile};
use sshnet_tests::bench::{Bench, PACKET};
use sshnet_tests::promise::{own, said};

/// ip(3): the state first; then figures, then the last error on a line of its
/// own. sshnet.c's had no newline, figures or error (defect 38).
#[test]
fn status_is_the_state_the_figures_and_the_last_error() {
    let mut s = Bench::new();
    let id = s.client();
    assert_eq!(s.status(id), "Closed qin 0 qout 0 rx 0 tx 0 window 0/0\n");
    s.connect(1, id);
    assert_eq!(s.status(id), "Dialing qin 0 qout 0 rx 0 tx 0 window 0/0\n");
    s.flush(1);
    let status = s.status(id);
    let last = status.strip_prefix("Closed qin 0 qout 0 rx 0 tx 0 window 0/0\n");
    let last = last.and_then(|line| line.strip_suffix('\n'));
    assert!(said(last.unwrap_or_default(), &own("interrupted")), "{status}");
    let line = s.redial(id, 5, PACKET);
    s.hear(Message::Data { recipient: line.ours, data: &[1; 100] });
    s.read(2, id, 40);
    s.write(3, id, b"12345678");
    let open = s.info(id).receive_window;
    let status = format!("Established qin 60 qout 3 rx 100 tx 5 window {open}/0\n");
    assert_eq!(s.status(id), status);
    s.hear(Message::Close { recipient: line.ours });
    let status = s.status(id);
    let last = status.strip_prefix("Finished qin 60 qout 0 rx 100 tx 5 window 0/0\n");
    let last = last.and_then(|line| line.strip_suffix('\n'));
    assert!(said(last.unwrap_or_default(), &own("connection closed")), "{status}");
    let line = s.redial(id, 5, PACKET);
    s.control(4, line.id, "hangup");
    assert_eq!(s.status(id), "Teardown qin 0 qout 0 rx 0 tx 0 window 0/0\n");
    let listener = s.announce("*!99");
    assert_eq!(s.status(listener), "Listen qin 0 qout 0 rx 0 tx 0 window 0/0\n");
}

/// sshnet.c cut long names at 128 bytes and lost the newline (defect 38).
#[test]
fn a_long_name_is_shown_whole() {
    let mut s = Bench::new();
    let id = s.client();
    let host = "x".repeat(64);
    s.control(1, id, format!("connect {host}!65535"));
    assert_eq!(s.text(id, TextFile::Remote), Ok(format!("{host}!65535\n")));
    assert_eq!(s.text(id, TextFile::Local).as_deref(), Ok("::!0\n"));
}

/// What there is to say where there is nothing to say.
#[test]
fn a_closed_client_is_nowhere() {
    let mut s = Bench::new();
    let tcp = s.client();
    let unix = s.client_of(Protocol::Unix);
    for file in [TextFile::Local, TextFile::Remote] {
        assert_eq!(s.text(tcp, file).as_deref(), Ok("::!0\n"));
        assert_eq!(s.text(unix, file).as_deref(), Ok("/\n"));
    }
}

/// Text and snapshot say the same.
#[test]
fn the_snapshot_says_what_the_files_say() {
    let mut s = Bench::new();
    let listener = s.announce("*!99");
    let line = s.accept(listener, "", 99);
    let info = s.info(line.id);
    assert_eq!(s.text(line.id, TextFile::Local), Ok(format!("{}\n", info.local)));
    assert_eq!(s.text(line.id, TextFile::Remote), Ok(format!("{}\n", info.remote)));
    let all = s.clients();
    assert_eq!(all.len(), 2);
    assert_eq!(Some(&all[1]), s.lookup(1).as_ref());
}

/// cs(8): names and numbers, `net` for any protocol; the host is left to the far
/// side, which knows its own names.
#[test]
fn cs_answers_with_the_clone_file_and_the_address() {
    let mut s = Bench::new();
    for (query, answer) in [
        ("tcp!example.net!ssh", "/net/tcp/clone example.net!22"),
        ("tcp!example.net!22", "/net/tcp/clone example.net!22"),
        ("net!example.net!echo", "/net/tcp/clone example.net!7"),
        ("tcp!::1!80\n", "/net/tcp/clone ::1!80"),
        ("tcp!192.0.2.1!0", "/net/tcp/clone 192.0.2.1!0"),
        ("tcp!*!80", "/net/tcp/clone *!80"),
        ("unix!/run/s", "/net/unix/clone /run/s"),
    ] {
        assert_eq!(s.translate(query).as_deref(), Ok(answer), "{query}");
    }
}

/// What has not the form of a query (defect 39: sshnet.c crashed on some).
#[test]
fn cs_refuses_what_is_no_query() {
    let mut s = Bench::new();
    let long = format!("tcp!h!{}", "1".repeat(256));
    for (query, code) in [
        ("", ErrorCode::InvalidArgument),
        ("\n", ErrorCode::InvalidArgument),
        ("tcp", ErrorCode::InvalidArgument),
        ("tcp!", ErrorCode::InvalidArgument),
        ("tcp!h", ErrorCode::InvalidArgument),
        ("tcp!!7", ErrorCode::InvalidArgument),
        ("tcp!h!", ErrorCode::InvalidArgument),
        ("tcp!h!7!8", ErrorCode::InvalidArgument),
        ("tcp!h!70000", ErrorCode::InvalidArgument),
        ("tcp!h!010", ErrorCode::InvalidArgument),
        ("tcp!h h!7", ErrorCode::InvalidArgument),
        ("tcp!\u{1b}[2J!7", ErrorCode::InvalidArgument),
        ("tcp!h!nosuch", ErrorCode::NoEntry),
        ("udp!h!7", ErrorCode::NotSupported),
        ("!h!7", ErrorCode::NotSupported),
        ("unix!relative", ErrorCode::InvalidArgument),
        (&long, ErrorCode::InvalidArgument),
    ] {
        match s.translate(query) {
            Err(error) => {
                assert_eq!(error.code, code, "{query:?}: {error}");
                assert!(error.message.len() <= 120);
                assert!(!error.message.chars().any(char::is_control), "{error}");
            }
            Ok(answer) => panic!("{query:?} is {answer}"),
        }
    }
}
