//! What is mounted where, from /proc/self/mountinfo (proc(5)).
//!
//! To look there touches no file system: a mount whose program is dead or stuck
//! cannot hold up who reads it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

const FILE: &str = "/proc/self/mountinfo";
/// What a mount of ours says: the source, and the type that comes of the subtype.
pub(super) const SOURCE: &str = "sshnet";
const KIND: &str = "fuse.sshnet";

/// A mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mount {
    /// `major:minor`: tells it from every other that is there.
    pub(super) device: String,
    /// The type of the file system.
    kind: String,
    source: String,
}

impl Mount {
    /// Whether a program like this one made it.
    pub(super) fn is_ours(&self) -> bool {
        self.kind == KIND && self.source == SOURCE
    }
}

/// The topmost mount on this path, which must be absolute and without links.
pub(super) fn on(path: &Path) -> io::Result<Option<Mount>> {
    Table::open()?.on(path)
}

/// What is mounted, for who may open nothing any more.
#[derive(Debug)]
pub(super) struct Table(File);

impl Table {
    pub(super) fn open() -> io::Result<Self> {
        File::open(FILE).map(Self)
    }

    /// The topmost mount on this path now.
    pub(super) fn on(&self, path: &Path) -> io::Result<Option<Mount>> {
        let mut table = Vec::new();
        // Read from its beginning it is made anew.
        (&self.0).rewind()?;
        (&self.0).read_to_end(&mut table)?;
        Ok(find(&table, path))
    }
}

fn find(table: &[u8], path: &Path) -> Option<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(|line| parse(line, path)).next_back()
}

/// `id parent major:minor root point options tag... - type source options`
fn parse(line: &[u8], path: &Path) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let point = unescaped(fields.nth(1)?);
    if point.as_os_str() != path.as_os_str() {
        return None;
    }
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(Mount { device: text(device), kind: text(rest.next()?), source: text(rest.next()?) })
}

/// Space, tab, newline and backslash are written in octal.
fn unescaped(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'\\'
            && let Some((digits, after)) = rest.split_at_checked(3)
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(value) = u8::from_str_radix(digits, 8)
        {
            out.push(value);
            rest = after;
        } else {
            out.push(byte);
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
40 22 0:50 / /mnt/a rw,nosuid,nodev,noatime shared:2 master:3 - fuse.sshnet sshnet rw,user_id=0\n\
41 40 0:51 / /mnt/a rw - tmpfs none rw\n\
42 22 0:52 / /mnt/a\\040b\\134c rw,nosuid - fuse.sshnet sshnet rw\n\
43 22 0:53 / /mnt/other rw - fuse.sshfs host: rw\n";

    #[test]
    fn the_topmost_mount_of_a_path_is_found() {
        let on = |path: &str| find(TABLE, Path::new(path));
        assert_eq!(on("/mnt"), None);
        assert_eq!(on("/mnt/a").map(|mount| mount.device).as_deref(), Some("0:51"));
        assert!(on("/mnt/a b\\c").is_some_and(|mount| mount.is_ours()));
        assert!(on("/mnt/other").is_some_and(|mount| !mount.is_ours()));
        assert!(on("/").is_some_and(|mount| !mount.is_ours()));
    }

    #[test]
    fn a_table_that_makes_no_sense_has_no_mounts() {
        for table in ["", "\n", "1 2 3", "1 2 0:1 / /x rw", "1 2 0:1 / /x rw - fuse", "\\0"] {
            assert_eq!(find(table.as_bytes(), Path::new("/x")), None, "{table}");
        }
        assert_eq!(unescaped(b"a\\04"), "a\\04");
        assert_eq!(unescaped(b"\\x40\\777"), "\\x40\\777");
    }
}
