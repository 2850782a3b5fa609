//! What the tests of sshnet stand on.
//!
//! | module | what it is |
//! |---|---|
//! | [`subject`] | the engine under test: the component and the native library, call by call the same |
//! | [`promise`] | what is asked of our engine, and of another component |
//! | [`ledger`] | what must hold in every test: one completion per request, windows kept, nothing after CLOSE |
//! | [`mod@bench`] | a subject with its ledger, and a peer's and a user's most common moves |
//! | [`link`] | a far side behind a link that takes time, in virtual time |
//! | [`backlog`] | what OpenSSH does with what it can't send yet |
//! | [`peer`] | messages and effects in a form that can be compared and printed |
//! | [`replay`] | recordings of `--record`, replayed |
//! | [`world`] | the program `sshnet-host`, run for a test, and what is around it |
//! | [`sshd`] | an sshd of a test's own |
//! | [`relay`] | a TCP path that can be lost |
//! | [`ninep`] | a 9P client by raw frames, in three dialects |
//! | [`refusing`] | a 9P service that refuses to write |
//! | [`hostile`] | a component that misbehaves when it is told to |
//! | [`fuzz`] | what the fuzz targets of core/fuzz check |
//! | [`sim`] | the simulator: a world from a seed, and the oracle that judges it |
//!
//! The tests themselves are in `tests/`, one file per behaviour. They are named
//! as claims; a comment says which rule of RFC 4254 a test holds the engine to
//! (by section, and by its number in the list of duties in core/README.md), or
//! which fault of 9front's sshnet.c it keeps from coming back.

pub mod backlog;
pub mod bench;
pub mod fuzz;
pub mod hostile;
pub mod ledger;
pub mod link;
pub mod ninep;
pub mod peer;
pub mod promise;
pub mod refusing;
pub mod relay;
pub mod replay;
pub mod sim;
pub mod sshd;
pub mod subject;
pub mod world;
