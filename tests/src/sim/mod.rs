//! The simulator: the engine in a world that a seed fixes.
//!
//! Users of the files, a pipe that delays and breaks, and a peer that keeps RFC
//! 4254, keeps it lazily or breaks it: all of it in one thread, with every choice
//! drawn from one seed, so that a seed is a run. Each run draws first what it
//! does at all, and how often (swarm testing: [`world::Options::swarm`]). After
//! every call the [`oracle`] judges what the engine answered. At the end the
//! faults stop, and everything has to come to an end within a bounded number of
//! calls. The engine runs as the component and as the native library in lock
//! step; their answers must be equal. Another component runs alone, and the oracle
//! holds it to the contract.

#[cfg(feature = "component")]
pub mod component;
pub mod oracle;
pub mod peer;
pub mod prng;
pub mod run;
pub mod world;
