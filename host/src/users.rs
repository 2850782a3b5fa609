//! Who may connect: the user who runs this, root, and those whom the user allows.
//!
//! A socket's mode keeps others out where it counts for sockets at all, and a TCP port
//! has none; so each connection is asked who made it.

use std::io;

use crate::warnings::NEAR;

/// The file of users: passwd(5).
const PASSWD: &str = "/etc/passwd";

/// Users besides the one who runs this, and root; by their numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Users(Vec<u32>);

impl Users {
    /// These, too.
    pub fn with(others: Vec<u32>) -> Self {
        Self(others)
    }

    /// Whether there are any besides the usual.
    pub fn has_others(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether this user may connect.
    pub fn may(&self, user: u32) -> bool {
        is_usual(user) || self.0.contains(&user)
    }

    /// Whether a connection of this user's is served; if not, the log says so. `what`
    /// names one, with its article.
    pub(crate) fn admits(&self, what: &str, user: io::Result<u32>) -> bool {
        self.admitted(what, user).is_some()
    }

    /// The same, with the user's number.
    pub(crate) fn admitted(&self, what: &str, user: io::Result<u32>) -> Option<u32> {
        match user {
            Ok(user) if self.may(user) => return Some(user),
            Ok(user) => NEAR.warn(format_args!("{what} of user {user} was refused")),
            Err(error) => {
                NEAR.warn(format_args!("{what} of an unknown user was refused: {error}"));
            }
        }
        None
    }
}

/// Whether this is the user who runs this, or root.
pub(crate) fn is_usual(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// A user's number, by it or by the name.
pub fn number(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let table = std::fs::read_to_string(PASSWD).map_err(|error| format!("{PASSWD}: {error}"))?;
    number_in(text, &table).ok_or_else(|| format!("there is no such user in {PASSWD}"))
}

fn number_in(name: &str, table: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_root_and_those_allowed_may_connect_and_nobody_else() {
        let own = rustix::process::geteuid().as_raw();
        let users = Users::with(vec![own + 7]);
        for user in [0, own, own + 7] {
            assert!(users.admits("a connection", Ok(user)), "{user}");
        }
        assert!(!users.admits("a connection", Ok(own + 8)));
        assert!(!Users::default().admits("a connection", Ok(own + 7)));
        assert!(!users.admits("a connection", Err(io::ErrorKind::NotFound.into())));
    }

    #[test]
    fn a_user_has_a_name_or_a_number() {
        let table = "root:x:0:0:root:/root:/bin/sh\nbroken\nglenda:x:1000:1000::/:\n";
        assert_eq!(number_in("glenda", table), Some(1000));
        assert_eq!(number_in("broken", table), None);
        assert_eq!(number_in("", table), None);
        assert_eq!(number("65534"), Ok(65534));
        assert_eq!(number("root"), Ok(0));
        assert!(number("no such user").is_err());
    }
}
