//! What the files' users do.

use alloc::vec::Vec;

use super::{Awaited, Session};
use crate::client::{
    Announcing, Asked, Bound, Call, Client, Control, Conversation, Dial, Early, Listener, Outgoing,
    State, Wait, Write,
};
use crate::ctl::{Announced, Command, Target};
use crate::effect::{
    ClientId, ClientState, Effect, Error, ErrorCode, Instant, Protocol, Reply, RequestId,
};
use crate::message::{Global, Message, Open, reason};
use crate::queue::{Line, Piece, trim};
use crate::table::Channel;
use crate::window::{ReceiveWindow, SendWindow};

impl Session {
    /// Makes a client.
    pub fn clone_client(&mut self, request: RequestId, protocol: Protocol) -> Vec<Effect> {
        if self.admit(request, None).is_some() {
            let outcome = self.new_client(protocol).map(Reply::Client);
            self.out.complete(request, outcome);
        }
        self.finish()
    }

    fn new_client(&mut self, protocol: Protocol) -> Result<ClientId, Error> {
        if self.crowded() {
            return Err(Error::exhausted("too many clients"));
        }
        let now = self.now;
        Ok(self.clients.insert(|id| Client::new(id, protocol, now)))
    }

    /// Whether there are as many clients as may be.
    pub(super) fn crowded(&self) -> bool {
        self.clients.count() + self.channels.orphans() >= self.limits.clients
    }

    /// Carries out control messages.
    pub fn control(&mut self, request: RequestId, client: ClientId, text: &[u8]) -> Vec<Effect> {
        if self.admit(request, Some(client)).is_some() {
            match self.clients.get(client) {
                Err(error) => self.out.complete(request, Err(error)),
                Ok(found) if text.len() > self.limits.line as usize => {
                    let error = Error::bad_control(found.protocol, "the line is too long");
                    self.refuse_request(request, Some(client), error);
                }
                Ok(_) => self.run(client, Control { request, text: text.to_vec(), next: 0 }),
            }
        }
        self.finish()
    }

    /// Carries out the lines of a control message from where it is.
    pub(super) fn run(&mut self, id: ClientId, mut control: Control) {
        loop {
            let Some(rest) = control.text.get(control.next..).filter(|rest| !rest.is_empty())
            else {
                self.out.complete(control.request, Ok(Reply::Done));
                return;
            };
            let line = rest.split(|&b| b == b'\n').next().unwrap_or_default();
            control.next += line.len() + 1;
            let Ok(client) = self.clients.get(id) else { return };
            let command = self.parser.command(client.protocol, line);
            let failed = match command {
                Ok(Command::Nothing) => continue,
                Ok(Command::Hangup) => {
                    self.hang_up(id, &Error::hung_up());
                    continue;
                }
                Ok(Command::Reject(why)) => match self.reject(id, &why) {
                    Ok(()) => continue,
                    Err(error) => Err((control, error)),
                },
                Ok(Command::Connect(target)) => self.connect(id, target, control),
                Ok(Command::Announce(address)) => self.announce(id, address, control),
                Ok(Command::CloseWrite) => self.close_write(id, control),
                Err(error) => Err((control, error)),
            };
            if let Err((control, error)) = failed {
                self.refuse_request(control.request, Some(id), error);
            }
            return;
        }
    }

    /// Makes a client ready for a new conversation or announcement.
    fn start_over(&mut self, id: ClientId) -> Result<(), Error> {
        let used = self.clients.count() + self.channels.orphans();
        let in_pipe = self.out.in_pipe;
        let full = u64::from(self.limits.room) + u64::from(self.limits.control) / 2;
        let client = self.clients.get_mut(id)?;
        match client.state() {
            ClientState::Closed => {}
            ClientState::Teardown | ClientState::Finished => {
                self.hang_up(id, &Error::hung_up());
                self.disown(id);
            }
            ClientState::Dialing | ClientState::Listen | ClientState::Established => {
                return Err(in_use());
            }
        }
        if used > self.limits.clients {
            return Err(Error::exhausted("too many channels are still being closed"));
        }
        if in_pipe > full {
            return Err(Error::exhausted("the connection to the far side is congested"));
        }
        self.clients.get_mut(id)?.forget();
        Ok(())
    }

    /// A client that was hung up no longer waits for its channel's end.
    fn disown(&mut self, id: ClientId) {
        if let Ok(client) = self.clients.get_mut(id)
            && let State::Teardown(channel) = client.state
        {
            self.channels.disown(channel);
            client.enter(State::Closed, self.now);
        }
    }

