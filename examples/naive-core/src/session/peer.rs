//! What the peer says.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use core::mem::take;

use super::{Bound, Call, Channel, Client, Listener, Phase, Pipe, Session, State, Talk};
use crate::message::{Message, MessageError, Open, reason};
use crate::text::{Place, error, printable};
use crate::types::{ClientId, Error, ErrorCode};

impl Session {
    /// A message came in.
    pub fn receive(&mut self, bytes: &[u8]) {
        let now = self.now;
        let Some(pipe) = &mut self.pipe else {
            return self.warn("a message came without a pipe");
        };
        pipe.heard = now;
        pipe.probed = None;
        self.counted.messages_received += 1;
        let fault = match Message::decode(bytes) {
            Ok(message) => self.hear(message).err(),
            Err(MessageError::UnknownType(kind)) => {
                return self.warn(&format!("message of unknown type {kind}"));
            }
            Err(why) => Some(why.to_string()),
        };
        if let Some(why) = fault {
            return self.fail(&format!("the far side sent a message that is out of place: {why}"));
        }
        let control = u64::from(self.limits.control);
        let most = u64::from(self.limits.room) + u64::from(self.limits.packet) + control;
        let floods = |pipe: &Pipe| pipe.answers > control && pipe.in_pipe > most;
        if self.pipe.as_ref().is_some_and(floods) {
            self.fail("the far side asks for answers and does not read them");
        }
    }

    pub(super) fn hear(&mut self, message: Message<'_>) -> Result<(), String> {
        match message {
            Message::GlobalRequest { want_reply: true, .. } => self.answer(Message::RequestFailure),
            Message::GlobalRequest { .. } => self.warn("a global request is passed over"),
            Message::RequestSuccess { data } => self.answered(Some(data)),
            Message::RequestFailure => self.answered(None),
            Message::Open { sender, window, packet, kind } => {
                self.called(sender, window, packet, kind);
            }
            Message::OpenConfirmation { recipient, sender, window, packet, .. } => {
                let owner = self.opening(recipient)?;
                self.confirmed(recipient, owner, sender, window, packet);
            }
            Message::OpenFailure { recipient, reason, description, .. } => {
                let owner = self.opening(recipient)?;
                if let Some(id) = owner {
                    self.hang_up(id, &refusal(reason, description));
                }
                self.remove_channel(recipient);
            }
            Message::WindowAdjust { recipient, .. } if self.channel(recipient).is_none() => {
                self.warn("a window adjustment came for no channel");
            }
            Message::WindowAdjust { recipient, bytes } => self.on_open(recipient, |talk, _| {
                let past = "the far side raised the window past 2^32-1";
                talk.window = talk.window.checked_add(bytes).ok_or(past)?;
                talk.acknowledge(bytes.into());
                Ok(())
            })?,
            Message::Data { recipient, data } => {
                let mut taken = 0;
                self.on_open(recipient, |talk, packet| {
                    talk.take_window(data.len(), packet)?;
                    talk.inbox.extend(data);
                    taken = data.len() as u64;
                    talk.received += taken;
                    Ok(())
                })?;
                self.counted.bytes_received += taken;
            }
            Message::ExtendedData { recipient, data, .. } => {
                self.on_open(recipient, |talk, packet| talk.take_window(data.len(), packet))?;
            }
            Message::Eof { recipient } => self.on_open(recipient, |talk, _| {
                talk.end.get_or_insert(Ok(()));
                talk.open = 0;
                Ok(())
            })?,
            Message::Close { recipient } => self.closed(recipient)?,
            Message::Request { recipient, want_reply, .. } => {
                let mut theirs = None;
                self.on_open(recipient, |talk, _| {
                    theirs = Some(talk.theirs);
                    Ok(())
                })?;
                if let Some(recipient) = theirs.filter(|_| want_reply) {
                    self.answer(Message::Failure { recipient });
                }
            }
            Message::Success { recipient } | Message::Failure { recipient } => {
                let mut unasked = false;
                self.on_open(recipient, |talk, _| {
                    match talk.asks.pop_front() {
                        Some(true) => talk.acknowledge(talk.asked),
                        Some(false) => {}
                        None => unasked = true,
                    }
                    Ok(())
                })?;
                if unasked {
                    self.warn("an answer came to no channel request");
                }
            }
        }
        Ok(())
    }

    pub(super) fn channel(&self, ours: u32) -> Option<Channel> {
        self.pipe.as_ref()?.channels.get(&ours).copied()
    }

    pub(super) fn remove_channel(&mut self, ours: u32) {
        if let Some(pipe) = &mut self.pipe {
            pipe.channels.remove(&ours);
        }
    }

    /// Who waits for an answer on this channel.
    pub(super) fn opening(&self, ours: u32) -> Result<Option<ClientId>, String> {
        match self.channel(ours) {
            Some(Channel { phase: Phase::Opening, owner, .. }) => Ok(owner),
            _ => Err(format!("an answer for channel {ours}")),
        }
    }

