//! What the component is: a file that asks nothing of its host.

use sshnet_host::engine::{Core, EngineError, Protocol, Sandbox};
use sshnet_tests::subject::component::core;

/// The world `core` imports nothing, so the engine can read no clock, open no
/// file and draw no random number.
#[test]
fn the_component_has_no_imports() {
    assert_eq!(core().imports(), Vec::<String>::new());
}

/// The limits that it thinks sound are some that it can work with.
#[test]
fn a_session_with_the_default_limits_makes_clients() {
    let limits = core().default_limits().expect("the component answers");
    let sandbox = Sandbox::for_limits(&limits);
    let config =
        sshnet_host::engine::Config { prefix: "/net".into(), services: Vec::new(), limits };
    let mut engine = core().session(&config, sandbox).expect("a session");
    for request in 1..100 {
        let effects = engine.clone_client(request, Protocol::Tcp).expect("no trap");
        assert_eq!(effects.len(), 1, "{effects:?}");
    }
    assert_eq!(engine.statistics().expect("no trap").clients, 99);
}

/// What is no component is refused with words, not run.
#[test]
fn a_file_that_is_no_component_does_not_fit() {
    match Core::from_bytes(b"\0asm\x01\0\0\0").map(|_| ()) {
        Err(EngineError::Unfit(why)) => assert!(!why.is_empty()),
        other => panic!("{other:?}"),
    }
}
