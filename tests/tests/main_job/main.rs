//! The main job, end to end: `sshnet-host` against real programs.
//!
//! Each scenario is a function of the kind of pipe, and runs once through a real
//! ssh to a real sshd and once on the loopback pipe; where dialects of 9P differ
//! it runs in all three.

/// Makes a test for each kind of pipe of each scenario.
macro_rules! on_each_pipe {
    ($($scenario:ident),* $(,)?) => {
        mod openssh {
            $(#[test]
            fn $scenario() {
                super::$scenario(sshnet_tests::world::Kind::Openssh);
            })*
        }

        mod loopback {
            $(#[test]
            fn $scenario() {
                super::$scenario(sshnet_tests::world::Kind::Loopback);
            })*
        }
    };
}

mod bulk;
mod calls;
mod commands;
mod connections;
mod dial;
mod ending;
mod forward;
mod idle;
mod input;
mod refused;
mod scale;
mod socks;
mod stall;
mod tools;
mod unix;