    /// Something for the conversation on an open channel. What breaks a rule closes
    /// the channel; what comes after our CLOSE is passed over.
    pub(super) fn on_open(
        &mut self,
        ours: u32,
        apply: impl FnOnce(&mut Talk, u32) -> Result<(), &'static str>,
    ) -> Result<(), String> {
        let packet = self.limits.packet;
        let owner = match self.channel(ours) {
            Some(Channel { phase: Phase::Open, owner: Some(owner), .. }) => owner,
            Some(Channel { phase: Phase::Closing, .. }) => return Ok(()),
            _ => return Err(format!("something for channel {ours}")),
        };
        let Some(talk) = self.talk(owner) else { return Ok(()) };
        let theirs = talk.theirs;
        match apply(talk, packet) {
            Ok(()) => self.serve(owner),
            Err(rule) => {
                self.warn(rule);
                self.answer(Message::Close { recipient: theirs });
                self.set_channel(ours, Phase::Closing, None);
                self.finish(owner, &error(ErrorCode::Other, rule));
            }
        }
        Ok(())
    }

    pub(super) fn closed(&mut self, ours: u32) -> Result<(), String> {
        let now = self.now;
        match self.channel(ours) {
            Some(Channel { phase: Phase::Open, owner: Some(owner), theirs }) => {
                self.answer(Message::Close { recipient: theirs });
                self.remove_channel(ours);
                self.finish(owner, &error(ErrorCode::ConnectionReset, "connection closed"));
            }
            Some(Channel { phase: Phase::Closing, owner, .. }) => {
                self.remove_channel(ours);
                if let Some(Ok(client)) = owner.map(|id| self.client(id))
                    && matches!(client.state, State::Teardown(channel) if channel == ours)
                {
                    client.enter(State::Closed, now);
                }
            }
            _ => return Err(format!("a close of channel {ours}")),
        }
        Ok(())
    }

    pub(super) fn confirmed(
        &mut self,
        ours: u32,
        owner: Option<ClientId>,
        theirs: u32,
        window: u32,
        packet: u32,
    ) {
        if let Some(channel) = self.pipe.as_mut().and_then(|pipe| pipe.channels.get_mut(&ours)) {
            channel.theirs = theirs;
        }
        let Some(id) = owner.filter(|_| packet > 0) else {
            if let Some(id) = owner {
                self.hang_up(id, &error(ErrorCode::Other, "the far side accepts no data"));
            }
            self.answer(Message::Close { recipient: theirs });
            return self.set_channel(ours, Phase::Closing, None);
        };
        self.set_channel(ours, Phase::Open, owner);
        let (now, open) = (self.now, self.window());
        let Ok(client) = self.client(id) else { return };
        if let State::Dialing { control, early, .. } = client.enter(State::Closed, now) {
            let talk = Talk { channel: ours, theirs, window, packet, open, ..early };
            client.state = State::Established(talk);
            self.counted.dials += 1;
            self.run(id, control);
        }
    }

    /// The answer to our oldest global request.
    pub(super) fn answered(&mut self, success: Option<&[u8]>) {
        let Some(awaited) = self.pipe.as_mut().and_then(|pipe| pipe.awaited.pop_front()) else {
            return self.warn("an answer came to no global request");
        };
        let Some((place, id, serial)) = awaited else { return };
        let told = place.to_string();
        let bound = match (place, success) {
            (_, None) => Err(error(
                ErrorCode::AddressInUse,
                &format!("the far side would not announce {told}"),
            )),
            (Place::Tcp(address, 0), Some(data)) => {
                let port = data.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                match u16::try_from(port) {
                    Ok(port) if port > 0 => Ok(Place::Tcp(address, port)),
                    _ => Err(error(ErrorCode::Other, "the far side did not say which port")),
                }
            }
            (place, Some(_)) => Ok(place),
        };
        let now = self.now;
        match self.client(id).map(|client| &mut client.state) {
            Ok(State::Announcing { serial: asked, .. }) if *asked == serial => {
                let bound = bound.and_then(|place| self.unclaimed(id, place, false));
                let place = match bound {
                    Ok(place) => place,
                    Err(why) => return self.hang_up(id, &why),
                };
                let Ok(client) = self.client(id) else { return };
                client.local = place.to_string();
                let (calls, listens) = (VecDeque::new(), VecDeque::new());
                let listener = Listener { place, bound: Bound::Yes, calls, listens };
                if let State::Announcing { control, .. } =
                    client.enter(State::Listen(listener), now)
                {
                    self.run(id, control);
                }
            }
            Ok(State::Listen(Listener { bound: Bound::Asked(asked), .. })) if *asked == serial => {
                let bound = bound.and_then(|place| self.unclaimed(id, place, true));
                let Ok(client) = self.client(id) else { return };
                let State::Listen(listener) = &mut client.state else { return };
                match bound {
                    Ok(_) => {
                        listener.bound = Bound::Yes;
                        client.last_error = None;
                    }
                    Err(why) => {
                        listener.bound = Bound::Refused(why.clone());
                        client.last_error = Some(why.message.clone());
                        let listens = take(&mut listener.listens);
                        self.end_requests(listens, &why);
                    }
                }
            }
            _ => {
                if let Ok(place) = bound {
                    self.cancel(&place);
                }
            }
        }
    }

