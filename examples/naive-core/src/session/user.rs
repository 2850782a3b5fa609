//! What users do.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::replace;

use super::{Bound, Call, Channel, Client, Control, Listener, Phase, Session, State, Talk};
use super::{hung_up, nowhere};
use crate::message::{Global, Message, Open, reason};
use crate::text::{Command, Place, error};
use crate::types::{ClientId, ClientState, Error, ErrorCode, Protocol, Reply};

impl Session {
    /// Whether a request is carried out; if not, it is answered, and the `status` of
    /// this client tells why.
    pub(super) fn admit(&mut self, request: u64, told: Option<ClientId>) -> bool {
        let full = self.requests.len() >= self.limits.requests as usize;
        let refused = if self.requests.contains_key(&request) {
            self.warn(&format!("request {request} is outstanding already"));
            return false;
        } else if let Some(why) = &self.ended {
            why.clone()
        } else if full {
            error(ErrorCode::ResourceExhausted, "too many requests are outstanding")
        } else {
            return true;
        };
        self.refuse_request(request, told, refused);
        false
    }

    /// Fails a request that had no effect.
    fn refuse_request(&mut self, request: u64, told: Option<ClientId>, why: Error) {
        if let Some(Ok(client)) = told.map(|id| self.client(id)) {
            client.last_error = Some(why.message.clone());
        }
        self.complete(request, Err(why));
    }

    /// Clients, and channels that outlive theirs.
    pub(super) fn used(&self) -> u32 {
        let channels = self.pipe.iter().flat_map(|pipe| pipe.channels.values());
        let orphans = channels.filter(|channel| channel.owner.is_none()).count();
        (self.clients.len() + orphans) as u32
    }

    pub(super) fn new_client(&mut self, protocol: Protocol) -> Result<ClientId, Error> {
        if self.used() >= self.limits.clients {
            return Err(error(ErrorCode::ResourceExhausted, "too many clients"));
        }
        let number = (0..).find(|n| !self.clients.contains_key(n)).unwrap_or_default();
        let next = self.incarnations.entry(number).or_default();
        let id = ClientId { number, incarnation: *next };
        *next = next.wrapping_add(1);
        let client = Client {
            id,
            protocol,
            references: 1,
            state: State::Closed,
            local: nowhere(protocol),
            remote: nowhere(protocol),
            since: self.now,
            last_error: None,
        };
        self.clients.insert(number, client);
        Ok(id)
    }

    /// Makes a client.
    pub fn clone_client(&mut self, request: u64, protocol: Protocol) {
        if self.admit(request, None) {
            let outcome = self.new_client(protocol).map(Reply::Client);
            self.complete(request, outcome);
        }
    }

    /// Carries out control messages.
    pub fn control(&mut self, request: u64, id: ClientId, text: Vec<u8>) {
        if !self.admit(request, Some(id)) {
            return;
        }
        let long = text.len() > self.limits.line as usize;
        match self.client(id) {
            Err(why) => self.complete(request, Err(why)),
            Ok(_) if long => {
                let why = error(ErrorCode::InvalidArgument, "the line is too long");
                self.refuse_request(request, Some(id), why);
            }
            Ok(_) => self.run(id, Control { request, rest: text }),
        }
    }

    /// Carries out a control message's lines from where it is.
    pub(super) fn run(&mut self, id: ClientId, mut control: Control) {
        let request = control.request;
        while !control.rest.is_empty() {
            let end = control.rest.iter().position(|b| *b == b'\n');
            let rest = end.map_or(Vec::new(), |end| control.rest.split_off(end + 1));
            let line = replace(&mut control.rest, rest);
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let Ok(protocol) = self.client(id).map(|client| client.protocol) else { return };
            let command = self.words.command(protocol, line).map_err(|why| {
                error(ErrorCode::InvalidArgument, &format!("bad control message: {why}"))
            });
            let result = match command {
                Ok(Command::Nothing) => Ok(()),
                Ok(Command::Hangup) => {
                    self.hang_up(id, &hung_up());
                    Ok(())
                }
                Ok(Command::Reject(why)) => self.reject(id, &why),
                Ok(Command::Connect(target)) => match self.may_connect(id) {
                    Ok(()) => return self.connect(id, target, control),
                    Err(why) => Err(why),
                },
                Ok(Command::Announce(place)) => match self.may_announce(id, &place) {
                    Ok(()) => return self.announce(id, place, control),
                    Err(why) => Err(why),
                },
                Ok(Command::CloseWrite) => match self.may_end(id) {
                    Ok(talk) => {
                        talk.closing = Some(control);
                        self.requests.insert(request, id);
                        return;
                    }
                    Err(why) => Err(why),
                },
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                return self.refuse_request(request, Some(id), why);
            }
        }
        self.complete(request, Ok(Reply::Done));
    }

