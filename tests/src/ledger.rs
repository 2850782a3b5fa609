//! What must hold in every test, whatever it is about.
//!
//! The ledger sees each event and its effects, and fails when a request is
//! completed twice or without being made, when an error's text could not be
//! shown, when the engine sends more than the peer's window or packet allows,
//! or anything at all on a channel after its CLOSE, data after EOF, window
//! after the peer's EOF, or messages without a pipe.

use std::collections::{BTreeMap, BTreeSet};

use sshnet_core::Effect;
use sshnet_core::message::{Message, Open};

/// The rules, and what they have to remember.
#[derive(Debug, Default)]
pub struct Ledger {
    pipe: bool,
    requests: BTreeSet<u64>,
    /// Dials that the peer has not answered, by our number.
    opening: BTreeMap<u32, u32>,
    /// Calls that the engine has not answered, by the peer's number: what they
    /// came with.
    calls: BTreeMap<u32, (u32, u32)>,
    /// Open channels, by the peer's number.
    channels: BTreeMap<u32, Channel>,
    sent: u64,
    taken: u64,
}

#[derive(Debug)]
struct Channel {
    ours: u32,
    /// What the engine may send.
    window: u64,
    packet: u64,
    /// What the peer may send.
    granted: u64,
    eof_sent: bool,
    eof_received: bool,
    close_sent: bool,
    close_received: bool,
}

impl Ledger {
    /// A pipe is there.
    pub fn pipe_up(&mut self) {
        self.pipe = true;
    }

    /// It is gone, and with it every channel.
    pub fn pipe_down(&mut self) {
        self.pipe = false;
        self.opening.clear();
        self.calls.clear();
        self.channels.clear();
        self.sent = 0;
        self.taken = 0;
    }

