//! Numbers for files: what the kernel calls them by.
//!
//! The kernel takes files of one number for one file, and holds its lock while one
//! of them is written. A write here may block for ever, so files that can block
//! get a fresh number at each look-up: no writer waits for another's peer.
//! Directories keep one number, for a process that stands in one must find it
//! again; so do the files that never block.
//!
//! Each look-up counts, and the kernel says how many it has forgotten: what is
//! kept is what the kernel knows.

use std::collections::HashMap;

use crate::tree::{ClientFile, Node};

/// The number of the root, given by the kernel.
pub(super) const ROOT: u64 = 1;
/// Numbers from here on are fresh ones; those below follow from the file.
const FRESH: u64 = 1 << 63;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: HashMap<u64, Known>,
    fresh: u64,
}

#[derive(Debug)]
struct Known {
    node: Node,
    lookups: u64,
}

impl Nodes {
    /// The number of a file that was looked up, which counts as one look-up.
    pub(super) fn look_up(&mut self, node: Node) -> u64 {
        if node == Node::Root {
            return ROOT;
        }
        let number = match lasting(node) {
            Some(number) => number,
            None => {
                self.fresh += 1;
                FRESH | self.fresh
            }
        };
        self.known.entry(number).or_insert(Known { node, lookups: 0 }).lookups += 1;
        number
    }

    /// The kernel has forgotten so many look-ups of a file.
    pub(super) fn forget(&mut self, number: u64, lookups: u64) {
        if let Some(known) = self.known.get_mut(&number) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                self.known.remove(&number);
            }
        }
    }

    /// The file of this number, if the kernel still may know it.
    pub(super) fn find(&self, number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node::Root);
        }
        self.known.get(&number).map(|known| known.node)
    }

    /// Files that the kernel knows, but for the root.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// What a listing says for a file: its number, if that is a lasting one.
pub(super) fn listed(node: Node) -> u64 {
    lasting(node).unwrap_or(FRESH)
}

/// The number of a file that keeps one. A client whose incarnation leaves no place
/// for that (it had two thousand million before it) has fresh ones.
fn lasting(node: Node) -> Option<u64> {
    let blocks = match node {
        Node::Root | Node::Cs | Node::Protocol(_) | Node::Stats | Node::Client(..) => false,
        Node::Clone(_) => true,
        Node::File(_, _, file) => match file {
            ClientFile::Ctl | ClientFile::Data | ClientFile::Listen => true,
            ClientFile::Local | ClientFile::Remote | ClientFile::Status => false,
        },
    };
    // The root's path is 0, and its number 1.
    let number = node.path().checked_add(1)?;
    (!blocks && number < FRESH).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ClientId, Protocol};

    const CLIENT: ClientId = ClientId { number: 3, incarnation: 2 };

    fn file(file: ClientFile) -> Node {
        Node::File(Protocol::Tcp, CLIENT, file)
    }

    #[test]
    fn what_can_block_has_a_fresh_number_at_each_look_up() {
        let mut nodes = Nodes::default();
        let blocking = [ClientFile::Ctl, ClientFile::Data, ClientFile::Listen].map(file);
        for node in blocking.into_iter().chain([Node::Clone(Protocol::Tcp)]) {
            let (one, other) = (nodes.look_up(node), nodes.look_up(node));
            assert_ne!(one, other, "{node:?}");
            assert_eq!((nodes.find(one), nodes.find(other)), (Some(node), Some(node)));
        }
    }

    #[test]
    fn directories_and_texts_keep_their_number() {
        let mut nodes = Nodes::default();
        let texts = [ClientFile::Local, ClientFile::Remote, ClientFile::Status].map(file);
        let client = Node::Client(Protocol::Tcp, CLIENT);
        let mut numbers = Vec::new();
        for node in texts.into_iter().chain([client, Node::Protocol(Protocol::Unix), Node::Cs]) {
            let number = nodes.look_up(node);
            assert_eq!(nodes.look_up(node), number);
            assert_eq!(listed(node), number);
            nodes.forget(number, 2);
            assert_eq!(nodes.look_up(node), number);
            numbers.push(number);
        }
        numbers.push(ROOT);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 7);
        assert_eq!(nodes.look_up(Node::Root), ROOT);
        assert_eq!(listed(Node::Root), ROOT);
    }

    #[test]
    fn what_the_kernel_forgets_is_not_kept() {
        let mut nodes = Nodes::default();
        for _ in 0..1000 {
            let number = nodes.look_up(Node::Clone(Protocol::Tcp));
            nodes.forget(number, 1);
            assert_eq!(nodes.find(number), None);
        }
        let number = nodes.look_up(Node::Cs);
        nodes.look_up(Node::Cs);
        nodes.forget(number, 1);
        assert_eq!(nodes.find(number), Some(Node::Cs));
        nodes.forget(number, 9);
        nodes.forget(number, 1);
        nodes.forget(ROOT, 1);
        assert_eq!(nodes.len(), 0);
        assert_eq!(nodes.find(ROOT), Some(Node::Root));
    }

    #[test]
    fn a_late_incarnation_is_not_taken_for_a_fresh_number() {
        let mut nodes = Nodes::default();
        let client = ClientId { number: (1 << 26) - 1, incarnation: !0 };
        let node = Node::File(Protocol::Unix, client, ClientFile::Status);
        let number = nodes.look_up(node);
        assert_eq!(nodes.find(number), Some(node));
        assert_ne!(nodes.look_up(Node::Clone(Protocol::Tcp)), number);
    }
}
