//! Reads from a capture what the demo shows of the wire: clear text, or TLS sessions.

use anyhow::{Context as _, Result, ensure};

use crate::{
    capture::{
        packets::Flow,
        tls::{self, Session},
    },
    mesh::CONTROL_PORT,
};

/// The mesh's tunnel port.
pub const TUNNEL: u16 = 15008;

/// Every TLS session to the tunnel port; fails while one of them has no hellos yet, or is no TLS.
pub fn sessions(flows: &[Flow]) -> Result<Vec<(&Flow, Session)>> {
    let up: Vec<&Flow> = flows.iter().filter(|flow| flow.target.port() == TUNNEL && !flow.bytes.is_empty()).collect();
    ensure!(!up.is_empty(), "no tunnel is on the wire");
    up.into_iter()
        .map(|client| {
            let answer = |flow: &&Flow| flow.source == client.target && flow.target == client.source;
            let server = flows.iter().find(answer).context("a tunnel without an answer")?;
            Ok((client, tls::session(&client.bytes, &server.bytes)?))
        })
        .collect()
}

/// The line of clear text that holds `needle`, in the first stream that has one.
pub fn clear_line(flows: &[Flow], needle: &str) -> Option<String> {
    flows.iter().find_map(|flow| {
        let text = String::from_utf8_lossy(&flow.bytes);
        text.lines().find(|line| line.contains(needle)).map(|line| line.trim().to_owned())
    })
}

/// How many bytes passed between pods otherwise than in tunnels.
pub fn bytes_outside_tunnels(flows: &[Flow]) -> usize {
    let known = |port| [TUNNEL, CONTROL_PORT].contains(&port);
    let outside = flows.iter().filter(|flow| !known(flow.target.port()) && !known(flow.source.port()));
    outside.map(|flow| flow.bytes.len()).sum()
}

/// A name of a cipher suite of TLS 1.3 (RFC 8446, appendix B.4).
pub fn cipher_name(cipher: u16) -> &'static str {
    match cipher {
        0x1301 => "TLS_AES_128_GCM_SHA256",
        0x1302 => "TLS_AES_256_GCM_SHA384",
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => "unknown",
    }
}