    pub(super) fn may_connect(&mut self, id: ClientId) -> Result<(), Error> {
        match self.client(id)?.public() {
            ClientState::Closed => {}
            ClientState::Teardown | ClientState::Finished => {
                self.hang_up(id, &hung_up());
                self.disown(id);
            }
            _ => return Err(error(ErrorCode::IsConnected, "the client is in use")),
        }
        if self.used() > self.limits.clients {
            let why = "too many channels are still being closed";
            return Err(error(ErrorCode::ResourceExhausted, why));
        }
        let full = u64::from(self.limits.room) + u64::from(self.limits.control) / 2;
        if self.pipe.as_ref().is_some_and(|pipe| pipe.in_pipe > full) {
            return Err(error(ErrorCode::ResourceExhausted, "the pipe is congested"));
        }
        let client = self.client(id)?;
        client.local = nowhere(client.protocol);
        client.remote = nowhere(client.protocol);
        client.last_error = None;
        Ok(())
    }

    pub(super) fn connect(&mut self, id: ClientId, target: Place, control: Control) {
        let request = control.request;
        let wait = if self.pipe.is_some() { self.limits.dial_time } else { self.limits.dial_wait };
        let deadline = self.deadline(wait);
        if self.pipe.is_none() && wait == 0 {
            return self.no_pipe(id, request);
        }
        let now = self.now;
        if let Ok(client) = self.client(id) {
            client.remote = target.to_string();
            let early = Talk::default();
            client.enter(State::Dialing { control, target, channel: None, deadline, early }, now);
            self.requests.insert(request, id);
            self.open_channel(id);
        }
    }

    pub(super) fn no_pipe(&mut self, id: ClientId, request: u64) {
        let why = error(ErrorCode::NetworkDown, "there is no connection to the far side");
        self.refuse_request(request, Some(id), why);
    }

    /// The lowest free number for a channel.
    pub(super) fn free_channel(&self) -> u32 {
        let taken = |n: &u32| self.pipe.as_ref().is_some_and(|p| p.channels.contains_key(n));
        (0..).find(|n| !taken(n)).unwrap_or_default()
    }

    pub(super) fn open_channel(&mut self, id: ClientId) {
        let (ours, window, packet) = (self.free_channel(), self.window(), self.limits.packet);
        let Some(pipe) = &mut self.pipe else { return };
        let Some(client) = self.clients.get_mut(&id.number) else { return };
        let State::Dialing { target, channel, .. } = &mut client.state else { return };
        *channel = Some(ours);
        let phase = Phase::Opening;
        pipe.channels.insert(ours, Channel { theirs: 0, phase, owner: Some(id) });
        let target = target.clone();
        let kind = match &target {
            Place::Tcp(host, port) => Open::DirectTcpip {
                host: host.as_bytes(),
                port: (*port).into(),
                originator: b"127.0.0.1",
                originator_port: 0,
            },
            Place::Unix(path) => Open::DirectStreamlocal { path: path.as_bytes() },
        };
        self.send(Message::Open { sender: ours, window, packet, kind });
    }

    pub(super) fn may_announce(&mut self, id: ClientId, place: &Place) -> Result<(), Error> {
        let used = matches!(
            self.client(id)?.public(),
            ClientState::Dialing | ClientState::Listen | ClientState::Established
        );
        let any = matches!(place, Place::Tcp(_, 0));
        let announced = self
            .clients
            .values()
            .any(|client| matches!(&client.state, State::Listen(other) if other.place == *place));
        let awaited = self.pipe.iter().flat_map(|pipe| &pipe.awaited).flatten();
        let asked = awaited.map(|(asked, ..)| asked).any(|asked| asked == place);
        if !used && !any && (announced || asked) {
            return Err(error(ErrorCode::AddressInUse, "the address is announced already"));
        }
        let unanswered = self.pipe.as_ref().map_or(0, |pipe| pipe.awaited.len());
        if unanswered >= self.limits.clients as usize && !used {
            let why = "too many announcements are unanswered";
            return Err(error(ErrorCode::ResourceExhausted, why));
        }
        self.may_connect(id)
    }

