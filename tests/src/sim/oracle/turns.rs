//! Who may send when: each one who waits to send has one message before another
//! has its second.

use std::collections::BTreeSet;

use sshnet_core::ClientId;

use super::{Model, State, Verdict, ensure};

/// One who waits to send.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiter {
    /// Who has sent a message while it waits.
    passed: BTreeSet<ClientId>,
    /// It waited for acknowledgements: who needs least of them is the first to go
    /// on, in whatever order they came.
    starved: bool,
}

impl Model {
    /// What each client may have on the way, whatever the others have.
    pub(super) fn floor(&self) -> u64 {
        let floor = self.limits.unacknowledged / 4 / u64::from(self.limits.clients);
        floor.clamp(1, self.limits.packet.into())
    }

    /// Bytes that the next message of each conversation may have, and whether the
    /// limit on what is unacknowledged lets it go: for all that have some.
    pub(super) fn able(&self) -> Vec<(ClientId, u32, bool)> {
        // Each client is sure of a part of a quarter; the rest is shared.
        let (clients, floor) = (u64::from(self.limits.clients), self.floor());
        let above = |bytes: u64| bytes.saturating_sub(floor);
        let channels = self.pipe.iter().flat_map(|pipe| pipe.channels.values());
        let parting: u64 =
            channels.filter_map(|channel| channel.parting).map(|(bytes, _)| above(bytes)).sum();
        let taken: u64 = self
            .clients
            .values()
            .map(|client| match &client.state {
                State::Established(c) => above(c.unacknowledged),
                _ => 0,
            })
            .sum();
        let taken = taken + parting;
        let free = self.limits.unacknowledged.saturating_sub(floor * clients + taken);
        let mut able = Vec::new();
        for client in self.clients.values() {
            let State::Established(c) = &client.state else { continue };
            let unsent = u32::try_from(c.unsent()).unwrap_or(u32::MAX);
            let next = unsent.min(c.window).min(c.packet).min(self.limits.packet);
            let held = c.unacknowledged;
            // The contract lets whoever has that part on the way wait.
            let full = above(held + u64::from(next)) > free || !self.ours;
            let starved = held >= floor && full;
            if next > 0 {
                able.push((client.id, next, !starved));
            }
        }
        able
    }

    /// Takes note of who waits to send now.
    pub(super) fn note_waiters(&mut self) {
        let able = self.able();
        self.waiters.retain(|id, _| able.iter().any(|(able, ..)| able == id));
        for (id, _, goes) in able {
            self.waiters.entry(id).or_default().starved |= !goes;
        }
    }

    /// A conversation sent a data message.
    pub(super) fn took_turn(&mut self, sender: ClientId) -> Verdict {
        self.waiters.remove(&sender);
        for (id, waiter) in &mut self.waiters {
            let first = waiter.passed.insert(sender);
            ensure!(
                first || waiter.starved,
                "client {} sent twice while client {} waited for its turn",
                sender.number,
                id.number
            );
        }
        self.note_waiters();
        Ok(())
    }
}
