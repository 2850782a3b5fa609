//! The main job, end to end: `sshnet-host` against real programs.
//!
//! Each scenario is a function of the kind of pipe, and runs through a real ssh to a
//! real sshd in both of its ways, over a bare connection once to `sshnet-host peer` and
//! once to a real psusan, over a plan9 pipe to a program of the tests' own, and once on
//! the loopback pipe; where dialects of 9P differ it runs in all three.

/// Makes a test for each kind of pipe of each scenario; behind `but psusan` are
/// those for which psusan cannot do or does not say enough, nor does ssh where each
/// dial has a socket of its own.
macro_rules! on_each_pipe {
    ($($scenario:ident),* $(,)? $(; but psusan: $($other:ident),* $(,)?)?) => {
        on_pipe!(openssh, Openssh: $($scenario,)* $($($other,)*)?);
        on_pipe!(openssh_fd, OpensshFd: $($scenario,)*);
        on_pipe!(bare_peer, BarePeer: $($scenario,)* $($($other,)*)?);
        on_pipe!(bare_psusan, BarePsusan: $($scenario,)*);
        on_pipe!(plan9, Plan9: $($scenario,)* $($($other,)*)?);
        on_pipe!(loopback, Loopback: $($scenario,)* $($($other,)*)?);
    };
}

macro_rules! on_pipe {
    ($module:ident, $kind:ident: $($scenario:ident,)*) => {
        mod $module {
            $(#[test]
            fn $scenario() {
                super::$scenario(sshnet_tests::world::Kind::$kind);
            })*
        }
    };
}

mod bare;
mod bulk;
mod calls;
mod commands;
mod connections;
mod descriptor;
mod dial;
mod ending;
mod faults;
mod forward;
mod idle;
mod input;
mod reconnect;
mod record;
mod refused;
mod rights;
mod scale;
mod soak;
mod socks;
mod stall;
mod tools;
mod trust;
mod unix;
mod watch;
