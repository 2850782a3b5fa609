//! What the component is: a file that asks nothing of its host.

use sshnet_core::Limits;
use sshnet_host::engine::{Core, EMBEDDED, EngineError};
use sshnet_tests::subject::component::{core, to_host_limits};

/// The world `core` imports nothing, so the engine can read no clock, open no
/// file and draw no random number.
#[test]
fn the_component_has_no_imports() {
    assert_eq!(core().imports(), Vec::<String>::new());
}

/// Who embeds it gets a small file.
#[test]
fn the_component_is_smaller_than_150_kilobytes() {
    let size = EMBEDDED.len();
    assert!(size < 150_000, "{size} bytes");
}

/// One list of defaults, in two builds.
#[test]
fn the_default_limits_are_those_of_the_library() {
    let limits = core().default_limits().expect("the component answers");
    assert_eq!(limits, to_host_limits(&Limits::default()));
}

/// What is no component is refused with words, not run.
#[test]
fn a_file_that_is_no_component_does_not_fit() {
    match Core::from_bytes(b"\0asm\x01\0\0\0").map(|_| ()) {
        Err(EngineError::Unfit(why)) => assert!(!why.is_empty()),
        other => panic!("{other:?}"),
    }
}