    /// What the client waits for must come within this time, if it is not 0.
    fn set_deadline(&mut self, id: ClientId, after: Instant) {
        self.due.remove(id);
        if after > 0
            && let Some(at) = self.now.checked_add(after)
        {
            self.due.insert(at, id);
        }
    }

    fn connect(
        &mut self,
        id: ClientId,
        target: Target,
        control: Control,
    ) -> Result<(), (Control, Error)> {
        if let Err(error) = self.start_over(id) {
            return Err((control, error));
        }
        let wait = match self.pipe {
            Some(_) => self.limits.dial_time,
            None if self.limits.dial_wait > 0 => self.limits.dial_wait,
            None => return Err((control, no_pipe())),
        };
        self.set_deadline(id, wait);
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        client.remote = alloc::format!("{target}");
        self.out.requests.insert(control.request, (id, 0));
        let dial = Dial { control, target, asked: None, early: Early::default() };
        client.enter(State::Dialing(dial), self.now);
        self.open_channel(id);
        Ok(())
    }

    /// Asks for a dial's channel, if there is a pipe.
    fn open_channel(&mut self, id: ClientId) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        let State::Dialing(dial) = &mut client.state else { return };
        let Some(pipe) = &mut self.pipe else { return };
        let window = ReceiveWindow::new(self.now, &mut pipe.path, &mut self.pool);
        let channel = self.channels.insert(Channel::Opening { owner: Some(id) });
        self.out.send(&Message::Open {
            sender: channel.0,
            window: window.open(),
            packet: self.limits.packet,
            kind: match &dial.target {
                Target::Tcp { host, port } => Open::DirectTcpip {
                    host: host.as_bytes(),
                    port: u32::from(*port),
                    originator: b"127.0.0.1",
                    originator_port: 0,
                },
                Target::Unix { path } => Open::DirectStreamlocal { path: path.as_bytes() },
            },
        });
        dial.asked = Some(Asked { channel, window, at: self.now });
    }

    fn announce(
        &mut self,
        id: ClientId,
        address: Announced,
        control: Control,
    ) -> Result<(), (Control, Error)> {
        let any = matches!(address, Announced::Tcp { port: 0, .. });
        let known = self.listeners.get(&address).is_some();
        if !any && (known || self.is_asked_for(&address)) {
            let error = match self.clients.get(id).map(Client::state) {
                Ok(ClientState::Dialing | ClientState::Listen | ClientState::Established) => {
                    in_use()
                }
                _ => Error::new(
                    ErrorCode::AddressInUse,
                    match known {
                        true => "the address is announced already",
                        false => "the far side was asked for the address and has not answered",
                    },
                ),
            };
            return Err((control, error));
        }
        if let Err(error) = self.start_over(id) {
            return Err((control, error));
        }
        let Some(pipe) = &self.pipe else { return Err((control, no_pipe())) };
        if pipe.awaited.len() >= self.limits.clients as usize {
            let error = Error::exhausted("too many announcements are unanswered");
            return Err((control, error));
        }
        self.set_deadline(id, self.limits.dial_time);
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        client.local = alloc::format!("{address}");
        self.out.requests.insert(control.request, (id, 0));
        self.serial += 1;
        let announcing = Announcing { control, serial: self.serial };
        client.enter(State::Announcing(announcing), self.now);
        self.ask_to_bind(id, address);
        Ok(())
    }

    /// Whether the far side was asked for this address and has not answered. When
    /// nobody wants it any more it is let go as soon as it is bound, and that must
    /// not hit a later announcement of the same.
    fn is_asked_for(&self, wanted: &Announced) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.asked.get(wanted).is_some())
    }

    /// Asks the far side to take calls, under the serial number of the last
    /// announcement: this one's, or one that is over where a listener asks again.
    fn ask_to_bind(&mut self, owner: ClientId, address: Announced) {
        let Some(pipe) = &mut self.pipe else { return };
        self.out.send(&Message::GlobalRequest {
            want_reply: true,
            request: match &address {
                Announced::Tcp { address, port } => {
                    Global::TcpipForward { address: address.as_bytes(), port: u32::from(*port) }
                }
                Announced::Unix { path } => Global::StreamlocalForward { path: path.as_bytes() },
            },
        });
        pipe.asked.insert(address.clone(), owner);
        pipe.awaited.push_back(Awaited::Bind { owner, serial: self.serial, address });
    }

    /// Asks the far side to take no more calls.
    pub(super) fn ask_to_cancel(&mut self, address: &Announced) {
        let Some(pipe) = &mut self.pipe else { return };
        self.out.send(&Message::GlobalRequest {
            want_reply: true,
            request: match address {
                Announced::Tcp { address, port } => Global::CancelTcpipForward {
                    address: address.as_bytes(),
                    port: u32::from(*port),
                },
                Announced::Unix { path } => {
                    Global::CancelStreamlocalForward { path: path.as_bytes() }
                }
            },
        });
        pipe.awaited.push_back(Awaited::Cancel);
    }

    /// There is a pipe again: a dial that waited is made, a listener announced.
    pub(super) fn resume(&mut self, id: ClientId) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        match &mut client.state {
            State::Dialing(dial) if dial.asked.is_none() => {
                self.set_deadline(id, self.limits.dial_time);
                self.open_channel(id);
            }
            State::Listen(listener) if matches!(listener.bound, Bound::No) => {
                listener.bound = Bound::Asked;
                let address = listener.address.clone();
                self.ask_to_bind(id, address);
            }
            _ => {}
        }
    }

    /// Refuses the call that waits longest, or ends one that was taken.
    fn reject(&mut self, id: ClientId, why: &str) -> Result<(), Error> {
        let client = self.clients.get(id)?;
        let protocol = client.protocol;
        match client.state() {
            ClientState::Listen => {
                let Some(call) = self.next_call(id) else {
                    return Err(Error::bad_control(protocol, "no call waits"));
                };
                let why = if why.is_empty() { "rejected" } else { why };
                self.refuse(call.channel.0, reason::CONNECT_FAILED, why);
                Ok(())
            }
            ClientState::Closed | ClientState::Dialing => {
                Err(Error::bad_control(protocol, "there is nothing to reject"))
            }
            _ => {
                self.hang_up(id, &Error::hung_up());
                Ok(())
            }
        }
    }

    fn close_write(&mut self, id: ClientId, control: Control) -> Result<(), (Control, Error)> {
        let Ok(client) = self.clients.get_mut(id) else { return Ok(()) };
        let outgoing = match &mut client.state {
            State::Established(Conversation { outgoing, .. })
            | State::Dialing(Dial { early: Early { outgoing, .. }, .. }) => outgoing,
            State::Finished(remains) => return Err((control, remains.error.clone())),
            _ => return Err((control, Error::not_connected())),
        };
        if !matches!(outgoing, Outgoing::Open) {
            return Err((control, Error::hung_up()));
        }
        self.out.requests.insert(control.request, (id, 0));
        *outgoing = Outgoing::Ending(control);
        self.give_turn(id);
        Ok(())
    }

    /// Reads up to `count` bytes.
    pub fn read(&mut self, request: RequestId, client: ClientId, count: u32) -> Vec<Effect> {
        if self.admit(request, None).is_some()
            && let Err(error) = self.try_read(request, client, count)
        {
            self.out.complete(request, Err(error));
        }
        self.finish()
    }

    fn try_read(&mut self, request: RequestId, id: ClientId, count: u32) -> Result<(), Error> {
        let client = self.clients.get_mut(id)?;
        let (inbox, receive) = match &mut client.state {
            State::Established(c) => (&mut c.inbox, Some(&mut c.receive)),
            State::Finished(remains) => (&mut remains.inbox, Some(&mut remains.receive)),
            State::Dialing(dial) => (&mut dial.early.inbox, None),
            State::Teardown(_) => return Err(Error::hung_up()),
            _ => return Err(Error::not_connected()),
        };
        if count == 0 {
            self.out.complete(request, Ok(Reply::Data(Vec::new())));
            return Ok(());
        }
        let place = self.out.next_place();
        inbox.reads.push(place, (request, count));
        let taken = self.out.serve(inbox);
        if let Some(receive) = receive {
            receive.consumed(taken, &mut self.pool);
        }
        if !inbox.reads.is_empty() {
            self.out.requests.insert(request, (id, place));
        }
        if taken > 0 {
            self.grant(id, taken);
        }
        Ok(())
    }

    /// Writes bytes.
    pub fn write(&mut self, request: RequestId, client: ClientId, bytes: Vec<u8>) -> Vec<Effect> {
        if self.admit(request, None).is_some()
            && let Err(error) = self.try_write(request, client, bytes)
        {
            self.out.complete(request, Err(error));
        }
        self.finish()
    }

    fn try_write(&mut self, request: RequestId, id: ClientId, bytes: Vec<u8>) -> Result<(), Error> {
        let client = self.clients.get_mut(id)?;
        let (outgoing, writes, unsent) = match &mut client.state {
            State::Established(Conversation { outgoing, writes, unsent, .. })
            | State::Dialing(Dial { early: Early { outgoing, writes, unsent, .. }, .. }) => {
                (outgoing, writes, unsent)
            }
            State::Finished(remains) => return Err(remains.error.clone()),
            State::Teardown(_) => return Err(Error::hung_up()),
            _ => return Err(Error::not_connected()),
        };
        if !matches!(outgoing, Outgoing::Open) {
            return Err(Error::hung_up());
        }
        if bytes.is_empty() {
            self.out.complete(request, Ok(Reply::Count(0)));
            return Ok(());
        }
        let length = bytes.len() as u64;
        if self.queued + length > self.limits.queued {
            return Err(Error::exhausted("too many bytes wait to be sent"));
        }
        self.queued += length;
        *unsent += length;
        let place = self.out.next_place();
        writes.push(place, Write { request, bytes: Piece::new(bytes, 0), sent: 0 });
        self.out.requests.insert(request, (id, place));
        self.give_turn(id);
        Ok(())
    }

    /// Takes a call.
    pub fn listen(&mut self, request: RequestId, client: ClientId) -> Vec<Effect> {
        if self.admit(request, None).is_some()
            && let Err(error) = self.try_listen(request, client)
        {
            self.out.complete(request, Err(error));
        }
        self.finish()
    }

    fn try_listen(&mut self, request: RequestId, id: ClientId) -> Result<(), Error> {
        let client = self.clients.get_mut(id)?;
        let State::Listen(listener) = &mut client.state else {
            return Err(Error::new(ErrorCode::InvalidArgument, "no address set"));
        };
        if let Bound::Refused(error) = &listener.bound {
            return Err(error.clone());
        }
        let place = self.out.next_place();
        self.out.requests.insert(request, (id, place));
        listener.listens.push(place, (request, 0));
        self.match_calls(id);
        Ok(())
    }

    /// Gives calls that wait to those who wait for calls.
    pub(super) fn match_calls(&mut self, id: ClientId) {
        while let Ok(client) = self.clients.get_mut(id)
            && let State::Listen(listener) = &mut client.state
            && !listener.calls.is_empty()
            && let Some((request, _)) = listener.listens.pop_front()
        {
            let protocol = client.protocol;
            match self.new_client(protocol) {
                Err(error) => self.out.complete(request, Err(error)),
                Ok(taker) => {
                    if let Some(call) = self.next_call(id) {
                        self.take_call(taker, call);
                    }
                    self.out.complete(request, Ok(Reply::Client(taker)));
                }
            }
        }
    }

    fn next_call(&mut self, id: ClientId) -> Option<Call> {
        let State::Listen(listener) = &mut self.clients.get_mut(id).ok()?.state else {
            return None;
        };
        let call = listener.calls.pop_front()?;
        trim(&mut listener.calls);
        self.calls -= 1;
        Some(call)
    }

    /// Confirms a call: it becomes this new client's conversation.
    fn take_call(&mut self, taker: ClientId, call: Call) {
        let Some(pipe) = &mut self.pipe else { return };
        let channel = self.channels.insert(Channel::Open { owner: taker });
        let window = ReceiveWindow::new(self.now, &mut pipe.path, &mut self.pool);
        self.out.answer(&Message::OpenConfirmation {
            recipient: call.channel.0,
            sender: channel.0,
            window: window.open(),
            packet: self.limits.packet,
            data: b"",
        });
        self.out.statistics.calls += 1;
        let send = SendWindow::new(call.window, call.packet, self.limits.packet);
        let early = Early::default();
        let conversation = Conversation::new(channel, call.channel, true, window, send, early);
        if let Ok(client) = self.clients.get_mut(taker) {
            client.local = call.local;
            client.remote = call.remote;
            client.enter(State::Established(conversation), self.now);
        }
        self.begin(taker);
    }

    /// Gives up on a request.
    pub fn flush(&mut self, request: RequestId) -> Vec<Effect> {
        if let Some(&(id, place)) = self.out.requests.get(&request) {
            self.give_up_request(request, id, place);
        }
        self.finish()
    }

    fn give_up_request(&mut self, request: RequestId, id: ClientId, place: u64) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        let mut outcome = Err(Error::interrupted());
        let mut gone = None;
        match &mut client.state {
            State::Dialing(Dial { control, .. })
            | State::Announcing(Announcing { control, .. })
                if control.request == request =>
            {
                self.give_up(id, Error::interrupted());
                return;
            }
            State::Listen(listener) => {
                listener.listens.take(place);
            }
            State::Established(Conversation { inbox, writes, unsent, outgoing, .. })
            | State::Dialing(Dial { early: Early { inbox, writes, unsent, outgoing }, .. }) => {
                inbox.reads.take(place);
                gone = writes.take(place).map(|write| (write, unsent));
                outgoing.give_up(request);
            }
            State::Announcing(_) | State::Closed | State::Teardown(_) | State::Finished(_) => {}
        }
        if let Some((write, unsent)) = gone {
            let left = write.bytes.len() as u64;
            *unsent = unsent.saturating_sub(left);
            self.queued = self.queued.saturating_sub(left);
            if write.sent > 0 {
                outcome = Ok(Reply::Count(write.sent));
            }
        }
        self.out.complete(request, outcome);
        // An end of file may have waited for this write alone.
        self.give_turn(id);
    }

    /// One more open file refers to this client.
    pub fn retain(&mut self, client: ClientId) -> Result<(), Error> {
        let client = self.clients.get_mut(client)?;
        client.references = client.references.saturating_add(1);
        Ok(())
    }

    /// An open file that referred to this client is gone.
    pub fn release(&mut self, client: ClientId) -> Vec<Effect> {
        if let Ok(found) = self.clients.get_mut(client) {
            found.references = found.references.saturating_sub(1);
            if found.references == 0 {
                self.hang_up(client, &Error::hung_up());
                self.disown(client);
                self.clients.remove(client);
            }
        }
        self.finish()
    }

    /// Ends whatever a client does; its requests end with this error.
    pub(super) fn hang_up(&mut self, id: ClientId, error: &Error) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        match &client.state {
            State::Closed | State::Teardown(_) => return,
            State::Dialing(_) | State::Announcing(_) => {
                self.give_up(id, error.clone());
                return;
            }
            State::Listen(_) | State::Established(_) | State::Finished(_) => {}
        }
        match client.enter(State::Closed, self.now) {
            State::Listen(listener) => self.end_listener(id, listener, error),
            State::Established(c) => {
                client.state = State::Teardown(c.channel);
                self.end_conversation(id, c, error);
            }
            State::Finished(mut remains) => {
                Self::drop_inbox(&mut self.pool, &mut remains.inbox, &mut remains.receive);
            }
            _ => {}
        }
    }

    fn end_listener(&mut self, id: ClientId, listener: Listener, error: &Error) {
        self.listeners.remove(&listener.address, id);
        if matches!(listener.bound, Bound::Yes) {
            self.ask_to_cancel(&listener.address);
        }
        self.calls -= listener.calls.len() as u32;
        for call in listener.calls {
            self.refuse(call.channel.0, reason::CONNECT_FAILED, "nobody listens any more");
        }
        self.end_waits(listener.listens, error);
    }

    fn end_conversation(&mut self, id: ClientId, mut c: Conversation, error: &Error) {
        let sent = self.part(&mut c);
        let close = Message::Close { recipient: c.peer.0 };
        if c.called {
            // Without the call there would be none.
            self.out.answer(&close);
        } else {
            self.out.send(&close);
        }
        self.channels.set(c.channel, Channel::Closing { owner: Some(id), sent });
        Self::drop_inbox(&mut self.pool, &mut c.inbox, &mut c.receive);
        self.queued = self.queued.saturating_sub(c.unsent);
        self.leave_turn(id, &mut c);
        self.end_waits(c.inbox.reads, error);
        self.end_writing(c.writes, c.outgoing, error);
        self.feed_starved();
    }

    pub(super) fn end_waits(&mut self, waits: Line<Wait>, error: &Error) {
        for (request, _) in waits {
            self.out.complete(request, Err(error.clone()));
        }
    }
}

fn in_use() -> Error {
    Error::new(ErrorCode::IsConnected, "the client is in use")
}

fn no_pipe() -> Error {
    Error::new(ErrorCode::NetworkDown, "there is no connection to the far side")
}
