//! The corpus of the fuzz targets, replayed on a stable toolchain.

use std::fs;
use std::path::PathBuf;

use sshnet_tests::fuzz;

fn replay(of: &str, target: &str, check: impl Fn(&[u8])) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let corpus = root.join(of).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(corpus).expect("the target has a corpus") {
        let path = entry.expect("it can be read").path();
        check(&fs::read(&path).expect("it can be read"));
        count += 1;
    }
    assert!(count > 10, "{count} inputs only");
}

#[test]
fn the_codec_survives_its_corpus() {
    replay("core", "message", fuzz::message::check);
}

#[test]
fn the_session_survives_its_corpus() {
    replay("core", "session", fuzz::session::check);
}

#[cfg(feature = "component")]
#[test]
fn the_9p_decoder_survives_its_corpus() {
    replay("host", "ninep", fuzz::ninep::check);
}
