//! The PROXY protocol: a proxy's first words on a connection, which say for whom it speaks.
//!
//! Both versions are read to their last byte and no further, as what follows is the caller's: HTTP or a TLS handshake.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a header of version 2 begins with. One of version 1 is longer than this too.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, with its end.
const MAX_V1_BYTES: usize = 107;

/// The longest that a header of version 2 may say to be; addresses take 36 bytes, the rest is for extensions.
const MAX_V2_BYTES: u16 = 4096;

/// Reads the header; the address of whom the proxy speaks for, or nothing if it speaks for itself.
pub(super) async fn read(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut begun = [0; SIGNATURE.len()];
    socket.read_exact(&mut begun).await?;
    match begun == *SIGNATURE {
        true => version_2(socket).await,
        false => version_1(&begun, socket).await,
    }
}

async fn version_2(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let command = socket.read_u8().await?;
    let family = socket.read_u8().await?;
    let length = socket.read_u16().await?;
    if length > MAX_V2_BYTES {
        return Err(malformed());
    }
    let mut rest = vec![0; usize::from(length)];
    socket.read_exact(&mut rest).await?;
    match (command, family >> 4) {
        // LOCAL: the proxy looks whether we are well.
        (0x20, _) => Ok(None),
        (0x21, 1) => Ok(Some(IpAddr::V4(Ipv4Addr::from(*rest.first_chunk().ok_or_else(malformed)?)))),
        (0x21, 2) => Ok(Some(IpAddr::V6(Ipv6Addr::from(*rest.first_chunk().ok_or_else(malformed)?)))),
        (0x21, _) => Ok(None),
        _ => Err(malformed()),
    }
}

async fn version_1(begun: &[u8], socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut line = begun.to_vec();
    while !line.ends_with(b"\r\n") {
        // The first bytes alone are enough to see that someone else is calling.
        if line.len() == MAX_V1_BYTES || !line.starts_with(b"PROXY ") {
            return Err(malformed());
        }
        line.push(socket.read_u8().await?);
    }
    let text = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| malformed())?;
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", kind, source, target, source_port, target_port] => {
            let [source, target] = [source, target].map(|address| address.parse::<IpAddr>().map_err(|_| malformed()));
            let (source, target) = (source?, target?);
            let ports = [source_port, target_port].iter().all(|port| port.parse::<u16>().is_ok());
            let fits = |address: IpAddr| match kind {
                "TCP4" => address.is_ipv4(),
                "TCP6" => address.is_ipv6(),
                _ => false,
            };
            if ports && fits(source) && fits(target) { Ok(Some(source)) } else { Err(malformed()) }
        }
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no header of the PROXY protocol")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> (io::Result<Option<IpAddr>>, usize) {
        let mut left = bytes;
        let read = futures_util::FutureExt::now_or_never(read(&mut left)).expect("it is all there");
        (read, left.len())
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, addresses].concat()
    }

    #[test]
    fn both_versions_are_read_to_their_end_and_no_further() {
        let v6 = [[0x20; 16], [0xdb; 16]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 80\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 5000 80\r\n".to_vec(), Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN what ever\r\n".to_vec(), None),
            (version_2(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4]), Some("192.0.2.1")),
            (version_2(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4, 3, 0, 1, 9]), Some("192.0.2.1")),
            (version_2(0x21, 0x21, &[&v6[..], &[0; 4]].concat()), Some("2020:2020:2020:2020:2020:2020:2020:2020")),
            (version_2(0x21, 0x31, &[0; 216]), None),
            (version_2(0x20, 0x00, &[]), None),
        ] {
            let (read, left) = all(&[&header[..], b"GET"].concat());
            assert_eq!(read.unwrap().map(|address| address.to_string()).as_deref(), expected);
            assert_eq!(left, 3, "what follows is the caller's");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for header in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 5000 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 99999\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 5000 80\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
            version_2(0x22, 0x11, &[0; 12]),
            version_2(0x31, 0x11, &[0; 12]),
            version_2(0x21, 0x11, &[0; 3]),
            version_2(0x21, 0x21, &[0; 12]),
            version_2(0x21, 0x11, &[0; 5000]),
            SIGNATURE.to_vec(),
        ] {
            assert!(all(&header).0.is_err(), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), v2 in any::<bool>()) {
            let begun: &[u8] = if v2 { SIGNATURE } else { b"PROXY " };
            let _ = all(&[begun, &bytes].concat());
        }
    }
}
