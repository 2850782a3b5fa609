//! What has to hold at the end of a request, and at the end of an event.

use sshnet_core::message::reason;
use sshnet_core::{
    ClientId, ClientInfo, ClientState, Error, ErrorCode, Outcome, Reply, Statistics,
};

use super::{Bound, Call, Client, Kind, Model, Phase, Request, Seen, State, Verdict, ensure};

/// Text that is shown to people.
pub(super) fn printable(text: &str, most: usize) -> Verdict {
    ensure!(!text.chars().any(char::is_control), "control characters in {text:?}");
    ensure!(text.len() <= most, "{} bytes of text: {text}", text.len());
    ensure!(!text.is_empty(), "no text");
    Ok(())
}

impl Model {
    /// A request ended.
    pub(super) fn completed(
        &mut self,
        request: u64,
        outcome: &Outcome,
        seen: &Seen<'_>,
    ) -> Verdict {
        let Some(made) = self.requests.remove(&request) else {
            return Err(format!("request {request} was completed and does not wait"));
        };
        if self.blind {
            return self.completed_blindly(made, outcome);
        }
        if let Err(error) = outcome {
            printable(&error.message, 120)?;
            self.may_fail(request, made, error, seen)?;
        }
        let result = match (made.kind, outcome) {
            (Kind::Clone, Ok(Reply::Client(id))) => {
                let Call::Clone(_, protocol) = seen.call else {
                    return Err("a clone that waited".into());
                };
                let client = Client {
                    id: *id,
                    protocol: *protocol,
                    references: 1,
                    state: State::Closed,
                    since: self.now,
                };
                self.created(client)
            }
            (Kind::Clone | Kind::Control { .. }, Err(_)) => Ok(()),
            (Kind::Control { .. }, Ok(Reply::Done)) => Ok(()),
            (Kind::Read { count }, outcome) => self.read(request, made.client, count, outcome),
            (Kind::Write { empty }, outcome) => self.wrote(request, made.client, empty, outcome),
            (Kind::Listen, outcome) => self.listened(request, made.client, outcome),
            (kind, outcome) => Err(format!("{kind:?} was answered with {outcome:?}")),
        };
        result.map_err(|why| format!("request {request}: {why}"))
    }

    /// A session in which channels can't be told apart: who has which client is
    /// still known.
    fn completed_blindly(&mut self, made: Request, outcome: &Outcome) -> Verdict {
        if let Ok(Reply::Client(id)) = outcome {
            let protocol = sshnet_core::Protocol::Tcp;
            let state = State::Closed;
            let client = Client { id: *id, protocol, references: 1, state, since: self.now };
            self.next.insert(id.number, id.incarnation.wrapping_add(1));
            self.clients.insert(id.number, client);
        }
        if let (Kind::Read { count }, Ok(Reply::Data(data))) = (made.kind, outcome) {
            ensure!(data.len() <= count as usize, "more bytes than asked for");
        }
        Ok(())
    }

