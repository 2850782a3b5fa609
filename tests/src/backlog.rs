//! What OpenSSH does with what it has read and can't send yet.
//!
//! It is a model of sshbuf.c as OpenSSH 9.2 has it: what is consumed leaves a gap at the
//! front, which is closed when it is half of the buffer, and a buffer that has to have
//! more than ever before is copied as a whole, for each packet that is added.

/// A buffer, as far as its sizes go.
#[derive(Debug, Default)]
pub struct Backlog {
    gap: u64,
    bytes: u64,
    allocated: u64,
}

impl Backlog {
    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds so many; answers how many had to be copied for that.
    pub fn append(&mut self, bytes: u64) -> u64 {
        let mut copied = 0;
        if self.gap >= self.bytes {
            copied += self.bytes;
            self.gap = 0;
        }
        let size = self.gap + self.bytes + bytes;
        if size > self.allocated {
            copied += self.allocated;
            self.allocated = size;
        }
        self.bytes += bytes;
        copied
    }

    /// Takes away so many, of those that wait.
    pub fn consume(&mut self, bytes: u64) {
        self.gap += bytes;
        self.bytes -= bytes;
    }
}
