//! What the kernel waits for, and what becomes of it when its caller has a signal.
//!
//! An interruption is a message like any other, done by a task of its own: it may
//! come before what it interrupts is known here. It is then answered with EAGAIN,
//! and the kernel sends it again for as long as it waits. One that comes between
//! the asking of the tree and the tree's answer with a request is kept in mind.
//!
//! To interrupt is to flush the tree's request, which completes it: with what was
//! taken or moved by then, or with EINTR. So nothing that was taken is lost.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::tree::{Failure, RequestId, Tree};

/// The kernel's outstanding requests that may block.
#[derive(Debug, Default)]
pub(super) struct Calls {
    table: Mutex<HashMap<u64, State>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing is asked of the tree, or it has not said by which request.
    Idle,
    /// The tree has this request; it may be completed by now.
    Waiting(RequestId),
    Interrupted,
}

/// A callback of the tree's.
type Done<T> = Box<dyn FnOnce(Result<T, Failure>) + Send>;

impl Calls {
    /// A request of the kernel's, by its number. It is known until the answer is
    /// dropped.
    pub(super) fn begin(&self, unique: u64) -> Call<'_> {
        self.lock().insert(unique, State::Idle);
        Call { calls: self, unique }
    }

    /// Interrupts one. Answers false if it is not known.
    pub(super) fn interrupt(&self, unique: u64, tree: &Tree) -> bool {
        let before = match self.lock().get_mut(&unique) {
            Some(state) => std::mem::replace(state, State::Interrupted),
            None => return false,
        };
        if let State::Waiting(request) = before {
            tree.flush(request);
        }
        true
    }

    /// Interrupts all.
    pub(super) fn interrupt_all(&self, tree: &Tree) {
        let all: Vec<u64> = self.lock().keys().copied().collect();
        for unique in all {
            self.interrupt(unique, tree);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, State>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of [`Calls`].
pub(super) struct Call<'c> {
    calls: &'c Calls,
    unique: u64,
}

impl Call<'_> {
    /// Asks the tree and waits for its answer.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        tree: &Tree,
        ask: impl FnOnce(Done<T>) -> Option<RequestId>,
    ) -> Result<T, Failure> {
        if self.is_interrupted() {
            return Err(Failure::INTERRUPTED);
        }
        let (done, outcome) = oneshot::channel();
        // Where nobody waits any more an opened file is dropped, and so closed.
        let request = ask(Box::new(move |result| drop(done.send(result))));
        if let Some(request) = request
            && self.started(request)
        {
            tree.flush(request);
        }
        outcome.await.unwrap_or(Err(Failure::MISMATCH))
    }

    /// Asks the tree, and takes back what it has no answer to at once.
    pub(super) async fn ask_now<T: Send + 'static>(
        &self,
        tree: &Tree,
        ask: impl FnOnce(Done<T>) -> Option<RequestId>,
    ) -> Result<T, Failure> {
        let (done, outcome) = oneshot::channel();
        if let Some(request) = ask(Box::new(move |result| drop(done.send(result)))) {
            tree.flush(request);
        }
        outcome.await.unwrap_or(Err(Failure::MISMATCH))
    }

    /// Whether its caller has given it up.
    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self.calls.lock().get(&self.unique), Some(State::Interrupted))
    }

    /// The tree has this request for it. Answers whether to flush it at once.
    fn started(&self, request: RequestId) -> bool {
        match self.calls.lock().get_mut(&self.unique) {
            Some(State::Interrupted) => true,
            Some(state) => {
                *state = State::Waiting(request);
                false
            }
            None => false,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.unique);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Protocol, Reply};
    use crate::tree::fake::{Asked, Fake};
    use crate::tree::{Access, ClientFile, Handle, Node};

    async fn data(fake: &Fake, tree: &Tree) -> Arc<Handle> {
        let client = fake.make(Protocol::Tcp);
        let node = Node::File(Protocol::Tcp, client, ClientFile::Data);
        let calls = Calls::default();
        let call = calls.begin(1);
        let opened = call.ask(tree, |done| tree.open(node, Access::ReadWrite, done)).await;
        Arc::new(opened.expect("it is there"))
    }

    fn read(
        calls: &Arc<Calls>,
        tree: &Tree,
        handle: &Arc<Handle>,
    ) -> tokio::task::JoinHandle<Result<Vec<u8>, Failure>> {
        let (calls, tree, handle) = (Arc::clone(calls), tree.clone(), Arc::clone(handle));
        tokio::spawn(
            async move { calls.begin(7).ask(&tree, |done| handle.read(0, 10, done)).await },
        )
    }

    async fn wait_for(fake: &Fake, asked: &[Asked]) {
        while fake.asked() != asked {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_blocked_read_ends_when_it_is_interrupted() {
        let (fake, calls) = (Fake::default(), Arc::new(Calls::default()));
        let tree = fake.tree();
        let handle = data(&fake, &tree).await;
        let reader = read(&calls, &tree, &handle);
        wait_for(&fake, &[Asked::Read(10)]).await;
        assert!(!calls.interrupt(8, &tree));
        assert!(calls.interrupt(7, &tree));
        assert_eq!(reader.await.expect("no panic"), Err(Failure::INTERRUPTED));
        assert!(!calls.interrupt(7, &tree), "it is over");
    }

    #[tokio::test]
    async fn data_that_was_taken_is_answered_whatever_comes_then() {
        let (fake, calls) = (Fake::default(), Arc::new(Calls::default()));
        let tree = fake.tree();
        let handle = data(&fake, &tree).await;
        let reader = read(&calls, &tree, &handle);
        wait_for(&fake, &[Asked::Read(10)]).await;
        fake.complete(Ok(Reply::Data(b"taken".to_vec())));
        calls.interrupt(7, &tree);
        assert_eq!(reader.await.expect("no panic").as_deref(), Ok(&b"taken"[..]));
    }

    #[tokio::test]
    async fn an_interruption_is_kept_in_mind_until_the_request_is_known() {
        let (fake, calls) = (Fake::default(), Calls::default());
        let tree = fake.tree();
        let handle = data(&fake, &tree).await;
        let call = calls.begin(7);
        // Within: the tree was asked, and has not answered with a request.
        let outcome = call.ask(&tree, |done| {
            assert!(calls.interrupt(7, &tree));
            handle.read(0, 10, done)
        });
        assert_eq!(outcome.await, Err(Failure::INTERRUPTED));
        // And nothing more is begun for it.
        let outcome = call.ask(&tree, |done| handle.read(0, 10, done));
        assert_eq!(outcome.await, Err(Failure::INTERRUPTED));
        assert_eq!(fake.asked(), []);
    }

    #[tokio::test]
    async fn what_is_not_there_at_once_is_not_waited_for() {
        let (fake, calls) = (Fake::default(), Calls::default());
        let tree = fake.tree();
        let handle = data(&fake, &tree).await;
        let call = calls.begin(7);
        let outcome = call.ask_now(&tree, |done| handle.read(1 << 20, 10, done)).await;
        assert_eq!(outcome, Err(Failure::INTERRUPTED));
        assert_eq!(fake.asked(), []);
    }

    #[tokio::test]
    async fn at_the_end_everything_is_interrupted() {
        let (fake, calls) = (Fake::default(), Arc::new(Calls::default()));
        let tree = fake.tree();
        let handle = data(&fake, &tree).await;
        let reader = read(&calls, &tree, &handle);
        wait_for(&fake, &[Asked::Read(10)]).await;
        calls.interrupt_all(&tree);
        assert_eq!(reader.await.expect("no panic"), Err(Failure::INTERRUPTED));
    }
}
