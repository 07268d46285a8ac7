//! States which heads of a tunnel are taken, and that no bytes break their reader.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::{BadAuthority, BadForwarded, Forwarded, forwarded, forwarded_for, target};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn only_the_address_that_the_tunnel_arrived_at_is_dialled() {
    let pod = ip("10.0.0.7");
    for (authority, answer) in [
        ("10.0.0.7:8080", Ok(8080)),
        ("[::ffff:10.0.0.7]:8080", Ok(8080)),
        ("10.0.0.8:8080", Err(BadAuthority::OtherAddress)),
        ("127.0.0.1:8080", Err(BadAuthority::Loopback)),
        ("127.9.9.9:8080", Err(BadAuthority::Loopback)),
        ("[::1]:8080", Err(BadAuthority::Loopback)),
        ("[::ffff:127.0.0.1]:8080", Err(BadAuthority::Loopback)),
        ("10.0.0.7:15008", Err(BadAuthority::MeshPort)),
        ("10.0.0.7:15801", Err(BadAuthority::MeshPort)),
        ("10.0.0.7:15806", Err(BadAuthority::MeshPort)),
        ("10.0.0.7:0", Err(BadAuthority::Malformed)),
        ("10.0.0.7", Err(BadAuthority::Malformed)),
        ("10.0.0.7:", Err(BadAuthority::Malformed)),
        ("10.0.0.7:65536", Err(BadAuthority::Malformed)),
        ("010.0.0.7:80", Err(BadAuthority::Malformed)),
        ("10.7:80", Err(BadAuthority::Malformed)),
        ("web.shop:80", Err(BadAuthority::Malformed)),
        ("user@10.0.0.7:80", Err(BadAuthority::Malformed)),
        ("http://10.0.0.7:80", Err(BadAuthority::Malformed)),
        (" 10.0.0.7:80", Err(BadAuthority::Malformed)),
        ("", Err(BadAuthority::Malformed)),
    ] {
        assert_eq!(target(authority, pod), answer, "{authority:?}");
    }
    assert_eq!(target("[fd10::7]:80", ip("fd10::7")), Ok(80));
    assert_eq!(target("[fd10:0:0::7]:80", ip("fd10::7")), Ok(80));
    assert_eq!(target("[fd10::7%1]:80", ip("fd10::7")), Err(BadAuthority::Malformed));
    assert_eq!(target("fd10::7:80", ip("fd10::7")), Err(BadAuthority::Malformed));
    assert_eq!(target("10.0.0.7:80", ip("::ffff:10.0.0.7")), Ok(80));
}

#[test]
fn a_forwarded_header_says_one_client() {
    let v4 = |port| Ok(Some(Forwarded { address: ip("10.0.0.1"), port }));
    let v6 = |port| Ok(Some(Forwarded { address: ip("fd10::1"), port }));
    for (header, answer) in [
        ("for=\"10.0.0.1:4711\"", v4(Some(4711))),
        ("for=10.0.0.1", v4(None)),
        ("FOR=10.0.0.1;proto=http;by=_me", v4(None)),
        ("proto=https;for=\"10.0.0.1:9\"", v4(Some(9))),
        ("for=\"[fd10::1]:4711\"", v6(Some(4711))),
        ("for=\"[fd10::1]\"", v6(None)),
        ("for=\"[::ffff:10.0.0.1]:80\"", v4(Some(80))),
        ("for=unknown", Ok(None)),
        ("for=_hidden", Ok(None)),
        ("proto=http", Ok(None)),
        ("", Ok(None)),
        ("for=10.0.0.1, for=10.0.0.2", Err(BadForwarded)),
        ("for=10.0.0.1;for=10.0.0.2", Err(BadForwarded)),
        ("for=10.0.0.1;", Err(BadForwarded)),
        ("for=", Err(BadForwarded)),
        ("for", Err(BadForwarded)),
        ("for =10.0.0.1", Err(BadForwarded)),
        ("for=\"10.0.0.1:80", Err(BadForwarded)),
        ("for=\"10.0.0.1:0\"", Err(BadForwarded)),
        ("for=\"10.0.0.1:+80\"", Err(BadForwarded)),
        ("for=\"10.0.0.1:65536\"", Err(BadForwarded)),
        ("for=\"10.0.0.\\1\"", Err(BadForwarded)),
        ("for=fd10::1", Err(BadForwarded)),
        ("for=web.shop", Err(BadForwarded)),
    ] {
        assert_eq!(forwarded(header.as_bytes()), answer, "{header:?}");
    }
    assert_eq!(forwarded(b"for=\xff"), Err(BadForwarded));
}

proptest! {
    /// What one proxy writes, the other reads.
    #[test]
    fn a_client_is_read_as_it_was_written(client: SocketAddr) {
        prop_assume!(client.port() > 0);
        let client = SocketAddr::new(client.ip(), client.port());
        let expected = Forwarded { address: client.ip().to_canonical(), port: Some(client.port()) };
        prop_assert_eq!(forwarded(forwarded_for(client).as_bytes()), Ok(Some(expected)));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,80}") {
        _ = forwarded(&bytes);
        _ = forwarded(text.as_bytes());
        _ = target(&text, ip("10.0.0.7"));
    }
}
