//! What goes over the pipe: the rules of RFC 4254 for both sides.

use sshnet_core::message::{Global, Message, MessageError, Open};
use sshnet_core::{ClientId, ClientState, Effect};

use super::{
    Awaited, Bound, Call, Channel, Client, Conversation, Listener, Model, Phase, Place, Seen,
    State, Verdict, Waiting, ensure,
};

impl Model {
    /// A message came in: judges it, and takes note of what it changes.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Verdict {
        let now = self.now;
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        pipe.heard = now;
        pipe.probed = None;
        self.figures.messages_received += 1;
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(MessageError::UnknownType(_)) => return self.complain("an unknown type"),
            Err(_) => return self.fault("a malformed message"),
        };
        if self.blind {
            return Ok(());
        }
        match message {
            Message::GlobalRequest { want_reply, .. } => {
                self.event.owed_global_failures += u32::from(want_reply);
                Ok(())
            }
            Message::RequestSuccess { data } => self.answered(Some(data)),
            Message::RequestFailure => self.answered(None),
            Message::Open { sender, window, packet, kind } => {
                self.asked_to_open(sender, window, packet, kind);
                Ok(())
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                self.confirmed(recipient, sender, window, packet)
            }
            Message::OpenFailure { recipient, reason, .. } => {
                let Some(channel) = self.channel(recipient) else {
                    return self.fault("a refusal for no channel");
                };
                if !matches!(channel.phase, Phase::Opening { .. }) {
                    return self.fault("a refusal for an open channel");
                }
                let owner = channel.owner;
                self.remove(recipient);
                if let Some(id) = owner {
                    self.enter(id, State::Closed);
                }
                self.event.refused = owner.map(|id| (id, reason));
                Ok(())
            }
            Message::WindowAdjust { recipient, bytes } => {
                if self.channel(recipient).is_none() {
                    return Ok(());
                }
                self.on_open(recipient, "an adjustment", |c, _| {
                    let Some(window) = c.window.checked_add(bytes) else {
                        return Err("a window past 2^32-1");
                    };
                    c.window = window;
                    c.acknowledge(bytes.into());
                    Ok(())
                })
            }
            Message::Data { recipient, data } => {
                let length = data.len() as u64;
                let mut taken = false;
                self.on_open(recipient, "data", |c, packet| {
                    accept(c, data.len(), packet)?;
                    c.inbound.extend(data);
                    c.received += length;
                    taken = true;
                    Ok(())
                })?;
                self.figures.bytes_received += if taken { length } else { 0 };
                Ok(())
            }
            Message::ExtendedData { recipient, data, .. } => {
                self.on_open(recipient, "extended data", |c, packet| accept(c, data.len(), packet))
            }
            Message::Eof { recipient } => self.on_open(recipient, "an end of file", |c, _| {
                c.ended = true;
                c.open = 0;
                Ok(())
            }),
            Message::Close { recipient } => self.closed(recipient),
            Message::Request { recipient, want_reply, .. } => {
                self.on_open(recipient, "a request", |_, _| Ok(()))?;
                let open = self.channel(recipient).filter(|c| c.phase == Phase::Open);
                if want_reply && let Some(theirs) = open.map(|channel| channel.theirs) {
                    self.event.owed_failures.push(theirs);
                }
                Ok(())
            }
            Message::Success { recipient } | Message::Failure { recipient } => {
                if let Some(Channel { parting: parting @ Some(_), .. }) = self.channel(recipient)
                    && let Some((bytes, left)) = *parting
                {
                    *parting = Some((bytes, left - 1)).filter(|(_, left)| *left > 0);
                }
                let mut answers = false;
                self.on_open(recipient, "an answer", |c, _| {
                    let asked = c.asks.pop_front();
                    answers = asked.is_some();
                    if asked == Some(true) {
                        c.acknowledge(c.asked);
                    }
                    Ok(())
                })?;
                if answers {
                    self.tells_time(recipient);
                }
                Ok(())
            }
        }
    }

    /// An answer to a question of ours came on this channel.
    fn tells_time(&mut self, ours: u32) {
        if let Some(pipe) = &mut self.pipe
            && let Some((channel, left)) = &mut pipe.timed
            && *channel == ours
        {
            *left -= 1;
            if *left == 0 {
                pipe.timed = None;
            }
        }
    }

    /// The peer did what it must not, and the engine may only say so.
    fn complain(&self, what: &str) -> Verdict {
        ensure!(!self.lawful, "the simulated peer is not lawful: {what}");
        Ok(())
    }

    fn fault(&mut self, what: &'static str) -> Verdict {
        self.event.fault = Some(what);
        self.complain(what)
    }

    fn channel(&mut self, ours: u32) -> Option<&mut Channel> {
        self.pipe.as_mut()?.channels.get_mut(&ours)
    }

    fn remove(&mut self, ours: u32) {
        if let Some(pipe) = &mut self.pipe {
            pipe.channels.remove(&ours);
        }
    }

    /// Something for an open channel: `apply` takes it, or says which rule it
    /// breaks.
    fn on_open(
        &mut self,
        ours: u32,
        what: &'static str,
        apply: impl FnOnce(&mut Conversation, u32) -> Result<(), &'static str>,
    ) -> Verdict {
        let packet = self.limits.packet;
        let Some(channel) = self.channel(ours) else {
            return self.fault("something for no channel");
        };
        let owner = channel.owner;
        match channel.phase {
            Phase::Opening { .. } => return self.fault("something for a channel not yet open"),
            Phase::Closing => return Ok(()),
            Phase::Open => {}
        }
        let Some(State::Established(c)) =
            owner.and_then(|id| self.client(id)).map(|client| &mut client.state)
        else {
            return Err(format!("{what} for an open channel {ours} that nobody has"));
        };
        let Err(rule) = apply(c, packet) else { return Ok(()) };
        c.open = 0;
        self.violated(ours);
        self.complain(rule)
    }

    /// The engine has to close this channel, and its client to finish.
    fn violated(&mut self, ours: u32) {
        let Some(channel) = self.channel(ours) else { return };
        channel.violated = true;
        if let Some(id) = channel.owner {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: ClientId) {
        if let Some(State::Established(mut c)) = self.enter(id, State::Closed) {
            c.broken = true;
            c.open = 0;
            self.enter(id, State::Finished(c));
        }
    }

    fn closed(&mut self, ours: u32) -> Verdict {
        let Some(channel) = self.channel(ours) else { return self.fault("a close of no channel") };
        let owner = channel.owner;
        match channel.phase {
            Phase::Opening { .. } => self.fault("a close before the channel was open"),
            Phase::Open => {
                channel.closed = true;
                if let Some(id) = owner {
                    self.finish(id);
                }
                Ok(())
            }
            Phase::Closing => {
                self.remove(ours);
                if let Some(id) = owner
                    && matches!(self.known(id), Some(c) if matches!(c.state, State::Teardown(n) if n == ours))
                {
                    self.enter(id, State::Closed);
                }
                Ok(())
            }
        }
    }

    fn confirmed(&mut self, ours: u32, theirs: u32, window: u32, packet: u32) -> Verdict {
        let used = self.in_use(theirs);
        let Some(channel) = self.channel(ours) else {
            return self.fault("a confirmation of no channel");
        };
        let Phase::Opening { window: open, .. } = channel.phase else {
            return self.fault("a second confirmation");
        };
        channel.phase = Phase::Open;
        channel.theirs = theirs;
        let owner = channel.owner;
        if used {
            self.complain("one number for two channels")?;
            self.blind = true;
        }
        let Some(id) = owner else {
            // Given up: it has to be closed.
            if let Some(channel) = self.channel(ours) {
                channel.violated = true;
            }
            return Ok(());
        };
        if packet == 0 {
            self.enter(id, State::Closed);
            if let Some(channel) = self.channel(ours) {
                channel.violated = true;
                channel.owner = None;
            }
            return self.complain("a packet size of 0");
        }
        if let Some(State::Dialing(_, mut c)) = self.enter(id, State::Closed) {
            *c = Conversation { channel: ours, window, packet, open, ..*c };
            self.enter(id, State::Established(c));
        }
        self.event.begun.push(ours);
        Ok(())
    }

    /// Whether the peer has this number in use.
    fn in_use(&self, theirs: u32) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| {
            let opening = |c: &Channel| matches!(c.phase, Phase::Opening { .. });
            pipe.channels.values().any(|c| c.theirs == theirs && !opening(c))
                || pipe.calls.iter().any(|call| call.theirs == theirs)
        })
    }

    fn asked_to_open(&mut self, theirs: u32, window: u32, packet: u32, kind: Open<'_>) {
        if self.in_use(theirs) {
            self.blind = true;
        }
        let (place, port) = match kind {
            Open::ForwardedTcpip { address, port, .. } => {
                (Place::Tcp(address.into(), port), Some(port))
            }
            Open::ForwardedStreamlocal { path } => (Place::Unix(path.into()), None),
            _ => return self.event.owed_refusals.push(theirs),
        };
        if packet == 0 {
            self.event.owed_refusals.push(theirs);
        } else if let Some(pipe) = &mut self.pipe {
            pipe.calls.push_back(Waiting { theirs, window, packet, port });
            let bound = self.clients.values().find(|client| match &client.state {
                State::Listen(l) => l.place == place && l.bound == Bound::Yes,
                _ => false,
            });
            self.event.called = bound.map(|client| (theirs, client.id));
        }
    }

    /// The answer to our oldest global request.
    fn answered(&mut self, success: Option<&[u8]>) -> Verdict {
        let Some(awaited) = self.pipe.as_mut().and_then(|pipe| pipe.awaited.pop_front()) else {
            return self.complain("an answer to no request");
        };
        let Awaited::Bind { owner, serial, place } = awaited else { return Ok(()) };
        let place = match (place, success) {
            (_, None) => None,
            (Place::Tcp(address, 0), Some(data)) => {
                let port = data.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                (1..=65535).contains(&port).then_some(Place::Tcp(address, port))
            }
            (place, Some(_)) => Some(place),
        };
        let state = owner.and_then(|id| self.client(id)).map(|client| &mut client.state);
        match (state, owner) {
            (Some(State::Announcing { serial: asked }), Some(id)) if *asked == serial => {
                let state = match place {
                    // Only a peer that is confused binds what is bound.
                    Some(place) if self.taken(&place) => State::Closed,
                    Some(place) => State::Listen(Listener {
                        place,
                        bound: Bound::Yes,
                        listens: Default::default(),
                    }),
                    None => State::Closed,
                };
                self.enter(id, state);
            }
            (Some(State::Listen(listener)), Some(_)) if listener.bound == Bound::Asked(serial) => {
                listener.bound = if place.is_some() { Bound::Yes } else { Bound::Refused };
            }
            _ => self.event.owed_cancels.extend(place),
        }
        Ok(())
    }

    /// Whether a listener has this place.
    fn taken(&self, place: &Place) -> bool {
        self.clients.values().any(|client| match &client.state {
            State::Listen(l) => l.place == *place && l.bound != Bound::Refused,
            _ => false,
        })
    }

    /// A message went out: judges it, and takes note of what it changes.
    pub(super) fn sent(&mut self, bytes: &[u8], seen: &Seen<'_>) -> Verdict {
        let now = self.now;
        let room = u64::from(self.limits.room);
        let Some(pipe) = &mut self.pipe else { return Err("it sent without a pipe".into()) };
        let waiting = pipe.in_pipe;
        pipe.in_pipe += bytes.len() as u64;
        self.figures.messages_sent += 1;
        let message = Message::decode(bytes).map_err(|error| format!("it sent a {error}"))?;
        // Some of them are sent when a user does something.
        let answers = matches!(
            message,
            Message::OpenConfirmation { .. }
                | Message::OpenFailure { .. }
                | Message::WindowAdjust { .. }
                | Message::Close { .. }
        );
        if answers || self.event.heard && !matches!(message, Message::Data { .. }) {
            pipe.answers += bytes.len() as u64;
        }
        ensure!(message.encode() == bytes, "what it sent has two forms: {message:?}");
        if let Message::Data { data, .. } = &message {
            ensure!(waiting < room, "data without room: {waiting} of {room} in the pipe");
            self.figures.bytes_sent += data.len() as u64;
        }
        if self.blind {
            return Ok(());
        }
        let granted = self.event.granted.take();
        match message {
            Message::Open { sender, window, packet, kind } => {
                ensure!(!pipe.channels.contains_key(&sender), "channel {sender} is in use");
                ensure!(packet == self.limits.packet, "packet size {packet} offered");
                ensure!((1..=self.limits.window).contains(&window), "window {window} offered");
                let target = match kind {
                    Open::DirectTcpip { host, port, .. } => {
                        format!("{}!{port}", String::from_utf8_lossy(host))
                    }
                    Open::DirectStreamlocal { path } => String::from_utf8_lossy(path).into_owned(),
                    other => return Err(format!("it asked for {other:?}")),
                };
                let phase = Phase::Opening { window, since: now };
                let owner = self.dialer(&target, seen);
                let channel = Channel {
                    phase,
                    theirs: 0,
                    owner,
                    closed: false,
                    violated: false,
                    parting: None,
                };
                if let Some(pipe) = &mut self.pipe {
                    pipe.channels.insert(sender, channel);
                }
                match owner.and_then(|id| self.client(id)) {
                    Some(Client { state: State::Dialing(none @ None, _), .. }) => {
                        *none = Some(sender);
                        self.not_an_answer(bytes);
                    }
                    Some(client) => {
                        let id = client.id;
                        self.quit(id);
                        self.enter(id, State::Dialing(Some(sender), Box::default()));
                    }
                    None => {}
                }
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                ensure!(!pipe.channels.contains_key(&sender), "channel {sender} is in use");
                ensure!(packet == self.limits.packet, "packet size {packet} offered");
                ensure!((1..=self.limits.window).contains(&window), "window {window} offered");
                let call = pipe.calls.iter().position(|call| call.theirs == recipient);
                let Some(call) = call.and_then(|at| pipe.calls.remove(at)) else {
                    return Err(format!("it confirmed {recipient}, which did not call"));
                };
                let phase = Phase::Open;
                let channel = Channel {
                    phase,
                    theirs: recipient,
                    owner: None,
                    closed: false,
                    violated: false,
                    parting: None,
                };
                pipe.channels.insert(sender, channel);
                let conversation = Conversation {
                    channel: sender,
                    window: call.window,
                    packet: call.packet,
                    open: window,
                    ..Conversation::default()
                };
                self.event.taken.push_back((sender, Box::new(conversation), call.port));
                self.event.begun.push(sender);
            }
            Message::OpenFailure { recipient, .. } => {
                self.figures.calls_refused += 1;
                if let Some(at) = self.event.owed_refusals.iter().position(|r| *r == recipient) {
                    self.event.owed_refusals.remove(at);
                } else {
                    let call = pipe.calls.iter().position(|call| call.theirs == recipient);
                    let call = call.and_then(|at| pipe.calls.remove(at));
                    ensure!(call.is_some(), "it refused {recipient}, which did not call");
                    self.may_refuse(recipient, seen)?;
                }
            }
            Message::WindowAdjust { recipient, bytes } => {
                let most = self.limits.window_max;
                let c = self.sender_of("an adjustment", recipient)?;
                ensure!(!c.ended, "an adjustment after the peer's EOF");
                ensure!(bytes > 0, "an adjustment by nothing");
                let open = c.open.checked_add(bytes).ok_or("a window was raised past 2^32-1")?;
                c.open = open;
                let size = u64::from(open) + c.inbound.len() as u64;
                ensure!(
                    size <= u64::from(most),
                    "granted {open} with {} unread, of at most {most}",
                    c.inbound.len()
                );
                self.cover_window(size);
                self.event.granted = Some(recipient);
                self.forget_timed();
                if self.is_due() {
                    self.event.owed_trip = Some(recipient);
                }
            }
            Message::Data { recipient, data } => {
                let most = self.limits.packet;
                let c = self.sender_of("data", recipient)?;
                let channel = c.channel;
                let length = data.len() as u32;
                ensure!(length > 0, "a data message without data");
                ensure!(!c.eof_sent, "data after EOF");
                ensure!(length <= c.window, "data past the window of {}", c.window);
                ensure!(length <= c.packet.min(most), "a packet of {length} bytes");
                c.window -= length;
                c.sent += u64::from(length);
                c.unacknowledged += u64::from(length);
                let mut rest = data;
                let mut written = Vec::new();
                while !rest.is_empty() {
                    let Some((request, bytes, sent)) = c.writes.front_mut() else {
                        return Err("it sent what nobody wrote".into());
                    };
                    let piece = rest.len().min(bytes.len() - *sent);
                    ensure!(
                        rest[..piece] == bytes[*sent..*sent + piece],
                        "the bytes sent are not those of request {request} at {sent}"
                    );
                    rest = &rest[piece..];
                    *sent += piece;
                    if *sent == bytes.len() {
                        written.push((*request, bytes.len()));
                        c.writes.pop_front();
                    }
                }
                self.event.written.extend(written);
                if let Some(id) = self.channel(channel).and_then(|channel| channel.owner) {
                    self.took_turn(id)?;
                }
            }
            Message::Eof { recipient } => {
                let c = self.sender_of("EOF", recipient)?;
                ensure!(!c.eof_sent, "a second EOF");
                ensure!(c.writes.is_empty(), "EOF before what was written");
                c.eof_sent = true;
            }
            Message::Close { recipient } => self.sent_close(recipient)?,
            Message::Failure { recipient } => {
                let at = self.event.owed_failures.iter().position(|theirs| *theirs == recipient);
                let at = at.ok_or("a channel failure for no request")?;
                self.event.owed_failures.remove(at);
                self.sender_of("a failure", recipient)?;
            }
            Message::Request { recipient, want_reply, .. } => {
                ensure!(want_reply, "a channel request that wants no answer");
                let probe = std::mem::take(&mut self.event.owed_probe);
                if let Some(pipe) = self.pipe.as_mut().filter(|_| probe) {
                    pipe.probed = Some(now);
                }
                self.forget_timed();
                let (new, due) = (self.is_new(), self.is_due() && granted == Some(recipient));
                // Another engine measures when it likes.
                let free = !self.ours && self.limits.window < self.limits.window_max;
                let closes = seen.sends_behind(bytes) == Some(Message::Close { recipient });
                let begun = self.event.begun.clone();
                let c = self.sender_of("a request", recipient)?;
                if closes {
                    c.asks.push_back(false);
                    let ours = c.channel;
                    self.event.parted.insert(ours);
                    return Ok(());
                }
                // For the time it takes: of one who got window, or whose conversation
                // begins. Otherwise it is whether what was sent has arrived.
                let begins = new && begun.contains(&c.channel);
                let trip = due || begins || (new || free) && c.writes.is_empty();
                let arrival = !probe && !trip;
                if arrival {
                    ensure!(!c.writes.is_empty(), "a question for nobody who waits");
                    ensure!(!c.asks.contains(&true), "a second question");
                    c.asked = c.unacknowledged;
                }
                c.asks.push_back(arrival);
                let (ours, answers) = (c.channel, c.asks.len());
                if self.event.owed_trip == Some(recipient) {
                    self.event.owed_trip = None;
                }
                self.asks(ours, answers);
            }
            Message::GlobalRequest { want_reply, request } => {
                ensure!(want_reply, "a global request that wants no reply");
                self.sent_global(request, bytes, seen)?;
            }
            Message::RequestFailure => {
                let owed = &mut self.event.owed_global_failures;
                *owed = owed.checked_sub(1).ok_or("an answer to no global request")?;
            }
            Message::RequestSuccess { .. }
            | Message::Success { .. }
            | Message::ExtendedData { .. } => return Err(format!("it sent {message:?}")),
        }
        Ok(())
    }

    /// The conversation that this message belongs to, if it may send one.
    fn sender_of(&mut self, what: &str, theirs: u32) -> Result<&mut Conversation, String> {
        let Some(pipe) = &self.pipe else { return Err("no pipe".into()) };
        let mut found = pipe
            .channels
            .iter()
            .filter(|(_, c)| c.theirs == theirs && !matches!(c.phase, Phase::Opening { .. }));
        let Some((&ours, channel)) = found.next() else {
            return Err(format!("it sent {what} to {theirs}, which is no channel"));
        };
        ensure!(
            channel.phase == Phase::Open && !channel.closed && !channel.violated,
            "it sent {what} on channel {ours}, which is closed"
        );
        ensure!(!self.event.owed_closes.contains(&ours) || what != "data", "{what} after a hangup");
        let owner = channel.owner;
        if owner.is_none() {
            let taken = self.event.taken.iter_mut().find(|(channel, ..)| *channel == ours);
            return match taken {
                Some((_, conversation, _)) => Ok(conversation),
                None => Err(format!("it sent {what} on a channel that nobody has")),
            };
        }
        match owner.and_then(|id| self.client(id)).map(|client| &mut client.state) {
            Some(State::Established(c)) if c.channel == ours => Ok(c),
            _ => Err(format!("it sent {what} for a client without a conversation")),
        }
    }

    fn sent_close(&mut self, theirs: u32) -> Verdict {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut found = pipe
            .channels
            .iter_mut()
            .filter(|(_, c)| c.theirs == theirs && !matches!(c.phase, Phase::Opening { .. }));
        let Some((&ours, channel)) = found.next() else {
            return Err(format!("it closed {theirs}, which is no channel"));
        };
        ensure!(channel.phase == Phase::Open, "a second CLOSE on channel {ours}");
        let owner = channel.owner;
        if channel.closed {
            pipe.channels.remove(&ours);
            return Ok(());
        }
        channel.phase = Phase::Closing;
        if channel.violated {
            channel.violated = false;
            channel.owner = None;
            return Ok(());
        }
        let Some(id) = owner else { return Err(format!("it closed {ours} for nobody")) };
        self.parts(ours, id)?;
        let asked = self.event.owed_closes.remove(&ours) || self.event.controlled.contains(&id);
        ensure!(asked, "it closed channel {ours}, and nobody hung up");
        self.enter(id, State::Teardown(ours));
        Ok(())
    }

    /// A user closes a channel: what it has on the way counts until it has arrived,
    /// which our engine asks for where it is much.
    fn parts(&mut self, ours: u32, id: ClientId) -> Verdict {
        let floor = self.floor();
        let Some(c) = self.conversation(id) else { return Ok(()) };
        let parting = (c.unacknowledged, c.asks.len());
        let parted = self.event.parted.remove(&ours);
        ensure!(
            !self.ours || parted == (parting.0 > floor),
            "it closed channel {ours} with {} bytes on the way, asked: {parted}",
            parting.0
        );
        if parted && let Some(channel) = self.channel(ours) {
            channel.parting = Some(parting);
        }
        Ok(())
    }

    /// What waited for the pipe goes when there is room, whatever the event is.
    fn not_an_answer(&mut self, bytes: &[u8]) {
        if let Some(pipe) = self.pipe.as_mut().filter(|_| self.event.heard) {
            pipe.answers -= bytes.len() as u64;
        }
    }

    fn sent_global(&mut self, request: Global<'_>, bytes: &[u8], seen: &Seen<'_>) -> Verdict {
        let (place, bind) = match request {
            Global::TcpipForward { address, port } => (Place::Tcp(address.into(), port), true),
            Global::StreamlocalForward { path } => (Place::Unix(path.into()), true),
            Global::CancelTcpipForward { address, port } => {
                (Place::Tcp(address.into(), port), false)
            }
            Global::CancelStreamlocalForward { path } => (Place::Unix(path.into()), false),
            Global::Other { .. } => return Err(format!("it asked for {request:?}")),
        };
        if bind {
            self.serial += 1;
            let serial = self.serial;
            let owner = self.announcer(&place, seen);
            if let Some(id) = owner {
                // One that was not announced again yet may have begun anew.
                let anew = seen.client(id).is_some_and(|info| info.state == ClientState::Dialing);
                match self.client(id).map(|client| &mut client.state) {
                    Some(State::Listen(listener)) if listener.bound == Bound::No && !anew => {
                        listener.bound = Bound::Asked(serial);
                        self.not_an_answer(bytes);
                    }
                    _ => {
                        self.quit(id);
                        self.enter(id, State::Announcing { serial });
                    }
                }
            }
            if let Some(pipe) = &mut self.pipe {
                pipe.awaited.push_back(Awaited::Bind { owner, serial, place });
            }
            return Ok(());
        }
        if let Some(pipe) = &mut self.pipe {
            pipe.awaited.push_back(Awaited::Cancel);
        }
        if let Some(at) = self.event.owed_cancels.iter().position(|owed| *owed == place) {
            self.event.owed_cancels.remove(at);
            return Ok(());
        }
        let hung_up = self.clients.values().find_map(|client| match &client.state {
            State::Listen(l) if l.place == place && l.bound == Bound::Yes => Some(client.id),
            _ => None,
        });
        match hung_up.filter(|id| self.event.controlled.contains(id)) {
            Some(id) => self.enter(id, State::Closed),
            None => return Err(format!("it cancelled {place:?}, which nobody asked for")),
        };
        Ok(())
    }

    /// A call for an address that is announced is refused only for want of place.
    fn may_refuse(&self, theirs: u32, seen: &Seen<'_>) -> Verdict {
        let Some((_, id)) = self.event.called.filter(|(called, _)| *called == theirs) else {
            return Ok(());
        };
        let Some(State::Listen(listener)) = self.known(id).map(|client| &client.state) else {
            return Ok(());
        };
        let here = seen.client(id).map_or(0, |info| info.calls);
        let all: u32 = seen.clients.iter().map(|info| info.calls).sum();
        // No call outlives the pipe, and answering may have been too much for it.
        let fails = seen.effects.iter().any(|effect| matches!(effect, Effect::Fail(_)));
        let full = fails || here >= self.limits.backlog || all >= self.limits.calls;
        let taken = !listener.listens.is_empty() && !self.crowded(0);
        ensure!(full && !taken, "it refused a call for {}", listener.place.shown());
        Ok(())
    }

    /// Who dials this target in this event.
    fn dialer(&mut self, target: &str, seen: &Seen<'_>) -> Option<ClientId> {
        let dials = |id: ClientId| {
            seen.client(id)
                .is_some_and(|info| info.state == ClientState::Dialing && info.remote == target)
        };
        // Who dialed before goes on with that, unless it is told otherwise now.
        let free = |id: &ClientId| {
            let told = matches!(seen.call, Call::Control(_, client, _) if client == id);
            let state = self.known(*id).map(|client| &client.state);
            told || !matches!(state, Some(State::Dialing(Some(_), _)))
        };
        let able = self.event.controlled.iter().copied().filter(free);
        let able: Vec<_> = able.filter(|id| dials(*id)).collect();
        if !able.is_empty() {
            return self.one_of(&able);
        }
        let mut waiting = self
            .clients
            .values()
            .filter(|client| matches!(client.state, State::Dialing(None, _)) && dials(client.id));
        waiting.next().map(|client| client.id)
    }

    /// Who announces this place in this event.
    fn announcer(&mut self, place: &Place, seen: &Seen<'_>) -> Option<ClientId> {
        let shown = place.shown();
        let announces = |id: &ClientId| {
            seen.client(*id)
                .is_some_and(|info| info.state == ClientState::Dialing && info.local == shown)
        };
        let able: Vec<_> = self.event.controlled.iter().copied().filter(announces).collect();
        if !able.is_empty() {
            return self.one_of(&able);
        }
        let mut waiting = self.clients.values().filter(|client| match &client.state {
            State::Listen(l) => l.place == *place && l.bound == Bound::No,
            _ => false,
        });
        waiting.next().map(|client| client.id)
    }

    /// Two clients that do the same in one event can't be told apart.
    fn one_of(&mut self, able: &[ClientId]) -> Option<ClientId> {
        self.blind |= able.len() > 1;
        able.first().copied()
    }
}

/// Takes so many bytes off the window, or says which rule they break.
fn accept(c: &mut Conversation, length: usize, packet: u32) -> Result<(), &'static str> {
    if c.ended {
        return Err("data after EOF");
    }
    if length > packet as usize {
        return Err("a packet that is too large");
    }
    let Some(open) = c.open.checked_sub(length as u32) else {
        return Err("data past the window");
    };
    c.open = open;
    Ok(())
}
