//! `forward`: far services as TCP ports and Unix sockets of this machine.

use std::ffi::OsString;

use super::CommandError;
use super::near::{self, Dialer, Socket};
use crate::args::address::{Local, Target};

/// Forwards until a signal comes, which is no error, or the service ends.
pub async fn run(
    service: Option<OsString>,
    pairs: Vec<(Local, Target)>,
) -> Result<(), CommandError> {
    near::run(service, pairs, forward).await
}

async fn forward(dialer: Dialer, target: Target, socket: Socket) {
    match dialer.dial(&target).await {
        Ok(dialled) => dialled.join(socket).await,
        // Why, the user was told.
        Err(_) => socket.reset(),
    }
}
