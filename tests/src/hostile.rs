//! The component that misbehaves when it is told to, built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const TARGET: &str = "wasm32-wasip2";

/// Its file: see tests/hostile.
pub fn component() -> &'static Path {
    static COMPONENT: OnceLock<PathBuf> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        // target/PROFILE/deps/NAME-HASH
        let this = std::env::current_exe().expect("a test has a path");
        let target = this.ancestors().nth(3).expect("in target/PROFILE/deps");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--quiet", "--locked", "--package", "sshnet-hostile"])
            .args(["--target", TARGET, "--target-dir"])
            .arg(target)
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the hostile component does not build");
        target.join(TARGET).join("debug").join("sshnet_hostile.wasm")
    })
}
