//! What the peer says: one method per message (RFC 4254).
//!
//! A message that cannot be read, or that is for a channel that isn't there, is
//! a fault of the session; one that is out of place on a channel closes that
//! channel.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Awaited, Session};
use crate::client::{Announcing, Bound, Call, Conversation, Dial, End, Listener, State};
use crate::ctl::{Announced, halves};
use crate::effect::{ClientId, Effect, Error, ErrorCode, printable};
use crate::message::{DATA_HEADER, Message, MessageError, Open, reason};
use crate::queue::Piece;
use crate::table::{Channel, Ours, Parting, Theirs};
use crate::window::SendWindow;

/// Why the session has to fail.
type Fault = String;

impl Session {
    /// A message came in on the pipe, from its type byte on.
    pub fn receive(&mut self, bytes: Vec<u8>) -> Vec<Effect> {
        let now = self.now;
        match &mut self.pipe {
            None => self.out.warn("a message came without a pipe".into()),
            Some(pipe) => {
                pipe.heard = now;
                pipe.probed = None;
                self.out.statistics.messages_received += 1;
                match self.take(bytes) {
                    Ok(()) => self.stem(),
                    Err(fault) => self.fail(&fault),
                }
            }
        }
        self.finish()
    }

    /// A peer that makes us answer and does not read is at fault; what our users have
    /// sent is not its doing.
    fn stem(&mut self) {
        let control = u64::from(self.limits.control);
        let limit = u64::from(self.limits.room) + u64::from(self.limits.packet) + control;
        if self.out.answers > control && self.out.in_pipe > limit {
            self.fail("the far side asks for answers and does not read them");
        }
    }