    /// Whether this error is one that the request may have.
    fn may_fail(&self, request: u64, made: Request, error: &Error, seen: &Seen<'_>) -> Verdict {
        let known = made.client.is_none_or(|id| self.known(id).is_some());
        // What waits for a conversation ends as its dial does.
        let refused = self.event.refused.filter(|(id, _)| made.client == Some(*id));
        let fits = match error.code {
            code if let Some((_, why)) = refused => code == refusal(why),
            ErrorCode::Interrupted => self.event.flushed == Some(request),
            ErrorCode::Canceled => self.ended,
            ErrorCode::NoEntry => !known,
            ErrorCode::TimedOut => self.event.timed_out,
            ErrorCode::ResourceExhausted => match made.kind {
                Kind::Clone | Kind::Listen => {
                    self.crowded(0) || self.requests.len() >= self.limits.requests as usize
                }
                Kind::Read { .. } => self.requests.len() >= self.limits.requests as usize,
                // Judged where it was made.
                Kind::Write { .. } | Kind::Control { .. } => true,
            },
            ErrorCode::NetworkDown => match made.client.and_then(|id| self.known(id)) {
                Some(client) => match &client.state {
                    State::Finished(c) => c.broken,
                    _ => self.pipe.is_none() || matches!(made.kind, Kind::Control { .. }),
                },
                None => false,
            },
            ErrorCode::IsConnected => {
                matches!(made.kind, Kind::Control { .. })
            }
            ErrorCode::ConnectionRefused | ErrorCode::AccessDenied | ErrorCode::NotSupported => {
                false
            }
            ErrorCode::AddressInUse => {
                matches!(made.kind, Kind::Control { .. } | Kind::Listen)
            }
            ErrorCode::InvalidArgument => {
                matches!(made.kind, Kind::Control { .. } | Kind::Listen)
            }
            // Who waited has waited for something.
            ErrorCode::NotConnected => match seen.call {
                Call::Read(made, ..) | Call::Write(made, ..) => *made == request,
                _ => matches!(made.kind, Kind::Control { .. }),
            },
            ErrorCode::HungUp | ErrorCode::ConnectionReset => true,
            ErrorCode::Other => true,
        };
        let at = seen.call;
        ensure!(
            fits,
            "request {request} ({:?}) failed with {error:?} at {:.60}",
            made.kind,
            at.to_string()
        );
        Ok(())
    }

    /// Whether so many more clients than there are would be too many.
    pub(super) fn crowded(&self, more: usize) -> bool {
        let orphans = self.pipe.as_ref().map_or(0, |pipe| {
            pipe.channels.values().filter(|c| c.owner.is_none() && !c.closed).count()
        });
        self.clients.len() + orphans + more >= self.limits.clients as usize
    }

    fn created(&mut self, client: Client) -> Verdict {
        let ClientId { number, incarnation } = client.id;
        ensure!(!self.clients.contains_key(&number), "number {number} is in use");
        let lowest = (0..).find(|n| !self.clients.contains_key(n));
        ensure!(lowest == Some(number), "number {number} is not the lowest free one");
        let next = self.next.entry(number).or_default();
        ensure!(*next == incarnation, "incarnation {incarnation}, not {next}");
        *next = next.wrapping_add(1);
        ensure!(!self.crowded(0), "a client past the limit");
        self.clients.insert(number, client);
        Ok(())
    }

    fn read(
        &mut self,
        request: u64,
        id: Option<ClientId>,
        count: u32,
        outcome: &Outcome,
    ) -> Verdict {
        let flushed = self.event.flushed == Some(request);
        let Some(c) = id.and_then(|id| self.conversation(id)) else {
            ensure!(outcome.is_err(), "bytes from a client without a conversation");
            return Ok(());
        };
        let at = c.reads.iter().position(|r| *r == request);
        match outcome {
            Ok(Reply::Data(data)) if count == 0 => {
                ensure!(data.is_empty(), "bytes for a read of none");
            }
            Ok(Reply::Data(data)) => {
                ensure!(at == Some(0), "it is not the oldest read");
                ensure!(data.len() <= count as usize, "more bytes than asked for");
                ensure!(data.len() <= c.inbound.len(), "more bytes than came");
                let expected = c.inbound.drain(..data.len());
                ensure!(expected.eq(data.iter().copied()), "not the bytes that came");
                ensure!(!data.is_empty() || (c.ended && c.inbound.is_empty()), "an early end");
            }
            Ok(other) => return Err(format!("a read was answered with {other:?}")),
            Err(error) => {
                let gone = matches!(
                    error.code,
                    ErrorCode::HungUp
                        | ErrorCode::Canceled
                        | ErrorCode::Interrupted
                        | ErrorCode::ResourceExhausted
                );
                ensure!(gone || c.inbound.is_empty(), "{error} before {} bytes", c.inbound.len());
                ensure!(gone || !c.ended, "{error} instead of the end of file");
                ensure!(gone || at == Some(0) || flushed, "it is not the oldest read");
            }
        }
        if let Some(at) = at {
            c.reads.remove(at);
        }
        Ok(())
    }

