//! `forward`: far services as TCP ports and Unix sockets of this machine.

use std::ffi::OsString;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::near::{self, CONNECTIONS, Dialer, Socket};
use super::{CommandError, Trying, connect};
use crate::args::address::{Local, Target};
use crate::notice::notice;
use crate::signals::Signals;
use crate::sys;

/// Forwards until a signal comes, which is no error, or the service ends.
pub async fn run(
    service: Option<OsString>,
    pairs: Vec<(Local, Target)>,
) -> Result<(), CommandError> {
    let mut signals = Signals::new().trying(|| "cannot catch signals".to_owned())?;
    let mut listening = JoinSet::new();
    let ended = tokio::select! {
        ended = serve(service, pairs, &mut listening) => ended,
        () = signals.next() => Ok(()),
    };
    // When they are gone, so are their sockets.
    listening.shutdown().await;
    ended
}

async fn serve(
    service: Option<OsString>,
    pairs: Vec<(Local, Target)>,
    listening: &mut JoinSet<()>,
) -> Result<(), CommandError> {
    let client = connect(service).await?;
    sys::raise_file_limit();
    let mut bound = Vec::new();
    for (local, target) in pairs {
        bound.push((near::bind(&local).await?, Arc::new(target)));
    }
    let dialer = Dialer::new(client.clone());
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    for (listeners, target) in bound {
        notice(format_args!("listening on {} for {target}", near::names(&listeners)));
        for listener in listeners {
            let (dialer, target) = (dialer.clone(), Arc::clone(&target));
            let serve = move |socket| forward(dialer.clone(), Arc::clone(&target), socket);
            listening.spawn(near::take(listener, Arc::clone(&permits), serve));
        }
    }
    Err(CommandError::Over(client.ended().await))
}

async fn forward(dialer: Dialer, target: Arc<Target>, socket: Socket) {
    match dialer.dial(&target).await {
        Ok(dialled) => dialled.join(socket).await,
        // Why, the user was told.
        Err(_) => socket.reset(),
    }
}