    /// The pipe took so many bytes.
    pub fn took(&mut self, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes).min(self.sent);
    }

    /// Bytes sent that the pipe has not taken.
    pub fn in_pipe(&self) -> u64 {
        self.sent - self.taken
    }

    /// A request is made under this name.
    pub fn request(&mut self, request: u64) {
        self.requests.insert(request);
    }

    /// Requests that were not completed.
    pub fn outstanding(&self) -> Vec<u64> {
        self.requests.iter().copied().collect()
    }

    /// The peer sends this. Bad messages are the engine's business; the ledger
    /// follows those that change what the engine may send.
    pub fn received(&mut self, message: &[u8]) {
        let Ok(message) = Message::decode(message) else { return };
        match message {
            Message::Open {
                sender,
                window,
                packet,
                kind: Open::ForwardedTcpip { .. } | Open::ForwardedStreamlocal { .. },
            } => {
                self.calls.insert(sender, (window, packet));
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                if let Some(granted) = self.opening.remove(&recipient) {
                    self.open(recipient, sender, window, packet, granted);
                }
            }
            Message::OpenFailure { recipient, .. } => {
                self.opening.remove(&recipient);
            }
            Message::WindowAdjust { recipient, bytes } => {
                if let Some(channel) = self.by_our_number(recipient)
                    && channel.window + u64::from(bytes) <= u64::from(u32::MAX)
                {
                    channel.window += u64::from(bytes);
                }
            }
            Message::Data { recipient, data } | Message::ExtendedData { recipient, data, .. } => {
                if let Some(channel) = self.by_our_number(recipient) {
                    channel.granted = channel.granted.saturating_sub(data.len() as u64);
                }
            }
            Message::Eof { recipient } => {
                if let Some(channel) = self.by_our_number(recipient) {
                    channel.eof_received = true;
                }
            }
            Message::Close { recipient } => {
                if let Some(channel) = self.by_our_number(recipient) {
                    channel.close_received = true;
                }
                self.forget_closed();
            }
            _ => {}
        }
    }

    /// The effects of an event.
    #[track_caller]
    pub fn effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    assert!(self.pipe, "a message without a pipe: {message:02x?}");
                    self.sent += message.len() as u64;
                    self.sent(message);
                }
                Effect::Complete(completion) => {
                    let request = completion.request;
                    assert!(
                        self.requests.remove(&request),
                        "request {request} is completed and not outstanding"
                    );
                    if let Err(error) = &completion.outcome {
                        presentable(&error.message);
                    }
                }
                Effect::Fail(reason) => {
                    presentable(reason);
                    self.pipe_down();
                }
                Effect::Warn(what) => presentable(what),
                Effect::Wake(_) => {}
            }
        }
    }

    #[track_caller]
    fn sent(&mut self, message: &[u8]) {
        let message = Message::decode(message)
            .unwrap_or_else(|error| panic!("the engine sent {message:02x?}: {error}"));
        match message {
            Message::Open { sender, window, .. } => {
                let taken = self.opening.contains_key(&sender)
                    || self.channels.values().any(|channel| channel.ours == sender);
                assert!(!taken, "channel number {sender} is used twice");
                self.opening.insert(sender, window);
            }
            Message::OpenConfirmation { recipient, sender, window, .. } => {
                let (theirs, packet) = self
                    .calls
                    .remove(&recipient)
                    .unwrap_or_else(|| panic!("there is no call {recipient} to confirm"));
                self.open(sender, recipient, theirs, packet, window);
            }
            Message::OpenFailure { recipient, .. } => {
                self.calls.remove(&recipient);
            }
            Message::WindowAdjust { recipient, bytes } => {
                let channel = self.channel(recipient, "a window adjustment");
                assert!(!channel.eof_received, "window after the peer's EOF on {recipient}");
                channel.granted += u64::from(bytes);
                assert!(bytes > 0, "an empty window adjustment on {recipient}");
                assert!(channel.granted <= u64::from(u32::MAX), "window past 2^32-1");
            }
            Message::Data { recipient, data } => {
                let channel = self.channel(recipient, "data");
                let length = data.len() as u64;
                assert!(length > 0, "an empty data message on {recipient}");
                assert!(length <= channel.window, "{length} bytes past the window of {recipient}");
                assert!(length <= channel.packet, "{length} bytes in one packet on {recipient}");
                assert!(!channel.eof_sent, "data after EOF on {recipient}");
                channel.window -= length;
            }
            Message::ExtendedData { .. } => panic!("the engine sent extended data"),
            Message::Eof { recipient } => {
                let channel = self.channel(recipient, "EOF");
                assert!(!channel.eof_sent, "a second EOF on {recipient}");
                channel.eof_sent = true;
            }
            Message::Close { recipient } => {
                let channel = self.channel(recipient, "CLOSE");
                channel.close_sent = true;
                self.forget_closed();
            }
            Message::Request { recipient, .. } => {
                self.channel(recipient, "a channel request");
            }
            Message::Success { recipient } | Message::Failure { recipient } => {
                self.channel(recipient, "the answer to a channel request");
            }
            Message::GlobalRequest { .. } | Message::RequestFailure => {}
            Message::RequestSuccess { .. } => panic!("the engine granted a global request"),
        }
    }

    fn open(&mut self, ours: u32, theirs: u32, window: u32, packet: u32, granted: u32) {
        let channel = Channel {
            ours,
            window: window.into(),
            packet: packet.into(),
            granted: granted.into(),
            eof_sent: false,
            eof_received: false,
            close_sent: false,
            close_received: false,
        };
        self.channels.insert(theirs, channel);
    }

    /// Both numbers are free when both CLOSEs were sent.
    fn forget_closed(&mut self) {
        self.channels.retain(|_, channel| !(channel.close_sent && channel.close_received));
    }

    fn by_our_number(&mut self, ours: u32) -> Option<&mut Channel> {
        self.channels.values_mut().find(|channel| channel.ours == ours)
    }

    /// The channel on which the engine sends something now.
    #[track_caller]
    fn channel(&mut self, theirs: u32, what: &str) -> &mut Channel {
        let channel = self
            .channels
            .get_mut(&theirs)
            .unwrap_or_else(|| panic!("{what} on channel {theirs}, which is not open"));
        assert!(!channel.close_sent, "{what} on {theirs} after CLOSE");
        channel
    }
}

/// Text that may be shown on a terminal and fits into a 9P error.
#[track_caller]
fn presentable(text: &str) {
    assert!(text.len() <= 160, "{} bytes of text: {text}", text.len());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}