    fn wrote(
        &mut self,
        request: u64,
        id: Option<ClientId>,
        empty: bool,
        outcome: &Outcome,
    ) -> Verdict {
        let written = self.event.written.remove(&request);
        let flushed = self.event.flushed == Some(request);
        let c = id.and_then(|id| self.conversation(id));
        let waits = c.and_then(|c| {
            let at = c.writes.iter().position(|(r, ..)| *r == request)?;
            c.writes.remove(at)
        });
        match (outcome, written, waits) {
            (Ok(Reply::Count(count)), Some(length), _) => {
                ensure!(*count as usize == length, "{count} bytes written of {length}");
            }
            (Ok(Reply::Count(0)), None, None) if empty => {}
            (Ok(Reply::Count(count)), None, Some((_, _, sent))) if flushed => {
                ensure!(*count as usize == sent && sent > 0, "{count} bytes written, not {sent}");
            }
            (Err(_), None, waits) => {
                let sent = waits.map_or(0, |(_, _, sent)| sent);
                ensure!(!flushed || sent == 0, "interrupted with {sent} bytes sent");
            }
            (outcome, written, _) => {
                return Err(format!("a write with {written:?} sent was answered {outcome:?}"));
            }
        }
        Ok(())
    }

    fn listened(&mut self, request: u64, id: Option<ClientId>, outcome: &Outcome) -> Verdict {
        let listener =
            id.and_then(|id| self.client(id)).map(|client| (client.protocol, &mut client.state));
        let Some((protocol, State::Listen(listener))) = listener else {
            ensure!(outcome.is_err(), "a call for a client that is not announced");
            return Ok(());
        };
        let at = listener.listens.iter().position(|r| *r == request);
        if let Some(at) = at {
            listener.listens.remove(at);
        }
        match outcome {
            Ok(Reply::Client(new)) => {
                ensure!(at == Some(0), "it is not the oldest listen");
                let place = listener.place.clone();
                let Some((channel, conversation, port)) = self.event.taken.pop_front() else {
                    return Err("a client without a call".into());
                };
                if let (super::Place::Tcp(_, bound), Some(port)) = (&place, port) {
                    ensure!(*bound == port, "a call for port {port} at {bound}");
                }
                self.figures.calls += 1;
                let state = State::Established(conversation);
                let client = Client { id: *new, protocol, references: 1, state, since: self.now };
                // Its channel is no orphan.
                if let Some(pipe) = &mut self.pipe
                    && let Some(channel) = pipe.channels.get_mut(&channel)
                {
                    channel.owner = Some(*new);
                }
                self.created(client)
            }
            Ok(other) => Err(format!("a listen was answered with {other:?}")),
            Err(_) => Ok(()),
        }
    }

    /// Takes over what control messages changed without a word to the peer.
    pub(super) fn settle(&mut self, seen: &Seen<'_>) -> Verdict {
        if let Some(id) = self.event.released {
            let state = self.known(id).map(|client| client.state.public());
            ensure!(
                self.blind || state != Some(ClientState::Established),
                "the last reference went and its channel is not closed"
            );
            self.quit(id);
            self.clients.remove(&id.number);
            self.orphaned_requests(id)?;
        }
        if self.blind {
            return Ok(());
        }
        for id in self.event.controlled.clone() {
            let (Some(client), Some(info)) = (self.known(id), seen.client(id)) else { continue };
            let waits = self.pipe.is_none() && self.limits.dial_wait > 0;
            let silent = match (&client.state, info.state) {
                (State::Listen(listener), ClientState::Closed) => listener.bound != Bound::Yes,
                (
                    State::Finished(_)
                    | State::Teardown(_)
                    | State::Dialing(..)
                    | State::Announcing { .. },
                    ClientState::Closed,
                ) => true,
                // It dials, or dials anew: those that waited are completed by now.
                (State::Dialing(None, _), ClientState::Dialing) if waits => false,
                (state, ClientState::Dialing) if waits && !state.wants_pipe() => {
                    self.quit(id);
                    self.enter(id, State::Dialing(None, Box::default()));
                    false
                }
                _ => false,
            };
            if silent {
                self.quit(id);
            }
            if let Some(client) = self.client(id) {
                client.since = info.since;
            }
        }
        Ok(())
    }

