# List the recipes.
default:
    @just --list

# Show sshnet-host at work on this machine alone.
demo:
    scripts/demo

# Run all tests; arguments go to cargo test.
test *ARGS:
    scripts/test {{ ARGS }}

# Try it with the Linux kernel's 9P client, in qemu; KERNEL is a Debian package.
v9fs *KERNEL:
    scripts/setup v9fs
    tests/v9fs/run {{ KERNEL }}

# What CI runs before the tests.
check:
    scripts/setup check
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo clippy --package sshnet-core --package sshnet-hostile --target wasm32-wasip2 --locked -- -D warnings
    cargo check --manifest-path core/fuzz/Cargo.toml --target-dir target/fuzz --locked
    cargo check --manifest-path host/fuzz/Cargo.toml --target-dir target/fuzz --locked
    cargo clippy --package sshnet-naive-core --profile component --target wasm32-wasip2 --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked

# Build the component alone: target/wasm32-wasip2/component/sshnet_core.wasm
component:
    scripts/component

# The same with the names of its functions, for traps that say where they were.
component-with-names:
    scripts/component names

# See that the component comes out the same in whatever directory it is built.
reproducible:
    scripts/reproducible

# Make a static sshnet-host and a Debian package, and try both: target/dist. Takes ten
# minutes the first time.
release:
    scripts/release

# Install sshnet-host into ~/.cargo/bin.
install:
    scripts/setup build
    cargo install --locked --path host

# Run the conformance suite on a component: which claims of the contract it fails.
conformance FILE:
    scripts/conformance {{ FILE }}

# Build examples/naive-core, an engine of few words with the same world, and run the
# conformance suite on it.
naive-core:
    scripts/setup build
    cargo build --package sshnet-naive-core --profile component --target wasm32-wasip2 --locked
    scripts/conformance target/wasm32-wasip2/component/sshnet_naive_core.wasm

# Run the hosts in examples/ against PuTTY's psusan: rust, python, node, or all.
examples *HOSTS:
    scripts/examples {{ HOSTS }}

# Make the calls of a recording (sshnet-host --record FILE) on the component, or on that in
# SSHNET_CORE, and on the native engine: do they answer the same?
replay FILE:
    scripts/setup build
    cargo run --quiet --locked --package sshnet-tests --bin replay -- {{ FILE }}

# Run so many seeds of the simulator, on the component and the native engine.
sim RUNS="10000":
    SSHNET_SIM_RUNS={{ RUNS }} cargo test --package sshnet-tests --test sim --locked -- --nocapture every_seed

# Have so many dials refused in a row by a real sshd, past what one ssh survives.
refused DIALS="20000":
    scripts/setup test
    SSHNET_REFUSED_DIALS={{ DIALS }} cargo test --workspace --lib --locked -- --nocapture refused_dials_wear

# Kill whatever there is to kill, under load, so many times in a row.
faults ROUNDS="200":
    scripts/setup test
    SSHNET_FAULT_ROUNDS={{ ROUNDS }} cargo test --workspace --test main_job --locked -- --nocapture faults::

# Churn for so many seconds, and see that memory and descriptors stay flat.
soak SECONDS="600":
    scripts/setup test
    SSHNET_SOAK_SECONDS={{ SECONDS }} cargo test --workspace --test main_job --locked -- --nocapture soak::

# Fuzz a target of core/fuzz (message or session) or host/fuzz (ninep) for so many
# seconds. Needs cargo-fuzz and a nightly toolchain.
fuzz TARGET SECONDS="600":
    cd {{ if TARGET == "ninep" { "host" } else { "core" } }} && cargo +nightly fuzz run {{ TARGET }} -- -max_total_time={{ SECONDS }} -max_len=1200

# Break the engine on purpose, and see that the tests notice. Needs cargo-mutants;
# arguments go to it. Takes an hour.
mutants *ARGS:
    CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 \
        cargo mutants --package sshnet-core --baseline skip --timeout 10 {{ ARGS }}

# Measure sshnet-host beside ssh, in less than ten minutes; see --help and --list.
bench *ARGS:
    scripts/setup test
    cargo build --quiet --release --locked --package sshnet-host --package sshnet-bench
    "${CARGO_TARGET_DIR:-target}/release/sshnet-bench" {{ ARGS }}
