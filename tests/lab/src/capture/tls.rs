//! Reads what a captured TLS connection says in the clear: the two hellos, and whether all that follows is encrypted.

use anyhow::{Context as _, Result, bail, ensure};

/// TLS 1.3 in `supported_versions` (RFC 8446, section 4.2.1).
pub const TLS_1_3: u16 = 0x0304;

/// X25519 with ML-KEM-768, the post-quantum hybrid (IANA's TLS Supported Groups).
pub const X25519MLKEM768: u16 = 0x11ec;

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

/// What two directions of a connection show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The version that the server chose.
    pub version: u16,
    /// The group that the server chose.
    pub group: u16,
    /// The cipher suite that the server chose.
    pub cipher: u16,
    /// Whether the client named the server in the clear.
    pub server_name: bool,
    /// Encrypted records, both ways.
    pub n_encrypted: usize,
    /// Bytes in them.
    pub encrypted_bytes: usize,
}

/// Reads a session; fails where a byte is neither a hello nor encrypted.
pub fn session(client: &[u8], server: &[u8]) -> Result<Session> {
    let (from_client, from_server) = (records(client)?, records(server)?);
    let client_hello = hello(&from_client, CLIENT_HELLO).context("the client's first record is no ClientHello")?;
    let server_hello = hello(&from_server, SERVER_HELLO).context("the server's first record is no ServerHello")?;
    let mut reader = Reader(server_hello);
    reader.take(2 + 32)?; // The legacy version, and the random.
    reader.vector8()?; // The session id.
    let cipher = reader.u16()?;
    reader.take(1)?;
    let extensions = extensions(&mut reader)?;
    let find = |wanted| extensions.iter().find(|(kind, _)| *kind == wanted).map(|(_, body)| Reader(body));
    let version = find(SUPPORTED_VERSIONS).context("no version is chosen: older than TLS 1.3")?.u16()?;
    let group = find(KEY_SHARE).context("no key share is chosen")?.u16()?;
    let encrypted = |records: &[Record<'_>]| -> Result<(usize, usize)> {
        let rest: Vec<&Record<'_>> = records.iter().filter(|record| !record.opens()).collect();
        ensure!(rest.iter().all(|record| record.kind == APPLICATION_DATA), "a record in the clear after the hellos");
        Ok((rest.len(), rest.iter().map(|record| record.body.len()).sum()))
    };
    let ((n_up, up), (n_down, down)) = (encrypted(&from_client)?, encrypted(&from_server)?);
    let server_name = client_names_server(client_hello)?;
    Ok(Session { version, group, cipher, server_name, n_encrypted: n_up + n_down, encrypted_bytes: up + down })
}

fn client_names_server(hello: &[u8]) -> Result<bool> {
    let mut reader = Reader(hello);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?; // Cipher suites.
    reader.vector8()?; // Compression.
    Ok(extensions(&mut reader)?.iter().any(|(kind, _)| *kind == SERVER_NAME))
}

/// A hello's extension: its type and its body.
type Extension<'a> = (u16, &'a [u8]);

fn extensions<'a>(reader: &mut Reader<'a>) -> Result<Vec<Extension<'a>>> {
    let mut all = Reader(reader.vector16()?);
    let mut found = Vec::new();
    while !all.0.is_empty() {
        found.push((all.u16()?, all.vector16()?));
    }
    Ok(found)
}

struct Record<'a> {
    kind: u8,
    body: &'a [u8],
}

impl Record<'_> {
    /// Whether it may be in the clear: a hello, or the empty signal that TLS 1.3 sends for the sake of old middleboxes.
    fn opens(&self) -> bool {
        let hello = matches!(self.body.first(), Some(&(CLIENT_HELLO | SERVER_HELLO)));
        self.kind == CHANGE_CIPHER_SPEC || (self.kind == HANDSHAKE && hello)
    }
}

/// Cuts a stream into records; a last one that is not complete yet is left out.
fn records(stream: &[u8]) -> Result<Vec<Record<'_>>> {
    let mut reader = Reader(stream);
    let mut found = Vec::new();
    while reader.0.len() >= 5 {
        let (kind, version) = (reader.u8()?, reader.u16()?);
        ensure!((CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) && version >> 8 == 3, "not TLS: type {kind}");
        let Ok(body) = reader.vector16() else { break };
        found.push(Record { kind, body });
    }
    ensure!(!found.is_empty(), "not one record yet");
    Ok(found)
}

/// The body of the hello that the handshake ended with: after a HelloRetryRequest it is the second.
fn hello<'a>(records: &[Record<'a>], kind: u8) -> Result<&'a [u8]> {
    let mut hellos = records.iter().filter(|record| record.kind == HANDSHAKE && record.body.first() == Some(&kind));
    let Some(last) = hellos.next_back() else { bail!("none of {} records", records.len()) };
    let mut reader = Reader(last.body);
    reader.take(1)?;
    let length = usize::from(reader.u8()?) << 16 | usize::from(reader.u16()?);
    reader.take(length)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).with_context(|| format!("{n} bytes of {}", self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().context("a byte")
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn vector8(&mut self) -> Result<&'a [u8]> {
        let n = self.u8()?;
        self.take(n.into())
    }

    fn vector16(&mut self) -> Result<&'a [u8]> {
        let n = self.u16()?;
        self.take(n.into())
    }
}

#[cfg(test)]
mod tests;