    fn orphaned_requests(&self, id: ClientId) -> Verdict {
        let left = self.requests.iter().find(|(_, made)| made.client == Some(id));
        match left {
            None => Ok(()),
            Some((request, made)) => {
                Err(format!("request {request} ({:?}) outlived its client", made.kind))
            }
        }
    }

    /// What has to hold after every event.
    pub(super) fn check(&self, seen: &Seen<'_>) -> Verdict {
        for request in &self.event.must_complete {
            // Which conversation a request belongs to can't be told when blind.
            let judged = !self.blind || self.event.flushed == Some(*request);
            ensure!(
                !judged || !self.requests.contains_key(request),
                "request {request} still waits"
            );
        }
        self.budgets(seen.figures, seen.clients)?;
        self.names(seen)?;
        if self.blind {
            return Ok(());
        }
        self.owed()?;
        for info in seen.clients {
            self.agrees(info)?;
        }
        if seen.effects.len() < 1_024 {
            for (request, made) in &self.requests {
                self.waits_rightly(*request, made)?;
            }
        }
        self.nobody_waits_in_vain(seen)?;
        self.agrees_in_figures(seen)?;
        self.wakes()
    }

    /// What this event had to bring.
    fn owed(&self) -> Verdict {
        let event = &self.event;
        ensure!(event.fault.is_none(), "it went on after {:?}", event.fault);
        ensure!(event.owed_refusals.is_empty(), "OPENs unanswered: {:?}", event.owed_refusals);
        ensure!(event.owed_failures.is_empty(), "requests unanswered: {:?}", event.owed_failures);
        ensure!(event.owed_global_failures == 0, "a global request was not answered");
        ensure!(event.owed_cancels.is_empty(), "not cancelled: {:?}", event.owed_cancels);
        ensure!(event.owed_closes.is_empty(), "not closed: {:?}", event.owed_closes);
        ensure!(!event.owed_probe, "no sign of life was asked for");
        ensure!(event.owed_trip.is_none(), "the round trip was not measured");
        ensure!(event.written.is_empty(), "sent and not completed: {:?}", event.written);
        ensure!(self.event.failed || event.taken.is_empty(), "a call was taken for nobody");
        let Some(pipe) = &self.pipe else { return Ok(()) };
        for (number, channel) in &pipe.channels {
            ensure!(!channel.closed && !channel.violated, "channel {number} is not closed");
            let begun = event.begun.contains(number) && channel.phase == Phase::Open;
            ensure!(!begun || !self.is_new(), "the round trip is not measured on {number}");
        }
        Ok(())
    }

    /// The limits that every session keeps.
    fn budgets(&self, figures: &Statistics, clients: &[ClientInfo]) -> Verdict {
        let limits = &self.limits;
        ensure!(figures.windows <= limits.windows, "windows of {} bytes", figures.windows);
        ensure!(figures.queued <= limits.queued, "{} bytes queued", figures.queued);
        ensure!(
            figures.unacknowledged <= limits.unacknowledged,
            "{} bytes unacknowledged",
            figures.unacknowledged
        );
        ensure!(clients.len() <= limits.clients as usize, "{} clients", clients.len());
        ensure!(
            u64::from(figures.channels) <= 2 * u64::from(limits.clients),
            "{} channels",
            figures.channels
        );
        ensure!(self.requests.len() <= limits.requests as usize, "too many requests wait");
        // Data, dials and announcements; answers; and what ends what each client did,
        // and a question for each.
        let most = u64::from(limits.room)
            + u64::from(limits.packet)
            + u64::from(limits.control) / 2
            + u64::from(limits.control)
            + sshnet_core::message::DATA_HEADER as u64
            + u64::from(limits.clients) * (u64::from(limits.name) + 200);
        ensure!(figures.in_pipe <= most, "{} bytes in the pipe", figures.in_pipe);
        let mut calls = 0;
        for info in clients {
            ensure!(info.calls <= limits.backlog, "{} calls wait at one client", info.calls);
            calls += info.calls;
        }
        ensure!(calls <= limits.calls, "{calls} calls wait");
        Ok(())
    }

