//! The far side of a plan9 pipe, for the tests: what 9front's `ssh -X` leads to, on
//! this machine's sockets. Each read of its standard input is one message, and so is
//! each write of its standard output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use sshnet_host::pipe::far::Far;

const LONGEST: usize = 64 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    // Not by std's handles, which gather what is read and written.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let (far, mut output) = Far::new();
    let (sender, mut messages) = tokio::sync::mpsc::channel(64);
    std::thread::spawn(move || {
        let mut buffer = vec![0; LONGEST];
        while let Ok(length @ 1..) = input.read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let (say, said) = std::sync::mpsc::sync_channel::<Vec<u8>>(64);
    std::thread::spawn(move || {
        for message in said {
            // It takes all of a message or none.
            if !matches!(out.write(&message), Ok(length) if length == message.len()) {
                std::process::exit(1);
            }
        }
    });
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => far.receive(message).map_err(io::Error::other)?,
                None => return Ok(()),
            },
            message = output.next() => {
                let message = message.map_err(io::Error::other)?;
                let say = say.clone();
                // Who does not read is given nothing more, and is not heard either.
                let sent = tokio::task::spawn_blocking(move || say.send(message));
                sent.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
            }
        }
    }
}
