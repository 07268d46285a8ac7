//! What two haproxys are told: TCP mode, mutual TLS 1.3 between them, both cores, its own default of buffers. And one of them
//! within a node: HTTP mode, no TLS, connections to the server shared among all clients.

use std::net::IpAddr;

use super::certificates::Certificates;
use crate::serve::{ECHO, HTTP, SINK};

/// Added to a port of the server: where both haproxys listen for it.
const OFFSET: u16 = 20_000;

/// Where they listen for this port of the server, on either side.
pub fn port(server: u16) -> u16 {
    server + OFFSET
}

/// Where the client's listens for a server of its node.
pub const NEAR: u16 = HTTP + OFFSET + 100;

const CARRIED: [u16; 3] = [SINK, ECHO, HTTP];

fn common(n_threads: usize) -> String {
    format!(
        "global
    nbthread {n_threads}
    maxconn 8000
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    option dontlognull
"
    )
}

/// The client's end.
pub fn client([near, server]: [IpAddr; 2], n_threads: usize, certificates: &Certificates) -> String {
    let mut text = common(n_threads);
    let (both, root) = (certificates.path("client-both.pem"), certificates.path("root.pem"));
    for of in CARRIED {
        let port = port(of);
        text.push_str(&format!(
            "listen p{port}
    bind 127.0.0.1:{port}
    server s {server}:{port} ssl crt {} ca-file {} verify required
",
            both.display(),
            root.display()
        ));
    }
    text.push_str(&format!(
        "listen near
    mode http
    http-reuse always
    bind 127.0.0.1:{NEAR}
    server s {near}:{HTTP}
"
    ));
    text
}

/// The server's end.
pub fn server(n_threads: usize, certificates: &Certificates) -> String {
    let mut text = common(n_threads);
    let (both, root) = (certificates.path("server-both.pem"), certificates.path("root.pem"));
    for of in CARRIED {
        let port = port(of);
        text.push_str(&format!(
            "listen p{port}
    bind 0.0.0.0:{port} ssl crt {} ca-file {} verify required
    server s 127.0.0.1:{of}
",
            both.display(),
            root.display()
        ));
    }
    text
}
