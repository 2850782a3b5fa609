//! The open files, by the number that the kernel has for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tree::{ClientFile, Handle, Node};

/// An open file.
pub(super) struct File {
    pub(super) handle: Handle,
    pub(super) kind: Kind,
}

/// How its reads are placed.
pub(super) enum Kind {
    /// By the offset that the kernel says.
    Placed,
    /// A conversation's bytes: offsets mean nothing.
    Data,
    /// A text that is read and written by turns on one descriptor. Its place is
    /// moved by reads alone, back to the start where a read finds the end, and by
    /// each write.
    Text(Mutex<u64>),
}

impl File {
    pub(super) fn new(handle: Handle) -> Self {
        let kind = match handle.node() {
            Node::File(_, _, ClientFile::Data) => Kind::Data,
            Node::File(_, _, ClientFile::Ctl | ClientFile::Listen) | Node::Clone(_) => {
                Kind::Text(Mutex::default())
            }
            _ => Kind::Placed,
        };
        Self { handle, kind }
    }

    /// Whether the kernel is to keep no place in it.
    pub(super) fn is_stream(&self) -> bool {
        !matches!(self.kind, Kind::Placed)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Files(Mutex<State>);

#[derive(Default)]
struct State {
    open: HashMap<u64, Arc<File>>,
    last: u64,
    ended: bool,
}

impl Files {
    /// Keeps an open file; answers with its number.
    pub(super) fn insert(&self, handle: Handle) -> (u64, Arc<File>) {
        let file = Arc::new(File::new(handle));
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        if state.ended {
            drop(state);
            file.handle.close();
        } else {
            state.open.insert(number, Arc::clone(&file));
        }
        (number, file)
    }

    pub(super) fn find(&self, number: u64) -> Option<Arc<File>> {
        self.lock().open.get(&number).cloned()
    }

    pub(super) fn close(&self, number: u64) {
        let file = self.lock().open.remove(&number);
        if let Some(file) = file {
            file.handle.close();
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Closes all of them, and whatever is opened from now on.
    pub(super) fn end(&self) {
        let all = {
            let mut state = self.lock();
            state.ended = true;
            std::mem::take(&mut state.open)
        };
        all.values().for_each(|file| file.handle.close());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