    pub(super) fn announce(&mut self, id: ClientId, place: Place, control: Control) {
        let request = control.request;
        if self.pipe.is_none() {
            return self.no_pipe(id, request);
        }
        self.serial += 1;
        let (now, serial) = (self.now, self.serial);
        let deadline = self.deadline(self.limits.dial_time);
        if let Ok(client) = self.client(id) {
            client.local = place.to_string();
            client.enter(State::Announcing { control, serial, deadline }, now);
            self.requests.insert(request, id);
            self.bind(place, id, serial);
        }
    }

    pub(super) fn bind(&mut self, place: Place, owner: ClientId, serial: u64) {
        let request = match &place {
            Place::Tcp(address, port) => {
                Global::TcpipForward { address: address.as_bytes(), port: (*port).into() }
            }
            Place::Unix(path) => Global::StreamlocalForward { path: path.as_bytes() },
        };
        self.send(Message::GlobalRequest { want_reply: true, request });
        if let Some(pipe) = &mut self.pipe {
            pipe.awaited.push_back(Some((place, owner, serial)));
        }
    }

    pub(super) fn cancel(&mut self, place: &Place) {
        let request = match place {
            Place::Tcp(address, port) => {
                Global::CancelTcpipForward { address: address.as_bytes(), port: (*port).into() }
            }
            Place::Unix(path) => Global::CancelStreamlocalForward { path: path.as_bytes() },
        };
        self.send(Message::GlobalRequest { want_reply: true, request });
        if let Some(pipe) = &mut self.pipe {
            pipe.awaited.push_back(None);
        }
    }

    pub(super) fn reject(&mut self, id: ClientId, why: &str) -> Result<(), Error> {
        let no = |what| Err(error(ErrorCode::InvalidArgument, what));
        match &mut self.client(id)?.state {
            State::Closed | State::Dialing { .. } | State::Announcing { .. } => {
                return no("there is nothing to reject");
            }
            State::Listen(listener) => {
                let Some(call) = listener.calls.pop_front() else {
                    return no("no call waits");
                };
                let why = if why.is_empty() { "rejected" } else { why };
                self.refuse(call.theirs, reason::CONNECT_FAILED, why);
            }
            _ => self.hang_up(id, &hung_up()),
        }
        Ok(())
    }

    /// The conversation whose way out may be ended.
    pub(super) fn may_end(&mut self, id: ClientId) -> Result<&mut Talk, Error> {
        match &mut self.client(id)?.state {
            State::Established(talk) | State::Dialing { early: talk, .. } => talk.may_write(),
            State::Finished(_, why) => Err(why.clone()),
            _ => Err(error(ErrorCode::NotConnected, "not connected")),
        }
    }

    /// Reads.
    pub fn read(&mut self, request: u64, id: ClientId, count: u32) {
        if !self.admit(request, None) {
            return;
        }
        let talk = match self.client(id).map(|client| &mut client.state) {
            Ok(
                State::Established(talk)
                | State::Finished(talk, _)
                | State::Dialing { early: talk, .. },
            ) => Ok(talk),
            Ok(State::Teardown(_)) => Err(hung_up()),
            Ok(_) => Err(error(ErrorCode::NotConnected, "not connected")),
            Err(why) => Err(why),
        };
        match talk {
            Err(why) => self.complete(request, Err(why)),
            Ok(_) if count == 0 => self.complete(request, Ok(Reply::Data(Vec::new()))),
            Ok(talk) => {
                talk.reads.push_back((request, count));
                self.requests.insert(request, id);
                self.serve(id);
            }
        }
    }

