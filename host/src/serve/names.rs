//! Names of TCP services, from services(5).

use crate::engine::Service;

const FILE: &str = "/etc/services";
/// Names that are taken, at most: the engine holds them in memory.
const MOST: usize = 16 << 10;

/// The services of this machine; none if there is no list.
pub fn services() -> Vec<Service> {
    match std::fs::read(FILE) {
        Ok(text) => parse(&String::from_utf8_lossy(&text)),
        Err(error) => {
            tracing::info!("there are no names of services: {FILE}: {error}");
            Vec::new()
        }
    }
}

/// Reads `name port/tcp alias ... # comment` lines; passes over what is none. Of
/// several lines for one name the first counts.
pub fn parse(text: &str) -> Vec<Service> {
    let lines = text.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (name, port) = (words.next()?, words.next()?);
        let (port, protocol) = port.split_once('/')?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        protocol.eq_ignore_ascii_case("tcp").then_some((name, words, port))
    });
    let mut known = std::collections::HashSet::new();
    lines
        .flat_map(|(name, aliases, port)| {
            std::iter::once(name).chain(aliases).map(move |name| (name, port))
        })
        .filter(|(name, _)| known.insert(*name))
        .take(MOST)
        .map(|(name, port)| Service { name: name.to_owned(), port })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, u16)> {
        parse(text).into_iter().map(|service| (service.name, service.port)).collect()
    }

    #[test]
    fn names_and_aliases_of_tcp_are_read() {
        let text = "# comment\n\nssh\t22/tcp\t\t# Secure shell\nntp 123/udp\n\
                    http  80/tcp www web# x\nhttp 8080/tcp www\nhttps 443/TCP";
        let expected = [("ssh", 22), ("http", 80), ("www", 80), ("web", 80), ("https", 443)];
        assert_eq!(read(text), expected.map(|(name, port)| (name.to_owned(), port)));
    }

    #[test]
    fn what_is_no_service_is_passed_over() {
        for line in [
            "ssh",
            "ssh 22",
            "ssh tcp/22",
            "ssh 70000/tcp",
            "ssh -1/tcp",
            "ssh 0/tcp",
            "# ssh 22/tcp",
            "/tcp",
            "ssh 22/tcpx",
            "\0",
        ] {
            assert_eq!(read(line), [], "{line}");
        }
        assert_eq!(read("x 1/tcp\r\ny 2/tcp"), [("x".to_owned(), 1), ("y".to_owned(), 2)]);
    }
}
