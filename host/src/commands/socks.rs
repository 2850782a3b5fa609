//! `socks`: a SOCKS5 proxy (RFC 1928) that dials from the far host.
//!
//! The protocol is fast-socks5's; here is what becomes of a request, and which
//! reply says so. Names are not looked up here: the far side does that.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fast_socks5::server::{Socks5ServerProtocol, SocksServerError, states::CommandRead};
use fast_socks5::{ReplyError, Socks5Command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::CommandError;
use super::near::{self, Dialer, Dialled, Socket};
use crate::args::address::{Local, Target};
use crate::ninep::client::ClientError;
use crate::notice::notice;

/// How long a client may take to say what it wants.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a client that was refused may take to hear it: closing a connection
/// with something unread would break off what it has not read.
const LINGER: Duration = Duration::from_millis(500);
/// Who is at the other end nobody asks here, and the far side does not say.
const BOUND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// "Request rejected or failed" of SOCKS4, whose clients know no other words.
const SOCKS4_REJECTED: [u8; 8] = [0, 91, 0, 0, 0, 0, 0, 0];

/// Serves until a signal comes, which is no error, or the service ends.
pub async fn run(service: Option<OsString>, local: Local) -> Result<(), CommandError> {
    near::run(service, vec![(local, "SOCKS5")], converse).await
}

/// All of one connection.
async fn converse(dialer: Dialer, _: &'static str, socket: Socket) {
    // There is no other kind of listener here.
    let Socket::Tcp(mut stream) = socket else { return };
    match request(&dialer, &mut stream).await {
        Ok(Some(dialled)) => dialled.join(Socket::Tcp(stream)).await,
        Ok(None) => linger(stream).await,
        Err(error) => tracing::debug!("a client of the proxy is gone: {error}"),
    }
}

type Asked<'s> = Socks5ServerProtocol<&'s mut TcpStream, CommandRead>;

/// What the client asked for, if it got it; else it has been told.
async fn request(
    dialer: &Dialer,
    stream: &mut TcpStream,
) -> Result<Option<Dialled>, SocksServerError> {
    let asked =
        async { Socks5ServerProtocol::accept_no_auth(&mut *stream).await?.read_command().await };
    let asked: Result<(Asked<'_>, _, _), _> = match timeout(HANDSHAKE, asked).await {
        Ok(asked) => asked,
        Err(_) => {
            let error = io::Error::from(io::ErrorKind::TimedOut);
            return Err(SocksServerError::Io { source: error, context: "reading its request" });
        }
    };
    let (protocol, command, address) = match asked {
        Ok(asked) => asked,
        Err(SocksServerError::UnsupportedSocksVersion(4)) => {
            notice("a client was refused: it speaks SOCKS4; set it to SOCKS5");
            // It may be gone.
            let _ = stream.write_all(&SOCKS4_REJECTED).await;
            return Ok(None);
        }
        Err(error @ SocksServerError::Io { .. }) => return Err(error),
        Err(error) => {
            notice(format_args!("a client was refused: {}", because(&error)));
            return Ok(None);
        }
    };
    if command != Socks5Command::TCPConnect {
        notice("a client was refused: of SOCKS5's commands there is only CONNECT");
        protocol.reply_error(&ReplyError::CommandNotSupported).await?;
        return Ok(None);
    }
    let (host, port) = address.into_string_and_port();
    let dialled = match Target::tcp(&host, port) {
        Ok(target) => dialer.dial(&target).await.map_err(|error| reply(&error)),
        Err(why) => {
            notice(format_args!("cannot dial '{}': {why}", host.escape_debug()));
            Err(ReplyError::GeneralFailure)
        }
    };
    match dialled {
        Ok(dialled) => {
            protocol.reply_success(BOUND).await?;
            Ok(Some(dialled))
        }
        Err(code) => {
            protocol.reply_error(&code).await?;
            Ok(None)
        }
    }
}

/// What is wrong with a client, in our words.
fn because(error: &SocksServerError) -> String {
    match error {
        SocksServerError::UnsupportedSocksVersion(_) => "it does not speak SOCKS5".to_owned(),
        SocksServerError::AuthMethodUnacceptable(_) => {
            "it wants to give a password, and there is none".to_owned()
        }
        SocksServerError::UnknownCommand(_) => "there is no such command in SOCKS5".to_owned(),
        other => other.to_string(),
    }
}

/// The reply for a dial that failed (RFC 1928 section 6).
///
/// A far side gives one number for all that its connect(2) and its resolver say,
/// so it is the words that tell: those of sshd, in which no language is set, and
/// of the engine.
fn reply(error: &ClientError) -> ReplyError {
    const WORDS: [(&str, ReplyError); 13] = [
        ("administratively prohibited", ReplyError::ConnectionNotAllowed),
        ("connection refused", ReplyError::ConnectionRefused),
        ("network is unreachable", ReplyError::NetworkUnreachable),
        ("network is down", ReplyError::NetworkUnreachable),
        ("no route to host", ReplyError::HostUnreachable),
        ("host is unreachable", ReplyError::HostUnreachable),
        ("host is down", ReplyError::HostUnreachable),
        // Of getaddrinfo(3), by glibc, musl and the BSDs.
        ("name or service not known", ReplyError::HostUnreachable),
        ("name does not resolve", ReplyError::HostUnreachable),
        ("name resolution", ReplyError::HostUnreachable),
        ("no address associated with", ReplyError::HostUnreachable),
        // The nearest that there is: RFC 1928 has none for time.
        ("timed out", ReplyError::TtlExpired),
        ("in time", ReplyError::TtlExpired),
    ];
    let ClientError::Refused(text) = error else { return ReplyError::GeneralFailure };
    let text = text.to_lowercase();
    let known = WORDS.iter().find(|(words, _)| text.contains(words));
    known.map_or(ReplyError::GeneralFailure, |(_, code)| *code)
}

/// Ends our direction, and gives the client time to hear it.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut buffer = [0; 1024];
    let rest = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
    let _ = timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_that_failed_has_the_reply_of_its_reason() {
        for (text, code) in [
            ("administratively prohibited: open failed", 2),
            ("Network is unreachable", 3),
            ("No route to host", 4),
            ("Name or service not known", 4),
            ("Temporary failure in name resolution", 4),
            ("Connection refused", 5),
            ("Connection timed out", 6),
            ("the far side did not answer in time", 6),
            ("too many clients", 1),
            ("resource shortage", 1),
        ] {
            assert_eq!(reply(&ClientError::Refused(text.to_owned())).as_u8(), code, "{text}");
        }
        assert_eq!(reply(&ClientError::Ended("it went".to_owned())).as_u8(), 1);
    }
}
