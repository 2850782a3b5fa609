//! A component that misbehaves is contained: all that waits is answered by the host,
//! once, and the session ends with words.
//!
//! The component is tests/hostile, which does what is written to `ctl`. It is tried
//! in the driver alone, each misdeed at each event, and in the program, over 9P.

mod driver;
mod fit;
mod program;