    fn take(&mut self, bytes: Vec<u8>) -> Result<(), Fault> {
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(error @ MessageError::UnknownType(_)) => {
                self.out.warn(format!("{error}"));
                return Ok(());
            }
            Err(error @ MessageError::Empty) => {
                return Err(format!("the far side sent an {error}"));
            }
            Err(error) => return Err(format!("the far side sent a {error}")),
        };
        match message {
            Message::GlobalRequest { want_reply, request } => {
                // RFC 4254 section 4: what is not known is refused, where a reply
                // is wanted. There is none that a client has to know.
                if want_reply {
                    self.out.answer(&Message::RequestFailure);
                } else if request.name() != b"hostkeys-00@openssh.com" {
                    let name = printable(request.name());
                    self.out.warn(format!("global request {name} passed over"));
                }
                Ok(())
            }
            Message::RequestSuccess { data } => {
                self.answered(Some(data));
                Ok(())
            }
            Message::RequestFailure => {
                self.answered(None);
                Ok(())
            }
            Message::Open { sender, window, packet, kind } => {
                self.opened(Theirs(sender), window, packet, kind);
                Ok(())
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                self.confirmed(Ours(recipient), Theirs(sender), window, packet)
            }
            Message::OpenFailure { recipient, reason, description, .. } => {
                self.refused(Ours(recipient), reason, description)
            }
            Message::WindowAdjust { recipient, bytes } => self.adjusted(Ours(recipient), bytes),
            Message::Data { recipient, .. } => {
                self.data(Ours(recipient), Piece::new(bytes, DATA_HEADER))
            }
            Message::ExtendedData { recipient, data, .. } => {
                self.extended_data(Ours(recipient), data.len())
            }
            Message::Eof { recipient } => self.eof(Ours(recipient)),
            Message::Close { recipient } => self.closed(Ours(recipient)),
            Message::Request { recipient, want_reply, .. } => {
                self.requested(Ours(recipient), want_reply)
            }
            Message::Success { recipient } | Message::Failure { recipient } => {
                self.request_answered(Ours(recipient))
            }
        }
    }

    /// The answer to the oldest of our global requests.
    fn answered(&mut self, success: Option<&[u8]>) {
        let Some(pipe) = &mut self.pipe else { return };
        let Some(awaited) = pipe.awaited.pop_front() else {
            self.out.warn("an answer came to no global request".into());
            return;
        };
        let Awaited::Bind { owner, serial, address } = awaited else {
            if success.is_none() {
                self.out.warn("the far side would not cancel an announcement".into());
            }
            return;
        };
        pipe.asked.remove(&address, owner);
        let bound = match success {
            None => Err(refusal(&address)),
            Some(data) => bound_address(address, data),
        };
        let state = self.clients.get_mut(owner).map(|client| &mut client.state);
        match state {
            Ok(State::Announcing(announcing)) if announcing.serial == serial => {
                self.announced(owner, bound);
            }
            // A client that listens has one such question on a pipe, its first.
            Ok(State::Listen(listener)) if matches!(listener.bound, Bound::Asked) => {
                self.announced_again(owner, bound);
            }
            // Nobody wants it any more.
            _ => {
                if let Ok(address) = bound {
                    self.ask_to_cancel(&address);
                }
            }
        }
    }

    /// An announcement was answered.
    fn announced(&mut self, id: ClientId, bound: Result<Announced, Error>) {
        // The port that the far side picked may be one that another client waits for
        // in vain.
        let waits = |by: &Bound| !matches!(by, Bound::Refused(_));
        let address = match bound.and_then(|address| self.unclaimed(id, address, waits)) {
            Ok(address) => address,
            Err(error) => {
                self.give_up(id, error);
                return;
            }
        };
        let Ok(client) = self.clients.get_mut(id) else { return };
        if !matches!(client.state, State::Announcing(_)) {
            return;
        }
        let State::Announcing(Announcing { control, .. }) = client.enter(State::Closed, self.now)
        else {
            return;
        };
        self.due.remove(id);
        client.local = format!("{address}");
        self.listeners.insert(address.clone(), id);
        let listener = Listener {
            address,
            bound: Bound::Yes,
            calls: Default::default(),
            listens: Default::default(),
        };
        client.enter(State::Listen(listener), self.now);
        self.run(id, control);
    }

    /// An announcement was answered that was made on an earlier pipe, too.
    fn announced_again(&mut self, id: ClientId, bound: Result<Announced, Error>) {
        // Another may have announced the address while it was refused to this one;
        // both have asked for it now, and the first that gets it has it.
        let bound =
            bound.and_then(|address| self.unclaimed(id, address, |by| matches!(by, Bound::Yes)));
        let Ok(client) = self.clients.get_mut(id) else { return };
        let State::Listen(listener) = &mut client.state else { return };
        match bound {
            Ok(address) => {
                listener.bound = Bound::Yes;
                // That the pipe went down is over.
                client.last_error = None;
                self.listeners.insert(address, id);
            }
            Err(error) => {
                let listens = core::mem::take(&mut listener.listens);
                listener.bound = Bound::Refused(error.clone());
                client.last_error = Some(error.message.clone());
                self.end_waits(listens, &error);
            }
        }
    }

    /// An address that was bound for a client, unless another has a claim to it by
    /// the state that its own announcement is in.
    fn unclaimed(
        &self,
        id: ClientId,
        address: Announced,
        claims: impl Fn(&Bound) -> bool,
    ) -> Result<Announced, Error> {
        let other = self.listeners.get(&address).filter(|other| *other != id);
        match other.and_then(|other| self.clients.get(other).ok()).map(|client| &client.state) {
            Some(State::Listen(listener)) if claims(&listener.bound) => {
                let text = format!("the far side bound {address} twice");
                Err(Error::new(ErrorCode::Other, text))
            }
            _ => Ok(address),
        }
    }

    /// A channel is asked for.
    fn opened(&mut self, sender: Theirs, window: u32, packet: u32, kind: Open<'_>) {
        let (listener, local, remote) = match kind {
            Open::ForwardedTcpip { address, port, originator, originator_port } => (
                self.listeners.called(address, port),
                format!("{}!{port}", shown(address)),
                format!("{}!{originator_port}", shown(originator)),
            ),
            Open::ForwardedStreamlocal { path } => {
                let listener = core::str::from_utf8(path).ok().and_then(|path| {
                    self.listeners.get(&Announced::Unix { path: path.to_string() })
                });
                (listener, printable(path), "/".to_string())
            }
            Open::DirectTcpip { .. } | Open::DirectStreamlocal { .. } => {
                return self.refuse(sender.0, reason::PROHIBITED, "not a server");
            }
            Open::Other { name, .. } => {
                // A client must not open sessions for a server (RFC 4254 6.1).
                let (code, why) = if name == b"session" || name.starts_with(b"direct-") {
                    (reason::PROHIBITED, "not a server")
                } else {
                    (reason::UNKNOWN_TYPE, "unknown channel type")
                };
                return self.refuse(sender.0, code, why);
            }
        };
        let crowded = self.crowded();
        let state = listener.and_then(|id| self.clients.get_mut(id).ok()).map(|c| &mut c.state);
        let (Some(id), Some(State::Listen(listener))) = (listener, state) else {
            return self.refuse(sender.0, reason::PROHIBITED, "nothing is announced there");
        };
        if !matches!(listener.bound, Bound::Yes) {
            // It was asked for on an earlier pipe, and not yet bound on this one.
            return self.refuse(sender.0, reason::PROHIBITED, "nothing is announced there");
        }
        if packet == 0 {
            return self.refuse(sender.0, reason::CONNECT_FAILED, "maximum packet size of 0");
        }
        // A listen takes it at once, unless there is no place for its client.
        let waits = listener.listens.is_empty() || crowded;
        let full =
            listener.calls.len() >= self.limits.backlog as usize || self.calls >= self.limits.calls;
        if waits && full {
            return self.refuse(sender.0, reason::RESOURCE_SHORTAGE, "too many calls wait");
        }
        listener.calls.push_back(Call { channel: sender, window, packet, local, remote });
        self.calls += 1;
        self.match_calls(id);
    }

    /// Refuses a channel.
    pub(super) fn refuse(&mut self, recipient: u32, reason: u32, why: &str) {
        self.out.statistics.calls_refused += 1;
        self.out.answer(&Message::OpenFailure {
            recipient,
            reason,
            description: why.as_bytes(),
            language: b"en",
        });
    }

    /// A dial was confirmed.
    fn confirmed(
        &mut self,
        ours: Ours,
        theirs: Theirs,
        window: u32,
        packet: u32,
    ) -> Result<(), Fault> {
        let owner = match self.channels.get(ours) {
            Some(Channel::Opening { owner }) => owner,
            other => return Err(out_of_place("a confirmation", ours, other)),
        };
        let Some(id) = owner else {
            // The dial was given up.
            self.close_orphan(ours, theirs);
            return Ok(());
        };
        if packet == 0 {
            self.give_up(id, Error::new(ErrorCode::Other, "the far side accepts no data"));
            self.close_orphan(ours, theirs);
            return Ok(());
        }
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        if !matches!(client.state, State::Dialing(_)) {
            return Ok(());
        }
        let State::Dialing(Dial { control, asked: Some(asked), early, .. }) =
            client.enter(State::Closed, self.now)
        else {
            return Ok(());
        };
        if let Some(pipe) = &mut self.pipe {
            pipe.path.trip.took(self.now.saturating_sub(asked.at));
        }
        self.due.remove(id);
        let send = SendWindow::new(window, packet, self.limits.packet);
        let conversation = Conversation::new(ours, theirs, false, asked.window, send, early);
        client.enter(State::Established(conversation), self.now);
        self.channels.set(ours, Channel::Open { owner: id });
        self.out.statistics.dials += 1;
        self.run(id, control);
        self.begin(id);
        self.give_turn(id);
        Ok(())
    }

    /// Closes a channel that no client has.
    fn close_orphan(&mut self, ours: Ours, theirs: Theirs) {
        self.out.answer(&Message::Close { recipient: theirs.0 });
        self.channels.set(ours, Channel::Closing { owner: None, sent: Parting::default() });
    }

    /// A dial was refused.
    fn refused(&mut self, ours: Ours, reason: u32, description: &[u8]) -> Result<(), Fault> {
        let owner = match self.channels.get(ours) {
            Some(Channel::Opening { owner }) => owner,
            other => return Err(out_of_place("a refusal", ours, other)),
        };
        if let Some(id) = owner {
            self.give_up(id, dial_error(reason, description));
        }
        self.channels.remove(ours);
        Ok(())
    }

    /// The client that has this channel open. `None` for a channel that we have
    /// closed: what comes before the peer's CLOSE is passed over.
    fn owner(&self, what: &str, ours: Ours) -> Result<Option<ClientId>, Fault> {
        match self.channels.get(ours) {
            Some(Channel::Open { owner }) => Ok(Some(owner)),
            Some(Channel::Closing { .. }) => Ok(None),
            other => Err(out_of_place(what, ours, other)),
        }
    }

    fn adjusted(&mut self, ours: Ours, bytes: u32) -> Result<(), Fault> {
        if self.channels.get(ours).is_none() {
            // OpenSSH does not mind one that comes late, either.
            self.out.warn(format!("a window adjustment came for no channel: {}", ours.0));
            return Ok(());
        }
        let Some(id) = self.owner("a window adjustment", ours)? else { return Ok(()) };
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        let State::Established(c) = &mut client.state else { return Ok(()) };
        match c.send.adjust(bytes, &mut self.uploads) {
            Ok(()) => {
                self.give_turn(id);
                self.feed_starved();
            }
            Err(error) => self.violated(id, &error.to_string()),
        }
        Ok(())
    }

    fn data(&mut self, ours: Ours, data: Piece) -> Result<(), Fault> {
        let Some(id) = self.owner("data", ours)? else { return Ok(()) };
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        let State::Established(c) = &mut client.state else { return Ok(()) };
        if c.inbox.ended() {
            self.violated(id, "the far side sent data after its end of file");
            return Ok(());
        }
        if let Err(error) = c.receive.received(data.len(), self.limits.packet) {
            self.violated(id, &error.to_string());
            return Ok(());
        }
        if data.is_empty() {
            return Ok(());
        }
        c.received += data.len() as u64;
        self.out.statistics.bytes_received += data.len() as u64;
        c.inbox.push(data);
        let taken = self.out.serve(&mut c.inbox);
        if taken > 0 {
            c.receive.consumed(taken, &mut self.pool);
            self.grant(id, taken);
        }
        Ok(())
    }

    /// Extended data takes window as data does (RFC 4254 section 5.2), and there
    /// is no file for it.
    fn extended_data(&mut self, ours: Ours, length: usize) -> Result<(), Fault> {
        let Some(id) = self.owner("extended data", ours)? else { return Ok(()) };
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        let State::Established(c) = &mut client.state else { return Ok(()) };
        if c.inbox.ended() {
            self.violated(id, "the far side sent data after its end of file");
        } else if let Err(error) = c.receive.received(length, self.limits.packet) {
            self.violated(id, &error.to_string());
        } else {
            c.receive.consumed(length, &mut self.pool);
            self.grant(id, 0);
        }
        Ok(())
    }

    fn eof(&mut self, ours: Ours) -> Result<(), Fault> {
        let Some(id) = self.owner("an end of file", ours)? else { return Ok(()) };
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        let State::Established(c) = &mut client.state else { return Ok(()) };
        c.inbox.end(End::Eof);
        c.receive.close(&mut self.pool);
        self.out.serve(&mut c.inbox);
        Ok(())
    }

    fn closed(&mut self, ours: Ours) -> Result<(), Fault> {
        match self.channels.get(ours) {
            Some(Channel::Open { owner }) => {
                if let Ok(client) = self.clients.get_mut(owner)
                    && let State::Established(c) = &client.state
                {
                    self.out.answer(&Message::Close { recipient: c.peer.0 });
                }
                let error = Error::closed_by_peer();
                self.finish_conversation(owner, &error);
            }
            Some(Channel::Closing { owner, sent }) => {
                self.arrived(sent.bytes);
                if let Some(id) = owner
                    && let Ok(client) = self.clients.get_mut(id)
                    && matches!(client.state, State::Teardown(channel) if channel == ours)
                {
                    client.enter(State::Closed, self.now);
                }
            }
            other => return Err(out_of_place("a close", ours, other)),
        }
        self.channels.remove(ours);
        Ok(())
    }

    /// A channel request: we know none, and say so where a reply is wanted
    /// (RFC 4254 section 5.4). OpenSSH ends the connection of who doesn't.
    fn requested(&mut self, ours: Ours, want_reply: bool) -> Result<(), Fault> {
        let Some(id) = self.owner("a channel request", ours)? else { return Ok(()) };
        if want_reply
            && let Ok(client) = self.clients.get_mut(id)
            && let State::Established(c) = &client.state
        {
            self.out.answer(&Message::Failure { recipient: c.peer.0 });
        }
        Ok(())
    }

    /// What a conversation had sent that we have closed is no longer on the way.
    fn arrived(&mut self, bytes: u64) {
        if bytes > 0 {
            self.uploads.release(bytes);
            self.feed_starved();
        }
    }

    /// The answer to a channel request of ours.
    fn request_answered(&mut self, ours: Ours) -> Result<(), Fault> {
        if let Some(Channel::Closing { owner, mut sent }) = self.channels.get(ours) {
            sent.answers = sent.answers.saturating_sub(1);
            if sent.answers == 0 {
                self.arrived(core::mem::take(&mut sent.bytes));
            }
            self.channels.set(ours, Channel::Closing { owner, sent });
            return Ok(());
        }
        let Some(id) = self.owner("an answer to a channel request", ours)? else { return Ok(()) };
        if let Ok(client) = self.clients.get_mut(id)
            && let State::Established(c) = &mut client.state
        {
            let Some(left) = c.probes.checked_sub(1) else {
                self.out.warn("an answer came to no channel request".into());
                return Ok(());
            };
            c.probes = left;
            if let Some(pipe) = &mut self.pipe {
                pipe.path.trip.answered(id, self.now);
            }
            c.awaits_arrival = c.awaits_arrival.map(|answers| answers.saturating_sub(1));
            if c.awaits_arrival == Some(0) {
                c.awaits_arrival = None;
                c.send.arrived(&mut self.uploads);
                self.give_turn(id);
                self.feed_starved();
            }
        }
        Ok(())
    }

    /// The peer broke the rules of a channel: the channel is closed, what came
    /// before can be read, and everyone who has it learns why.
    fn violated(&mut self, id: ClientId, why: &str) {
        let error = Error::new(ErrorCode::Other, why);
        self.out.warn(format!("client {}: {why}", id.number));
        if let Ok(client) = self.clients.get_mut(id)
            && let State::Established(c) = &client.state
        {
            self.out.answer(&Message::Close { recipient: c.peer.0 });
            self.channels
                .set(c.channel, Channel::Closing { owner: None, sent: Parting::default() });
        }
        self.finish_conversation(id, &error);
    }
}

