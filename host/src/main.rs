//! `sshnet-host`: the TCP stack of a host reached by ssh, as files.

use std::fmt::Display;
use std::time::Duration;

use sshnet_host::args::{self, Action, FileAction};
use sshnet_host::log::{self, Format};
use sshnet_host::notice::{failure, notice};
use sshnet_host::starter::{self, Split};
use sshnet_host::{commands, peer, runtime, serve, sys, systemd};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long what still runs at the end has to end by itself.
const GRACE: Duration = Duration::from_millis(100);

fn main() {
    let status = match args::parse(std::env::args_os()) {
        Ok(action) => run(action),
        Err(error) => error.print(),
    };
    std::process::exit(status.into());
}

fn run(action: Action) -> u8 {
    // Before anything else is opened.
    let ready = match &action {
        Action::Serve(options) => match options.ready_fd.map(sys::take_inherited).transpose() {
            Ok(ready) => ready,
            Err(error) => {
                let number = options.ready_fd.unwrap_or_default();
                notice(format_args!("--ready-fd {number}: {error}"));
                return 2;
            }
        },
        _ => None,
    };
    let socket = match &action {
        Action::Serve(_) => match systemd::inherited() {
            Ok(socket) => socket,
            Err(error) => {
                notice(format_args!("the socket of LISTEN_FDS cannot be served: {error}"));
                return 2;
            }
        },
        _ => None,
    };
    // While there is one thread.
    let action = match action {
        Action::Serve(options) if !options.keep_rights => match starter::split() {
            Ok(Split::Host) => Action::Serve(options),
            Ok(Split::Starter(orders)) => {
                // They are the host's, which may close them.
                drop((ready, socket));
                orders.serve(move |order| serve::command(&options, order));
                return 0;
            }
            Err(error) => return failed(format_args!("cannot start: {error}")),
        },
        action => action,
    };
    match &action {
        Action::Serve(serve) => {
            log::start(serve.watch.log_level, serve.watch.log_format, serve.debug);
        }
        _ => log::start(None, Format::Text, false),
    }
    sys::keep_freed_memory();
    let runtime = match runtime::build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(format_args!("cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        match action {
            Action::Serve(options) => {
                serve::run(*options, ready, socket).await.map_err(|error| error.to_string())
            }
            Action::Dial { service, target } => {
                commands::dial::run(service, target).await.map_err(|error| error.to_string())
            }
            Action::Forward { service, pairs } => {
                commands::forward::run(service, pairs).await.map_err(|error| error.to_string())
            }
            Action::Socks { service, local } => {
                commands::socks::run(service, local).await.map_err(|error| error.to_string())
            }
            Action::Listen { service, address, command } => {
                commands::listen::run(service, address, command)
                    .await
                    .map_err(|error| error.to_string())
            }
            Action::Netstat { service, json } => {
                commands::netstat::run(service, json).await.map_err(|error| error.to_string())
            }
            Action::File { service, what, path } => {
                let done = match what {
                    FileAction::Ls => commands::files::ls(service, path).await,
                    FileAction::Cat => commands::files::cat(service, path).await,
                    FileAction::Write => commands::files::write(service, path).await,
                };
                done.map_err(|error| error.to_string())
            }
            Action::Attach { service } => {
                commands::attach::run(service).await.map_err(|error| error.to_string())
            }
            Action::Peer(permit) => peer::run(permit).await.map_err(|error| error.to_string()),
            Action::Print(text) => {
                commands::files::print(text.as_bytes()).await.map_err(|error| error.to_string())
            }
            Action::Demo => commands::demo::run().await.map_err(|error| error.to_string()),
        }
    });
    // What ends by itself may do so; but a read of stdin may never end.
    runtime.shutdown_timeout(GRACE);
    starter::end();
    match ended {
        Ok(()) => 0,
        Err(error) => failed(error),
    }
}

fn failed(error: impl Display) -> u8 {
    failure(error);
    1
}
