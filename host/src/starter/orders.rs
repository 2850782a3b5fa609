//! The starter's side.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::wire::{DESCRIPTORS, FAMILY, Message, ORDER, receive, send};
use super::{Child, NO_NUMBER, Order, spawn};
use crate::pipe::Login;
use crate::sys;

/// What ps(1) and top(1) show.
const NAME: &CStr = c"sshnet-starter";
/// The starter's side: it waits for orders.
#[derive(Debug)]
pub struct Orders {
    pub(super) orders: OwnedFd,
}

impl Orders {
    /// Starts what is ordered, by the commands that this makes of the orders, until
    /// the host has ended.
    pub fn serve(self, command: impl Fn(Order) -> io::Result<Command> + Send + Sync + 'static) {
        sys::raise_file_limit();
        sys::name_process(NAME);
        if let Err(error) = sys::outlive_signals() {
            tracing::warn!("signals end the process that starts programs, too: {error}");
        }
        // The user is asked at the beginning, or never.
        let asked = AtomicBool::new(false);
        let command = Arc::new(move |order| match order {
            Order::Pipe { login: Login::First, .. } if asked.swap(true, Ordering::Relaxed) => {
                Err(io::ErrorKind::InvalidInput.into())
            }
            order => command(order),
        });
        loop {
            let mut bytes = vec![0; ORDER];
            match receive::<DESCRIPTORS>(&self.orders, &mut bytes) {
                Ok((0, _)) => return,
                Ok((length, descriptors)) => {
                    bytes.truncate(length);
                    let command = Arc::clone(&command);
                    let obey = move || obey(&bytes, descriptors, &*command);
                    // Without a thread the host sees that nobody answers.
                    let _ = std::thread::Builder::new().name("order".to_owned()).spawn(obey);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Does one thing for the host, in a thread of its own, and tells it. If the host
/// has gone that is nothing to anybody.
fn obey(message: &[u8], descriptors: Vec<OwnedFd>, command: &dyn Fn(Order) -> io::Result<Command>) {
    let mut descriptors = descriptors.into_iter();
    let Some(told) = descriptors.next() else { return };
    let mut told = UnixStream::from(told);
    let started = match (Message::decode(message), descriptors.next()) {
        (Some(Message::Family(pid)), _) => {
            let found = sys::descendants(pid);
            let found: Vec<_> = found.iter().take(FAMILY).map(AsFd::as_fd).collect();
            let _ = send::<FAMILY>(told.as_fd(), &[0], &found);
            return;
        }
        (Some(Message::Start(order)), Some(stderr)) => {
            let streams = descriptors.next().zip(descriptors.next());
            // It would have the user's terminal for its own.
            let lacks = matches!(order, Order::Pipe { dir: None, .. }) && streams.is_none();
            let command =
                if lacks { Err(io::ErrorKind::InvalidInput.into()) } else { command(order) };
            command.and_then(|command| spawn(command, streams, stderr))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut child = match started {
        Ok(child) => Child::Ours(child),
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(NO_NUMBER);
            let _ = told.write_all(&number.to_ne_bytes());
            return;
        }
    };
    let number = [0, child.pid().as_raw_pid()].map(i32::to_ne_bytes).concat();
    // Told or not, it runs.
    let _ = told.write_all(&number);
    child.wait_unreaped();
    let _ = told.write_all(&[0]);
    let _ = told.read(&mut [0]);
    let status = child.reap().unwrap_or_default();
    let _ = told.write_all(&status.into_raw().to_ne_bytes());
}