    /// What was bound for a client, unless another has it. Of two that ask again the
    /// first that gets it has it.
    pub(super) fn unclaimed(
        &self,
        id: ClientId,
        place: Place,
        again: bool,
    ) -> Result<Place, Error> {
        let taken = self.clients.values().any(|client| match &client.state {
            State::Listen(l) if client.id != id && l.place == place => match l.bound {
                Bound::Yes => true,
                Bound::Refused(_) => false,
                Bound::No | Bound::Asked(_) => !again,
            },
            _ => false,
        });
        let why = format!("the far side bound {place} twice");
        if taken { Err(error(ErrorCode::Other, &why)) } else { Ok(place) }
    }

    pub(super) fn refuse(&mut self, recipient: u32, reason: u32, why: &str) {
        self.counted.calls_refused += 1;
        let (description, language) = (why.as_bytes(), b"en");
        self.answer(Message::OpenFailure { recipient, reason, description, language });
    }

    /// A channel is asked for: a call.
    pub(super) fn called(&mut self, theirs: u32, window: u32, packet: u32, kind: Open<'_>) {
        let (listener, local, remote) = match kind {
            Open::ForwardedTcpip { address, port, originator, originator_port } => (
                self.listener(address, port),
                format!("{}!{port}", shown(address)),
                format!("{}!{originator_port}", shown(originator)),
            ),
            Open::ForwardedStreamlocal { path } => {
                let at = |place: &Place| matches!(place, Place::Unix(p) if p.as_bytes() == path);
                (self.only_listener(at), printable(path), "/".into())
            }
            Open::DirectTcpip { .. }
            | Open::DirectStreamlocal { .. }
            | Open::Other { name: b"session", .. } => {
                return self.refuse(theirs, reason::PROHIBITED, "not a server");
            }
            Open::Other { name, .. } if name.starts_with(b"direct-") => {
                return self.refuse(theirs, reason::PROHIBITED, "not a server");
            }
            Open::Other { .. } => {
                return self.refuse(theirs, reason::UNKNOWN_TYPE, "unknown channel type");
            }
        };
        let crowded = self.used() >= self.limits.clients;
        let waiting: u32 = self.clients().iter().map(|info| info.calls).sum();
        let full = waiting >= self.limits.calls;
        let backlog = self.limits.backlog as usize;
        let Some(id) = listener else {
            return self.refuse(theirs, reason::PROHIBITED, "nothing is announced there");
        };
        let Ok(Client { state: State::Listen(listener), .. }) = self.client(id) else { return };
        if packet == 0 {
            return self.refuse(theirs, reason::CONNECT_FAILED, "maximum packet size of 0");
        }
        let waits = listener.listens.is_empty() || crowded;
        if waits && (full || listener.calls.len() >= backlog) {
            return self.refuse(theirs, reason::RESOURCE_SHORTAGE, "too many calls wait");
        }
        listener.calls.push_back(Call { theirs, window, packet, local, remote });
        self.match_calls(id);
    }

    /// Who takes calls at such a place, if it is one.
    pub(super) fn only_listener(&self, fits: impl Fn(&Place) -> bool) -> Option<ClientId> {
        let mut able = self.clients.values().filter(|client| match &client.state {
            State::Listen(l) => matches!(l.bound, Bound::Yes) && fits(&l.place),
            _ => false,
        });
        let first = able.next()?.id;
        able.next().is_none().then_some(first)
    }

    /// Who is meant by an address as the peer spells it.
    pub(super) fn listener(&self, address: &[u8], port: u32) -> Option<ClientId> {
        const EVERY: [&str; 3] = ["", "0.0.0.0", "::"];
        const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
        let (address, port) = (core::str::from_utf8(address).ok()?, u16::try_from(port).ok()?);
        let at = |fits: &dyn Fn(&str) -> bool| {
            self.only_listener(|place| matches!(place, Place::Tcp(a, p) if *p == port && fits(a)))
        };
        at(&|a| a == address).or_else(|| {
            if EVERY.contains(&address) {
                return at(&|_| true);
            }
            let here = HERE.contains(&address);
            at(&|a| EVERY.contains(&a) || here && HERE.contains(&a))
        })
    }
}

/// Why a dial failed: in the far side's words where it has any.
fn refusal(code: u32, words: &[u8]) -> Error {
    let (code, name) = match code {
        reason::PROHIBITED => (ErrorCode::AccessDenied, "prohibited"),
        reason::CONNECT_FAILED => (ErrorCode::ConnectionRefused, "connect failed"),
        reason::UNKNOWN_TYPE => (ErrorCode::NotSupported, "unknown channel type"),
        reason::RESOURCE_SHORTAGE => (ErrorCode::ResourceExhausted, "resource shortage"),
        _ => (ErrorCode::Other, "refused by the far side"),
    };
    Error { code, message: printable(if words.is_empty() { name.as_bytes() } else { words }) }
}

/// What the peer says of an address, as `local` and `remote` show it.
fn shown(address: &[u8]) -> String {
    if address.is_empty() { "*".into() } else { printable(address).replace('!', "\\x21") }
}
