//! The file that our engine is.

use sshnet_core::Limits;
use sshnet_host::engine::EMBEDDED;
use sshnet_tests::promise::ours;
use sshnet_tests::subject::component::{core, to_host_limits};

/// Who embeds it gets a small file.
#[test]
fn the_component_is_smaller_than_150_kilobytes() {
    if ours() {
        let size = EMBEDDED.len();
        assert!(size < 150_000, "{size} bytes");
    }
}

/// One list of defaults, in two builds.
#[test]
fn the_default_limits_are_those_of_the_library() {
    if ours() {
        let limits = core().default_limits().expect("the component answers");
        assert_eq!(limits, to_host_limits(&Limits::default()));
    }
}