    /// The snapshot has the clients that there are, by number.
    fn names(&self, seen: &Seen<'_>) -> Verdict {
        let there = seen.clients.iter().map(|info| (info.id, info.references));
        let known = self.clients.values().map(|client| (client.id, client.references));
        ensure!(there.eq(known), "the snapshot has other clients");
        Ok(())
    }

    /// A client's snapshot against its account.
    fn agrees(&self, info: &ClientInfo) -> Verdict {
        let Some(client) = self.known(info.id) else { return Ok(()) };
        let number = info.id.number;
        let same = |what: &str, found: u64, expected: u64| {
            ensure!(found == expected, "client {number} has {what} {found}, not {expected}");
            Ok(())
        };
        ensure!(
            info.state == client.state.public(),
            "client {number} is {:?}, not {:?}",
            info.state,
            client.state.public()
        );
        ensure!(info.protocol == client.protocol, "client {number} changed its protocol");
        if let Some(error) = &info.last_error {
            printable(error, 120)?;
        }
        let blank = Box::default();
        let (c, open) = match &client.state {
            State::Dialing(_, c) | State::Established(c) => (c, true),
            State::Finished(c) => (c, false),
            _ => (&blank, false),
        };
        same("received", info.received, c.received)?;
        same("sent", info.sent, c.sent)?;
        same("unread", info.unread, c.inbound.len() as u64)?;
        same("unsent", info.unsent, if open { c.unsent() } else { 0 })?;
        same("receive window", info.receive_window.into(), if open { c.open.into() } else { 0 })?;
        same("send window", info.send_window.into(), if open { c.window.into() } else { 0 })?;
        same("since", info.since, client.since)?;
        let requests = self.requests.values().filter(|made| made.client == Some(info.id)).count();
        same("requests", info.requests.into(), requests as u64)
    }

    /// A request that waits has something to wait for.
    fn waits_rightly(&self, request: u64, made: &Request) -> Verdict {
        let state = made.client.and_then(|id| self.known(id)).map(|client| &client.state);
        let full = self.pipe.as_ref().is_some_and(|p| p.in_pipe >= u64::from(self.limits.room));
        let right = match (made.kind, state) {
            (Kind::Control { .. }, Some(State::Announcing { .. })) => true,
            // The dial, and what ends the writing behind it.
            (Kind::Control { .. }, Some(State::Dialing(..))) => {
                made.client.is_some_and(|id| self.controls(id).count() <= 2)
            }
            (Kind::Control { .. }, Some(State::Established(c))) => {
                !c.eof_sent && (full || !c.writes.is_empty())
            }
            (Kind::Read { .. }, Some(State::Established(c))) => {
                !c.ended && c.inbound.is_empty() && c.reads.contains(&request)
            }
            (Kind::Read { .. }, Some(State::Dialing(_, c))) => c.reads.contains(&request),
            (Kind::Write { .. }, Some(State::Dialing(_, c) | State::Established(c))) => {
                c.writes.iter().any(|(r, ..)| *r == request)
            }
            (Kind::Listen, Some(State::Listen(listener))) => {
                listener.bound != Bound::Refused && listener.listens.contains(&request)
            }
            _ => false,
        };
        ensure!(right, "request {request} ({:?}) waits for nothing", made.kind);
        Ok(())
    }