fn out_of_place(what: &str, ours: Ours, found: Option<Channel>) -> Fault {
    let number = ours.0;
    match found {
        None => format!("the far side sent {what} for channel {number}, which is not there"),
        Some(Channel::Opening { .. }) => {
            format!("the far side sent {what} for channel {number} before opening it")
        }
        Some(_) => {
            format!("the far side sent {what} for channel {number}, which was opened before")
        }
    }
}

/// Why a dial failed, in the far side's words where it has any.
fn dial_error(code: u32, description: &[u8]) -> Error {
    let (error, name) = match code {
        reason::PROHIBITED => (ErrorCode::AccessDenied, "administratively prohibited"),
        reason::CONNECT_FAILED => (ErrorCode::ConnectionRefused, "connect failed"),
        reason::UNKNOWN_TYPE => (ErrorCode::NotSupported, "unknown channel type"),
        reason::RESOURCE_SHORTAGE => (ErrorCode::ResourceExhausted, "resource shortage"),
        _ => (ErrorCode::Other, "refused by the far side"),
    };
    // OpenSSH's "open failed" says nothing without the reason.
    match description {
        b"" => Error::new(error, name),
        b"open failed" => Error::new(error, format!("{name}: open failed")),
        words => Error::new(error, words),
    }
}

fn refusal(address: &Announced) -> Error {
    let text = format!("the far side would not announce {address}");
    Error::new(ErrorCode::AddressInUse, text)
}

/// What was bound: for port 0 the answer has the port (RFC 4254 section 7.1).
fn bound_address(address: Announced, data: &[u8]) -> Result<Announced, Error> {
    match address {
        Announced::Tcp { address, port: 0 } => {
            let port = data.first_chunk().map(|b| u32::from_be_bytes(*b)).unwrap_or(0);
            match u16::try_from(port) {
                Ok(port) if port > 0 => Ok(Announced::Tcp { address, port }),
                _ => Err(Error::new(
                    ErrorCode::Other,
                    "the far side did not say which port it bound",
                )),
            }
        }
        other => Ok(other),
    }
}

/// An address from the peer as the tree shows it.
fn shown(address: &[u8]) -> String {
    let mut text = if address.is_empty() { "*".to_string() } else { printable(address) };
    while let Some((before, behind)) = halves(&text) {
        text = format!("{before}\\x21{behind}");
    }
    text
}
