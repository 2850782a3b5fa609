//! Builds the engine as a component, and compiles that for the machine that the
//! program is for, so that `engine.rs` can embed it.
//!
//! Cargo has no stable way to depend on another target's artifact, so this runs
//! cargo once more, with directories of its own (the outer cargo holds the lock
//! on its own) and without the outer build's flags and wrappers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "src/compiler.rs"]
mod compiler;

const TARGET: &str = "wasm32-wasip2";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let host = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = host.parent().expect("the host is a directory of the workspace").to_owned();
    for path in ["core/Cargo.toml", "core/src", "wit", "Cargo.lock", "Cargo.toml", ".cargo"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let component = out.join("sshnet_core.wasm");
    match build(&root, &out.join("core")) {
        Ok(built) => {
            fs::copy(&built, &component).expect("the component can be copied to OUT_DIR");
        }
        Err(why) => {
            println!("cargo::error={why}");
            std::process::exit(1);
        }
    }
    println!("cargo::rustc-env=SSHNET_CORE_COMPONENT={}", component.display());
    let compiled = out.join("sshnet_core.cwasm");
    if let Err(error) = compile(&component, &compiled) {
        println!("cargo::error=the component does not compile: {error:#}");
        std::process::exit(1);
    }
    println!("cargo::rustc-env=SSHNET_CORE_COMPILED={}", compiled.display());
}

/// Compiles the component for what every processor of the program's target can do.
fn compile(component: &Path, compiled: &Path) -> wasmtime::Result<()> {
    let target = env::var("TARGET").expect("cargo sets it");
    let engine = wasmtime::Engine::new(compiler::config().target(&target)?)?;
    fs::write(compiled, engine.precompile_component(&fs::read(component)?)?)?;
    Ok(())
}

/// Builds core/ in release mode for the component's target, in this directory.
fn build(root: &Path, target_dir: &Path) -> Result<PathBuf, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Panics say where they were in crates, by a path. Without this machine's part of it
    // the component has the same bytes wherever it is built (scripts/component).
    let home = env::var("CARGO_HOME")
        .or_else(|_| env::var("HOME").map(|home| format!("{home}/.cargo")))
        .map_err(|_| "neither CARGO_HOME nor HOME is set".to_owned())?;
    let registry = format!("{home}/registry/src");
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["build", "--package", "sshnet-core", "--lib", "--locked"])
        .args(["--profile", "component", "--target", TARGET])
        .arg("--config")
        .arg(format!("target.{TARGET}.rustflags=['--remap-path-prefix={registry}=registry']"))
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_BUILD_BUILD_DIR", target_dir)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .map_err(|e| format!("cannot run cargo to build the component: {e}"))?;
    if !status.success() {
        return Err(format!(
            "the component (core/ for {TARGET}) did not build; if the target is missing: \
             rustup target add {TARGET}"
        ));
    }
    Ok(target_dir.join(TARGET).join("component").join("sshnet_core.wasm"))
}
