//! Whose process is at the other end of a TCP connection within this machine.
//!
//! Linux lists its TCP sockets in `/proc/net/tcp` and `/proc/net/tcp6`
//! (proc_net_tcp(5)), each with its user. The other end's row is the one whose
//! local address is what this end calls remote, and the other way round.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Where the sockets are listed. A connection to an IPv4 address may have been
/// made by an IPv6 socket.
static TABLES: LazyLock<[io::Result<Table>; 2]> =
    LazyLock::new(|| ["/proc/net/tcp", "/proc/net/tcp6"].map(Table::open));
/// Bytes of a list that are read at once.
const CHUNK: usize = 64 << 10;
/// The list is made while it is read, so that a row may be missed.
const ATTEMPTS: usize = 3;
/// One look-up reads at a time. They share the open lists, and the kernel goes on where
/// the last read ended: if that was another's, it makes the list anew from its beginning.
static READERS: Semaphore = Semaphore::const_new(1);
/// A connection's state while both its ends are in use.
const ESTABLISHED: &str = "01";

/// A list of sockets. It is made whenever it is read from its beginning.
#[derive(Debug)]
struct Table(File);

impl Table {
    fn open(path: &str) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The user of the socket with these addresses, if it is listed.
    fn find(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
        find(|piece, offset| self.0.read_at(piece, offset), local, remote)
    }
}

/// Reads a list as far as the row of the socket with these addresses.
fn find(
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    local: SocketAddr,
    remote: SocketAddr,
) -> io::Result<Option<u32>> {
    let (mut piece, mut offset) = (vec![0; CHUNK], 0);
    let mut rows = Vec::new();
    loop {
        let length = read(&mut piece, offset)?;
        offset += length as u64;
        rows.extend_from_slice(piece.get(..length).unwrap_or_default());
        // The last one goes on in the next piece.
        let whole = rows.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = rows.get(..whole).unwrap_or_default();
        let user = user_in(std::str::from_utf8(text).map_err(io::Error::other)?, local, remote);
        if user.is_some() || length == 0 {
            return Ok(user);
        }
        rows.drain(..whole);
    }
}

/// Opens the lists: later there may be no right to.
pub(crate) fn prepare() {
    LazyLock::force(&TABLES);
}

/// The user of the process that made this connection.
pub(crate) async fn user(stream: &TcpStream) -> io::Result<u32> {
    let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
    let alone = READERS.acquire().await.map_err(io::Error::other)?;
    // Of a long list the kernel takes its time to make the text.
    let looked_up = tokio::task::spawn_blocking(move || {
        let _alone = alone;
        look_up(here, there)
    });
    looked_up.await.map_err(io::Error::other)?
}

fn look_up(here: SocketAddr, there: SocketAddr) -> io::Result<u32> {
    let mut unreadable = None;
    for _ in 0..ATTEMPTS {
        for table in &*TABLES {
            let found = match table {
                Ok(table) => table.find(there, here),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            match found {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => {}
                Err(error) => unreadable = Some(error),
            }
        }
    }
    Err(unreadable
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not in /proc/net/tcp")))
}

/// The user of the socket with these addresses, by these lines of a list. One that no
/// process has open any more is listed as root's, which it need not have been: it has
/// no inode.
fn user_in(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let same = address(fields.next()?)? == plain(local)
            && address(fields.next()?)? == plain(remote)
            && fields.next()? == ESTABLISHED;
        // tx:rx, tr:when and retransmissions come before the user, one more
        // field before the inode.
        let mut fields = fields.skip(3);
        let user = fields.next()?.parse().ok()?;
        let inode = fields.nth(1)?;
        (same && inode != "0").then_some(user)
    })
}

fn plain(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Reads `0100007F:1F90`: words in the machine's byte order, and a number.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some((ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const FOUR: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1608 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 17 1 0
   1: 0100007F:A001 0100007F:1608 01 00000000:00000000 00:00000000 00000000  1001        0 18 1 0
   2: 0100007F:1608 0100007F:A001 01 00000000:00000000 00:00000000 00000000  1000        0 19 1 0
   3: 0100007F:A002 0100007F:1608 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0
   4: 0100007F:A003 0100007F:1608 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0
   5: 0100007F:A003 0100007F:1608
";

    const SIX: &str = "\
  sl  local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
   0: 00000000000000000000000001000000:A001 00000000000000000000000001000000:1608 01 \
00000000:00000000 00:00000000 00000000  7 0 21 1 0
   1: 0000000000000000FFFF00000100007F:A001 0000000000000000FFFF00000100007F:1608 01 \
00000000:00000000 00:00000000 00000000  8 0 22 1 0
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_row_of_the_other_end_says_who_it_is() {
        let server = socket("127.0.0.1:5640");
        assert_eq!(user_in(FOUR, socket("127.0.0.1:40961"), server), Some(1001));
        assert_eq!(user_in(FOUR, server, socket("127.0.0.1:40961")), Some(1000));
        assert_eq!(user_in(SIX, socket("[::1]:40961"), socket("[::1]:5640")), Some(7));
        assert_eq!(user_in(SIX, socket("127.0.0.1:40961"), server), Some(8));
        assert_eq!(user_in(FOUR, socket("127.0.0.2:40961"), server), None);
        assert_eq!(user_in("", server, server), None);
    }

    /// It would pass for root's.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_socket_that_nobody_has_open_is_nobodys() {
        let server = socket("127.0.0.1:5640");
        for port in [40962, 40963] {
            assert_eq!(user_in(FOUR, SocketAddr::from(([127, 0, 0, 1], port)), server), None);
        }
    }

    /// Those behind it cost the kernel time, and us.
    #[cfg(target_endian = "little")]
    #[test]
    fn a_list_is_read_as_far_as_the_row_and_no_farther() {
        let other = FOUR.lines().nth(1).unwrap();
        for before in [0, 1, 2_000] {
            let text = format!("{}{FOUR}", format!("{other}\n").repeat(before));
            for piece_size in [100, 4096] {
                let read_to = std::cell::Cell::new(0);
                let read = |piece: &mut [u8], offset: u64| {
                    assert_eq!(offset, read_to.get());
                    let rest = &text.as_bytes()[offset as usize..];
                    let length = rest.len().min(piece_size).min(piece.len());
                    piece[..length].copy_from_slice(&rest[..length]);
                    read_to.set(offset + length as u64);
                    Ok(length)
                };
                let server = socket("127.0.0.1:5640");
                let row = text.find("A001").unwrap() + other.len();
                assert_eq!(find(read, socket("127.0.0.1:40961"), server).unwrap(), Some(1001));
                assert!(read_to.get() as usize <= row + piece_size + other.len());
                read_to.set(0);
                assert_eq!(find(read, socket("127.0.0.2:40961"), server).unwrap(), None);
            }
        }
    }

    #[tokio::test]
    async fn one_look_up_reads_at_a_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let reader = READERS.acquire().await.unwrap();
        let soon = std::time::Duration::from_millis(200);
        assert!(tokio::time::timeout(soon, user(&far)).await.is_err());
        drop(reader);
        assert!(user(&far).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_of_our_own_is_ours() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // There are machines without IPv6.
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else { continue };
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (far, _) = listener.accept().await.unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(user(&far).await.unwrap(), own, "{address}");
            drop(near);
            assert!(user(&far).await.is_err(), "{address}: it is closed");
        }
    }
}
