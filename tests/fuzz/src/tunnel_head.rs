//! Feeds any text to the parsers of a tunnel's head: an address it arrived at, an authority and a `forwarded` header, a line each.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use millrace_l7_proxy::head::{forwarded, target};
use millrace_model::port;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let arrived: IpAddr = text().parse().unwrap_or(Ipv4Addr::new(10, 10, 1, 2).into());
    let authority = text();
    if let Ok(port) = target(authority, arrived) {
        assert!(port != 0 && !port::is_mesh(port), "a port of the mesh is never a target");
        let named: SocketAddr = authority.parse().expect("what is taken is an address");
        assert_eq!(named.ip().to_canonical(), arrived.to_canonical(), "the tunnel's own address is the only target");
        assert_eq!(named.port(), port);
    }
    if let Ok(Some(client)) = forwarded(lines.next().unwrap_or_default()) {
        assert_ne!(client.port, Some(0), "no client has port 0");
        assert_eq!(client.address, client.address.to_canonical(), "a mapped address is shown as what it is");
    }
});
