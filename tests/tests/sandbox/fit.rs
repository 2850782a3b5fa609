//! Components that are not of this world.

use sshnet_host::engine::{Core, EngineError};
use sshnet_tests::world::{private_directory, program, run};

const ENGINE: &str = "sshnet:core/engine@0.1.0";

/// A component with one function of this name and result, in the engine's interface.
fn with_function(name: &str, result: &str) -> String {
    format!(
        r#"(component
            (core module $m (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $f (result {result}) (canon lift (core func $i "f")))
            (instance $e (export "{name}" (func $f)))
            (export "{ENGINE}" (instance $e)))"#
    )
}

fn misfit(text: &str) -> String {
    let bytes = wat::parse_str(text).expect("a component");
    match Core::from_bytes(&bytes).map(drop) {
        Err(EngineError::Unfit(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_component_that_imports_is_refused_with_what_it_wants() {
    let why = misfit(
        r#"(component
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance))
            (import "wasi:cli/environment@0.2.0" (instance)))"#,
    );
    assert!(why.contains("    wasi:clocks/monotonic-clock@0.2.0\n"), "{why}");
    assert!(why.contains("    wasi:cli/environment@0.2.0\n"), "{why}");
    assert!(why.contains("the world sshnet:core/core has no imports"), "{why}");
}

#[test]
fn a_component_that_lacks_an_export_is_refused_with_its_name() {
    let why = misfit("(component)");
    assert!(why.contains("    sshnet:core/engine@0.1.0: it has no such export\n"), "{why}");
    let why = misfit(&with_function("default-limits", "u32"));
    let says = "sshnet:core/engine@0.1.0 [constructor]session: it has no such export";
    assert!(why.contains(says), "{why}");
    assert!(why.contains(" more like that"), "{why}");
}

#[test]
fn a_component_with_an_export_of_another_type_is_refused_with_the_difference() {
    let why = misfit(&with_function("default-limits", "u32"));
    let says = "sshnet:core/engine@0.1.0 default-limits: it has 'u32' where 'record' is wanted";
    assert!(why.contains(says), "{why}");
}

/// In the program: it ends before it asks ssh for anything.
#[test]
fn a_component_that_does_not_fit_ends_the_program_with_words() {
    let dir = private_directory();
    let file = dir.path().join("misfit.wasm");
    let component = wat::parse_str("(component)").expect("a component");
    std::fs::write(&file, component).expect("it can be written");
    let mut command = std::process::Command::new(program());
    command.env("XDG_RUNTIME_DIR", dir.path()).args(["--pipe", "loopback", "--core"]).arg(&file);
    let output = run(&mut command, b"");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("sshnet-host: the core does not fit: it is not of the world"),
        "{said}"
    );
    assert!(said.contains("engine@0.1.0: it has no such export"), "{said}");
}