    /// Answers the reads that can be answered, and gives window for what they took.
    pub(super) fn serve(&mut self, id: ClientId) {
        let window = self.window();
        let Ok(client) = self.client(id) else { return };
        let (State::Established(talk) | State::Finished(talk, _)) = &mut client.state else {
            return;
        };
        let mut done = Vec::new();
        while let Some((request, count)) = talk.reads.front().copied() {
            let count = talk.inbox.len().min(count as usize);
            let outcome = match &talk.end {
                _ if count > 0 => Ok(Reply::Data(talk.inbox.drain(..count).collect())),
                Some(Ok(())) => Ok(Reply::Data(Vec::new())),
                Some(Err(why)) => Err(why.clone()),
                None => break,
            };
            talk.reads.pop_front();
            done.push((request, outcome));
        }
        let free = window - talk.open - talk.inbox.len() as u32;
        let (theirs, worth) = (talk.theirs, talk.end.is_none() && free >= (window / 2).max(1));
        if worth {
            talk.open += free;
        }
        for (request, outcome) in done {
            self.complete(request, outcome);
        }
        if worth {
            self.answer(Message::WindowAdjust { recipient: theirs, bytes: free });
        }
    }

    /// Writes.
    pub fn write(&mut self, request: u64, id: ClientId, bytes: Vec<u8>) {
        if !self.admit(request, None) {
            return;
        }
        let queued = self.statistics().queued + bytes.len() as u64;
        let full = queued > self.limits.queued;
        let talk = match self.client(id).map(|client| &mut client.state) {
            Ok(State::Teardown(_)) => Err(hung_up()),
            Ok(State::Established(talk) | State::Dialing { early: talk, .. }) => talk.may_write(),
            Ok(State::Finished(_, why)) => Err(why.clone()),
            Ok(_) => Err(error(ErrorCode::NotConnected, "not connected")),
            Err(why) => Err(why),
        };
        match talk {
            Err(why) => self.complete(request, Err(why)),
            Ok(_) if bytes.is_empty() => self.complete(request, Ok(Reply::Count(0))),
            Ok(_) if full => {
                let why = error(ErrorCode::ResourceExhausted, "too many bytes wait to be sent");
                self.complete(request, Err(why));
            }
            Ok(talk) => {
                talk.writes.push_back((request, bytes, 0));
                self.requests.insert(request, id);
            }
        }
    }

    /// Takes a call.
    pub fn listen(&mut self, request: u64, id: ClientId) {
        if !self.admit(request, None) {
            return;
        }
        let listener = match self.client(id).map(|client| &mut client.state) {
            Ok(State::Listen(Listener { bound: Bound::Refused(why), .. })) => Err(why.clone()),
            Ok(State::Listen(listener)) => Ok(listener),
            Ok(_) => Err(error(ErrorCode::InvalidArgument, "no address set")),
            Err(why) => Err(why),
        };
        match listener {
            Err(why) => self.complete(request, Err(why)),
            Ok(listener) => {
                listener.listens.push_back(request);
                self.requests.insert(request, id);
                self.match_calls(id);
            }
        }
    }

    /// Gives the calls that wait to those who listen.
    pub(super) fn match_calls(&mut self, id: ClientId) {
        while let Ok(Client { state: State::Listen(listener), protocol, .. }) = self.client(id)
            && !listener.calls.is_empty()
            && let Some(request) = listener.listens.pop_front()
        {
            let protocol = *protocol;
            let taker = match self.new_client(protocol) {
                Ok(taker) => taker,
                Err(why) => {
                    self.complete(request, Err(why));
                    continue;
                }
            };
            let Ok(Client { state: State::Listen(listener), .. }) = self.client(id) else { return };
            let Some(call) = listener.calls.pop_front() else { return };
            let (ours, window, packet) = (self.free_channel(), self.window(), self.limits.packet);
            let Call { theirs, local, remote, .. } = call;
            if let Some(pipe) = &mut self.pipe {
                let channel = Channel { theirs, phase: Phase::Open, owner: Some(taker) };
                pipe.channels.insert(ours, channel);
            }
            let talk = Talk {
                channel: ours,
                theirs,
                called: true,
                window: call.window,
                packet: call.packet,
                open: window,
                ..Talk::default()
            };
            let now = self.now;
            if let Ok(client) = self.client(taker) {
                client.enter(State::Established(talk), now);
                client.local = local;
                client.remote = remote;
            }
            self.counted.calls += 1;
            self.answer(Message::OpenConfirmation {
                recipient: theirs,
                sender: ours,
                window,
                packet,
                data: b"",
            });
            self.complete(request, Ok(Reply::Client(taker)));
        }
    }

