//! The corpus of the fuzz targets, replayed on a stable toolchain.

use std::fs;
use std::path::PathBuf;

use sshnet_tests::fuzz;

fn replay(target: &str, check: impl Fn(&[u8])) {
    let core = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../core/fuzz/corpus");
    let mut count = 0;
    for entry in fs::read_dir(core.join(target)).expect("the target has a corpus") {
        let path = entry.expect("it can be read").path();
        check(&fs::read(&path).expect("it can be read"));
        count += 1;
    }
    assert!(count > 10, "{count} inputs only");
}

#[test]
fn the_codec_survives_its_corpus() {
    replay("message", fuzz::message::check);
}

#[test]
fn the_session_survives_its_corpus() {
    replay("session", fuzz::session::check);
}
