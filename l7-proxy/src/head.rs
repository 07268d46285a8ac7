//! Parses what a tunnel's peer says in the head of a CONNECT: where to, and for whom. Pure, and fuzzed: these are foreign bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use millrace_model::port;

/// The longest `:authority` looked at: `[` + the longest IPv6 address + `]:65535`, and some room.
const MAX_AUTHORITY: usize = 64;

/// The longest `forwarded` looked at: one element, with parameters that other proxies add.
const MAX_FORWARDED: usize = 512;

/// Why a CONNECT's authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthority {
    /// Not an IP address and a port, in their one spelling.
    #[error("not ip:port")]
    Malformed,
    /// A loopback address: what listens there was never offered to other hosts.
    #[error("a loopback address")]
    Loopback,
    /// Another address than the one that the tunnel arrived at.
    #[error("not the address that the tunnel arrived at")]
    OtherAddress,
    /// One of the mesh's own ports.
    #[error("a port of the mesh")]
    MeshPort,
}

/// The port of `:authority`, which must name `arrived`, the address that the tunnel itself came to.
pub fn target(authority: &str, arrived: IpAddr) -> Result<u16, BadAuthority> {
    let address = address(authority)?;
    let ip = address.ip().to_canonical();
    if ip != arrived.to_canonical() {
        return Err(if ip.is_loopback() { BadAuthority::Loopback } else { BadAuthority::OtherAddress });
    }
    if address.port() == 0 {
        return Err(BadAuthority::Malformed);
    }
    if port::is_mesh(address.port()) {
        return Err(BadAuthority::MeshPort);
    }
    Ok(address.port())
}

/// `ip:port`, strictly: what `SocketAddr` prints is what is taken, so that no two texts mean one address.
fn address(authority: &str) -> Result<SocketAddr, BadAuthority> {
    if authority.len() > MAX_AUTHORITY {
        return Err(BadAuthority::Malformed);
    }
    let address: SocketAddr = authority.parse().map_err(|_unparsable| BadAuthority::Malformed)?;
    // A scope or a flow names something of this host's: no peer can mean it.
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.flowinfo() != 0 => Err(BadAuthority::Malformed),
        SocketAddr::V4(_) | SocketAddr::V6(_) => Ok(address),
    }
}

/// Whom a `forwarded` header speaks for: an address, and a port where it says one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address.
    pub address: IpAddr,
    /// Its port; None where only the address is said.
    pub port: Option<u16>,
}

/// A `forwarded` header is not one that this understands (RFC 7239, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a forwarded header with one client's address")]
pub struct BadForwarded;

/// The `for` of a `forwarded` header's one element; None where it has none, or an obfuscated one.
///
/// A list of several elements is refused: between two proxies there is one hop.
pub fn forwarded(header: &[u8]) -> Result<Option<Forwarded>, BadForwarded> {
    let text = std::str::from_utf8(header).map_err(|_not_text| BadForwarded)?;
    if text.len() > MAX_FORWARDED || !text.is_ascii() {
        return Err(BadForwarded);
    }
    let mut found = None;
    let mut rest = text.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(BadForwarded)?;
        if !is_token(name) {
            return Err(BadForwarded);
        }
        let (value, after) = value(after)?;
        if name.eq_ignore_ascii_case("for") {
            if found.is_some() {
                return Err(BadForwarded);
            }
            found = Some(node(value)?);
        }
        rest = match after.strip_prefix(';') {
            Some(more) if !more.is_empty() => more,
            None if after.is_empty() => after,
            Some(_) | None => return Err(BadForwarded),
        };
    }
    Ok(found.flatten())
}

/// A token or a quoted string without escapes (none is needed for an address), and what follows it.
fn value(text: &str) -> Result<(&str, &str), BadForwarded> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (inside, after) = quoted.split_once('"').ok_or(BadForwarded)?;
        let plain = inside.bytes().all(|b| b != b'\\' && (b' '..0x7f).contains(&b));
        return if plain { Ok((inside, after)) } else { Err(BadForwarded) };
    }
    let end = text.bytes().position(|b| !is_token_byte(b)).unwrap_or(text.len());
    match text.split_at_checked(end) {
        Some((token, after)) if !token.is_empty() => Ok((token, after)),
        Some(_) | None => Err(BadForwarded),
    }
}

/// RFC 7239, section 6: `ip`, `ip:port`, `[ip6]`, `[ip6]:port`; `unknown` and `_names` say nothing.
fn node(text: &str) -> Result<Option<Forwarded>, BadForwarded> {
    if text == "unknown" || text.starts_with('_') {
        return Ok(None);
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']').ok_or(BadForwarded)?;
        let address: Ipv6Addr = inside.parse().map_err(|_unparsable| BadForwarded)?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(number(port)?),
            None if after.is_empty() => None,
            None => return Err(BadForwarded),
        };
        return Ok(Some(Forwarded { address: IpAddr::V6(address).to_canonical(), port }));
    }
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => (address, Some(number(port)?)),
        None => (text, None),
    };
    let address: Ipv4Addr = address.parse().map_err(|_unparsable| BadForwarded)?;
    Ok(Some(Forwarded { address: IpAddr::V4(address), port }))
}

fn number(text: &str) -> Result<u16, BadForwarded> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if plain && port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(BadForwarded),
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What this proxy says of its own client.
pub(crate) fn forwarded_for(client: SocketAddr) -> String {
    format!("for=\"{client}\"")
}

#[cfg(test)]
mod tests;