    /// Gives up on a request.
    pub fn flush(&mut self, request: u64) {
        let Some(id) = self.requests.get(&request).copied() else { return };
        let why = error(ErrorCode::Interrupted, "interrupted");
        let mut outcome = Err(why.clone());
        match self.client(id).map(|client| &mut client.state) {
            Ok(State::Dialing { control, .. } | State::Announcing { control, .. })
                if control.request == request =>
            {
                return self.hang_up(id, &why);
            }
            Ok(State::Listen(listener)) => listener.listens.retain(|r| *r != request),
            Ok(State::Established(talk) | State::Dialing { early: talk, .. }) => {
                talk.reads.retain(|(r, _)| *r != request);
                if let Some((_, _, sent)) = talk.writes.iter().find(|(r, ..)| *r == request)
                    && *sent > 0
                {
                    outcome = Ok(Reply::Count(*sent as u32));
                }
                talk.writes.retain(|(r, ..)| *r != request);
                talk.closing.take_if(|control| control.request == request);
            }
            _ => {}
        }
        self.complete(request, outcome);
    }

    /// A reference is gone.
    pub fn release(&mut self, id: ClientId) {
        let Ok(client) = self.client(id) else { return };
        client.references -= 1;
        if client.references == 0 {
            self.hang_up(id, &hung_up());
            self.disown(id);
            self.clients.remove(&id.number);
        }
    }

    /// A client that was hung up no longer waits for its channel's end.
    pub(super) fn disown(&mut self, id: ClientId) {
        let now = self.now;
        if let Ok(client) = self.client(id)
            && let State::Teardown(channel) = client.state
        {
            client.enter(State::Closed, now);
            self.set_channel(channel, Phase::Closing, None);
        }
    }

    pub(super) fn set_channel(&mut self, ours: u32, phase: Phase, owner: Option<ClientId>) {
        if let Some(channel) = self.pipe.as_mut().and_then(|pipe| pipe.channels.get_mut(&ours)) {
            *channel = Channel { phase, owner, ..*channel };
        }
    }

    /// Ends what a client does; its requests end with this error.
    pub(super) fn hang_up(&mut self, id: ClientId, why: &Error) {
        let now = self.now;
        let Ok(client) = self.client(id) else { return };
        if matches!(client.state, State::Closed | State::Teardown(_)) {
            return;
        }
        match client.enter(State::Closed, now) {
            State::Closed | State::Teardown(_) | State::Finished(..) => {}
            State::Dialing { control, channel, early, .. } => {
                client.last_error = Some(why.message.clone());
                if let Some(channel) = channel {
                    self.set_channel(channel, Phase::Opening, None);
                }
                self.counted.dials_failed += 1;
                self.complete(control.request, Err(why.clone()));
                // Those who waited for it were not interrupted.
                let interrupted = why.code == ErrorCode::Interrupted;
                let why = if interrupted { hung_up() } else { why.clone() };
                self.end_requests(early.requests(), &why);
            }
            State::Announcing { control, .. } => {
                client.last_error = Some(why.message.clone());
                self.complete(control.request, Err(why.clone()));
            }
            State::Listen(listener) => {
                if matches!(listener.bound, Bound::Yes) {
                    self.cancel(&listener.place);
                }
                for call in listener.calls {
                    let told = "nobody listens any more";
                    self.refuse(call.theirs, reason::CONNECT_FAILED, told);
                }
                self.end_requests(listener.listens, why);
            }
            State::Established(talk) => {
                client.state = State::Teardown(talk.channel);
                self.set_channel(talk.channel, Phase::Closing, Some(id));
                let close = Message::Close { recipient: talk.theirs };
                if talk.called {
                    self.answer(close)
                } else {
                    self.send(close)
                }
                self.end_requests(talk.requests(), why);
            }
        }
    }

    /// The far side ended a conversation: what came can still be read.
    pub(super) fn finish(&mut self, id: ClientId, why: &Error) {
        let now = self.now;
        let Ok(client) = self.client(id) else { return };
        let State::Established(mut talk) = client.enter(State::Closed, now) else { return };
        if talk.end.is_none() || why.code != ErrorCode::ConnectionReset {
            client.last_error = Some(why.message.clone());
        }
        let writes: Vec<u64> = talk.writes.drain(..).map(|(request, ..)| request).collect();
        let closing = talk.closing.take().map(|control| control.request);
        talk.open = 0;
        talk.end.get_or_insert(Err(why.clone()));
        client.state = State::Finished(talk, why.clone());
        self.serve(id);
        self.end_requests(writes.into_iter().chain(closing), why);
    }
}
