//! The types of RFC 4251 section 5 as bytes: byte, boolean, uint32, string.
//!
//! [`Reader`] takes them off the front of a message and [`Writer`] puts them at
//! the end of one. Neither panics, whatever the bytes; a length is held against
//! what is there before anything is taken. What the values mean is the business
//! of [`message`](crate::message).

use alloc::vec::Vec;

/// A message that cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// It ends in the middle of this field.
    #[error("message ends within its {0}")]
    Short(&'static str),
    /// It goes on after its last field.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
}

/// Takes fields off the front of a message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// A byte; `field` is what an error calls it.
    pub fn byte(&mut self, field: &'static str) -> Result<u8, WireError> {
        let (&byte, rest) = self.rest.split_first().ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(byte)
    }

    /// A boolean: every value but 0 is true.
    pub fn boolean(&mut self, field: &'static str) -> Result<bool, WireError> {
        Ok(self.byte(field)? != 0)
    }

    /// A uint32.
    pub fn uint32(&mut self, field: &'static str) -> Result<u32, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A string: a uint32 with its length, then so many bytes.
    pub fn string(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        let length = self.uint32(field)? as usize;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(string)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends the message: nothing may be left.
    pub fn end(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(WireError::Trailing(n)),
        }
    }
}

/// Puts fields at the end of a message.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts a message that will have `length` bytes.
    pub fn new(length: usize) -> Self {
        Self { bytes: Vec::with_capacity(length) }
    }

    /// A byte.
    #[must_use]
    pub fn byte(mut self, value: u8) -> Self {
        self.bytes.push(value);
        self
    }

    /// A boolean.
    #[must_use]
    pub fn boolean(self, value: bool) -> Self {
        self.byte(u8::from(value))
    }

    /// A uint32.
    #[must_use]
    pub fn uint32(mut self, value: u32) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A string. One of 4 GiB and more has no form on the wire; what the engine
    /// sends is bounded far below that, so the length is cut, not checked.
    #[must_use]
    pub fn string(self, value: &[u8]) -> Self {
        self.uint32(value.len() as u32).raw(value)
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(value);
        self
    }

    /// The message.
    pub fn end(self) -> Vec<u8> {
        self.bytes
    }
}
