//! Who may send when.
//!
//! Data messages are made only while the pipe has room, and so is what waited for
//! the pipe, which goes first. Those who have data to send take turns, one message each, so that a bulk upload cannot starve a
//! keystroke. What is sent and not acknowledged has a limit for the session as a
//! whole, which they share: see [`Budget`](crate::window::Budget). Who needs more
//! than there is waits; the one who needs least is the first to go on.
//!
//! A peer acknowledges by giving window, and one that gave much at the start may
//! not do so for a long time. Who waits at the limit therefore asks: every peer
//! must answer a channel request, and answers a channel's messages in order (RFC
//! 4254 sections 4 and 5.4), so its answer says that what was sent before is no
//! longer on the way.

use alloc::vec::Vec;

use super::Session;
use crate::client::{Conversation, Outgoing, State};
use crate::effect::{ClientId, Reply};
use crate::message::{self, Message};
use crate::table::Parting;
use crate::window::Grant;

/// How many data messages one event makes at most. Small packets are the peer's
/// choice, and a room full of them must not make one event endless. The host owes
/// a `pipe-took` for what was made, and then it goes on.
const BURST: u32 = 1_024;

impl Session {
    /// Has those who waited for a pipe ask for what they want, while it has room:
    /// who does not know the peer yet must not flood it.
    pub(super) fn wake_asleep(&mut self) {
        while self.out.in_pipe < u64::from(self.limits.room)
            && let Some(id) = self.pipe.as_mut().and_then(|pipe| pipe.asleep.pop())
        {
            self.resume(id);
        }
    }

    /// Lets those send who have something to send, until the pipe is full.
    pub(super) fn send_in_turn(&mut self) {
        if self.pipe.is_none() {
            return;
        }
        let mut burst = 0;
        while burst < BURST && self.out.in_pipe < u64::from(self.limits.room) {
            let Some(id) = self.turn.pop_front().or_else(|| self.fed()) else { return };
            let before = self.out.in_pipe;
            self.send_one(id);
            burst += u32::from(self.out.in_pipe > before);
        }
    }

    /// Sends one message of a conversation.
    fn send_one(&mut self, id: ClientId) {
        let Ok(client) = self.clients.get_mut(id) else { return };
        client.in_turn = false;
        let State::Established(c) = &mut client.state else { return };
        if c.writes.is_empty() {
            if let Outgoing::Ending(_) = c.outgoing {
                let ended = core::mem::replace(&mut c.outgoing, Outgoing::Ended);
                self.out.send(&Message::Eof { recipient: c.peer.0 });
                if let Outgoing::Ending(control) = ended {
                    self.run(id, control);
                }
            }
            return;
        }
        let unsent = u32::try_from(c.unsent).unwrap_or(u32::MAX);
        let count = c.send.sendable().min(unsent);
        if count == 0 {
            // It gets a turn when the peer opens the window.
            return;
        }
        let count = match c.send.share(count, &self.uploads) {
            Ok(count) => count,
            Err(need) => {
                self.starved.insert(need, id);
                if c.awaits_arrival.is_none()
                    && let Some(pipe) = &mut self.pipe
                {
                    c.send.ask();
                    let answers = self.out.ask(id, c, &mut pipe.path.trip, self.now);
                    c.awaits_arrival = Some(answers);
                }
                return;
            }
        };
        let mut bytes: Vec<u8> = message::data_header(c.peer.0, count);
        let out = &mut self.out;
        let mut done: Vec<(u64, u32)> = Vec::new();
        c.take_writes(count, &mut self.uploads, &mut bytes, |request, sent| {
            done.push((request, sent))
        });
        out.send_bytes(bytes);
        for (request, sent) in done {
            out.complete(request, Ok(Reply::Count(sent)));
        }
        out.statistics.bytes_sent += u64::from(count);
        self.queued = self.queued.saturating_sub(u64::from(count));
        if c.wants_turn() {
            client.in_turn = true;
            self.turn.push_back(id);
        }
        self.feed_starved();
    }

    /// A conversation may have something to send now.
    pub(super) fn give_turn(&mut self, id: ClientId) {
        if let Ok(client) = self.clients.get_mut(id)
            && let State::Established(c) = &mut client.state
            && c.wants_turn()
            && !client.in_turn
        {
            self.starved.remove(id);
            client.in_turn = true;
            self.turn.push_back(id);
        }
    }

    /// A conversation is closed by us: what it has on the way counts for all the same
    /// until the peer answers a question behind it, or with CLOSE. Else who hangs up in
    /// the middle of much, again and again, has more on the way than there may be.
    pub(super) fn part(&mut self, c: &mut Conversation) -> Parting {
        let bytes = c.send.part(&mut self.uploads);
        let answers = if bytes > 0 { self.out.question(c) } else { 0 };
        Parting { bytes, answers }
    }

    /// A conversation ended: it waits no more, for an answer neither, and holds
    /// nothing of what may be on the way. (Its place in the queue of turns is its
    /// client's next one's.)
    pub(super) fn leave_turn(&mut self, id: ClientId, c: &mut Conversation) {
        self.starved.remove(id);
        self.due.remove(id);
        c.send.close(&mut self.uploads);
        if let Some(pipe) = &mut self.pipe {
            pipe.path.trip.leave(id);
        }
    }

    /// Who needs least of those that wait for a share, if there is as much.
    fn fed(&mut self) -> Option<ClientId> {
        let (need, id) = self.starved.first()?;
        if need > self.uploads.free() {
            return None;
        }
        self.starved.pop();
        Some(id)
    }

    /// Some of what was sent may be acknowledged: one who waited for that may try
    /// again, and after it the next.
    pub(super) fn feed_starved(&mut self) {
        if let Some(id) = self.fed()
            && let Ok(client) = self.clients.get_mut(id)
        {
            client.in_turn = true;
            self.turn.push_back(id);
        }
    }

    /// So many bytes were taken: the peer gets new window for what was read, where
    /// it is worth a message, now or when it is time.
    pub(super) fn grant(&mut self, id: ClientId, taken: usize) {
        if let Some(pipe) = &mut self.pipe
            && let Ok(client) = self.clients.get_mut(id)
            && let State::Established(c) = &mut client.state
            && !c.inbox.ended()
        {
            c.receive.took(taken, self.now, &mut pipe.path);
            let mut granted = false;
            loop {
                match c.receive.grant(self.limits.packet, self.now, &pipe.path, &mut self.pool) {
                    Grant::Bytes(bytes) => {
                        self.out.answer(&Message::WindowAdjust { recipient: c.peer.0, bytes });
                        granted = true;
                    }
                    Grant::At(at) => break self.due.insert(at, id),
                    Grant::Nothing => break,
                }
            }
            if granted {
                let due = pipe.path.trip.is_due(self.now);
                self.sound(id, due);
            }
        }
    }

    /// A conversation began. The first of a pipe measures the round trip, before
    /// data can come.
    pub(super) fn begin(&mut self, id: ClientId) {
        let new = self.pipe.as_ref().is_some_and(|pipe| pipe.path.trip.is_new());
        self.sound(id, new);
    }

    /// Measures the round trip, if it is time for that and windows depend on it.
    fn sound(&mut self, id: ClientId, due: bool) {
        if let Some(pipe) = self.pipe.as_mut().filter(|pipe| due && pipe.path.adapts())
            && let Ok(client) = self.clients.get_mut(id)
            && let State::Established(c) = &mut client.state
        {
            self.out.ask(id, c, &mut pipe.path.trip, self.now);
        }
    }
}
