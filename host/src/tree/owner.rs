//! Who owns the files: the user who runs the server.

/// A user and a group, by number and by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's name, at most 32 bytes.
    pub user: String,
    /// The group's name, at most 32 bytes.
    pub group: String,
}

/// What Linux allows for the name of a user.
const NAME_MAX: usize = 32;

impl Owner {
    /// The user and the group that this process runs as. Their names are those
    /// of /etc/passwd and /etc/group, or else the numbers.
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            uid,
            gid,
            user: name_of(uid, &read("/etc/passwd")),
            group: name_of(gid, &read("/etc/group")),
        }
    }
}

/// The name of this number in a file of lines `name:password:number:...`.
fn name_of(number: u32, table: &str) -> String {
    let number = number.to_string();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then_some(name)
        })
        .find(|name| !name.is_empty() && name.len() <= NAME_MAX)
        .map_or_else(|| number.clone(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_a_name_is_its_own_name() {
        let table = "root:x:0:0:root:/root:/bin/bash\nbroken\n:x:7:\nglenda:x:1000:1000::/:\n";
        assert_eq!(name_of(0, table), "root");
        assert_eq!(name_of(1000, table), "glenda");
        assert_eq!(name_of(7, table), "7");
        assert_eq!(name_of(100, table), "100");
    }
}