    /// Who could send does, who listens gets calls, who reads everything gets
    /// window.
    fn nobody_waits_in_vain(&self, seen: &Seen<'_>) -> Verdict {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        // One event makes so many data messages at most; the next goes on.
        let many = seen.effects.len() >= 1_024;
        let room = pipe.in_pipe < u64::from(self.limits.room) && !many;
        for (id, next, goes) in self.able() {
            ensure!(
                !room || !goes,
                "client {} waits to send {next} bytes with room and window",
                id.number
            );
        }
        for client in self.clients.values() {
            let number = client.id.number;
            match &client.state {
                State::Dialing(None, _) => {
                    ensure!(!room, "client {number} waits to dial with room");
                }
                State::Established(c) => {
                    let starved = !c.ended && c.inbound.is_empty() && c.open == 0;
                    ensure!(!starved, "client {number} has read everything and grants nothing");
                }
                State::Listen(listener) => {
                    let asked = listener.bound != Bound::No;
                    ensure!(!room || asked, "client {number} waits to announce with room");
                    let calls = seen.client(client.id).map_or(0, |info| info.calls);
                    ensure!(
                        calls == 0 || listener.listens.is_empty(),
                        "client {number} has calls and listens that wait"
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn agrees_in_figures(&self, seen: &Seen<'_>) -> Verdict {
        let figures = seen.figures;
        let same = |what: &str, found: u64, expected: u64| {
            ensure!(found == expected, "{what}: {found}, not {expected}");
            Ok(())
        };
        let mut windows = 0;
        let mut unacknowledged = 0;
        for client in self.clients.values() {
            match &client.state {
                State::Established(c) => {
                    windows += u64::from(c.open) + c.inbound.len() as u64;
                    unacknowledged += c.unacknowledged;
                }
                State::Finished(c) => windows += c.inbound.len() as u64,
                _ => {}
            }
        }
        let mut channels = 0;
        let mut waiting = 0;
        let mut in_pipe = 0;
        if let Some(pipe) = &self.pipe {
            channels = pipe.channels.len() as u64;
            waiting = pipe.calls.len() as u64;
            in_pipe = pipe.in_pipe;
            for channel in pipe.channels.values() {
                unacknowledged += channel.parting.map_or(0, |(bytes, _)| bytes);
                if let (Phase::Opening { window, .. }, Some(_)) = (channel.phase, channel.owner) {
                    windows += u64::from(window);
                }
            }
        }
        let calls: u64 = seen.clients.iter().map(|info| u64::from(info.calls)).sum();
        ensure!(figures.pipe_up == self.pipe.is_some(), "pipe up: {}", figures.pipe_up);
        same("clients", figures.clients.into(), self.clients.len() as u64)?;
        same("channels", figures.channels.into(), channels)?;
        same("calls that wait", calls, waiting)?;
        same("bytes in the pipe", figures.in_pipe, in_pipe)?;
        same("windows", figures.windows, windows)?;
        same("queued", figures.queued, self.queued())?;
        same("unacknowledged", figures.unacknowledged, unacknowledged)?;
        same("messages received", figures.messages_received, self.figures.messages_received)?;
        same("messages sent", figures.messages_sent, self.figures.messages_sent)?;
        same("bytes received", figures.bytes_received, self.figures.bytes_received)?;
        same("bytes sent", figures.bytes_sent, self.figures.bytes_sent)?;
        same("calls", figures.calls, self.figures.calls)?;
        same("calls refused", figures.calls_refused, self.figures.calls_refused)
    }

    /// It asked to be woken when something is due.
    fn wakes(&self) -> Verdict {
        let keepalive = self.limits.keepalive;
        let alive = self
            .pipe
            .as_ref()
            .filter(|_| keepalive > 0)
            .map(|pipe| pipe.probed.unwrap_or(pipe.heard).saturating_add(keepalive));
        let due = self.deadlines().into_iter().map(|(at, _)| at).chain(alive).min();
        match (due, self.wake) {
            (Some(due), wake) => {
                ensure!(wake.is_some_and(|at| at <= due), "due at {due}, wakes at {wake:?}");
                ensure!(due > self.now, "due at {due}, and it is {}", self.now);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }
}

/// How a dial fails that the far side refuses for this reason (RFC 4254 section 5.1).
fn refusal(why: u32) -> ErrorCode {
    match why {
        reason::PROHIBITED => ErrorCode::AccessDenied,
        reason::CONNECT_FAILED => ErrorCode::ConnectionRefused,
        reason::UNKNOWN_TYPE => ErrorCode::NotSupported,
        reason::RESOURCE_SHORTAGE => ErrorCode::ResourceExhausted,
        _ => ErrorCode::Other,
    }
}
