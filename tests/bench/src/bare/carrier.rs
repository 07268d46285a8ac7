//! Carries many connections' bytes in one of TLS 1.3: each piece behind eight bytes that say whose it is and how long. A piece of no
//! length is its connection's end.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    crypto::aws_lc_rs::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};

use super::{CHUNK, LISTENER, NAME, QUIET, accepted, ready};
use crate::poll::{Change, Poll};

/// The number of the shared connection in the loop.
const SHARED: usize = LISTENER - 1;

/// Read of the shared connection with one call.
const BULK: usize = 256 * 1024;

/// Whose and how long: a number each.
const HEADER: usize = 8;

/// One end of the pair.
pub(super) struct Carrier {
    tls: Connection,
    socket: TcpStream,
    poll: Poll,
    streams: HashMap<usize, TcpStream>,
    next: usize,
    /// Pieces to be sent.
    out: Vec<u8>,
    /// What came and is no whole piece yet.
    came: Vec<u8>,
    buffer: Vec<u8>,
}

/// As the peers do: AES-128-GCM.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..default_provider() })
}

impl Carrier {
    /// The client's.
    pub(super) fn client(to: SocketAddr, roots: &Path) -> Result<Self> {
        let mut trusted = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(roots)? {
            trusted.add(root?)?;
        }
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let config = config.with_root_certificates(trusted).with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME)?)?;
        Self::new(tls.into(), TcpStream::connect(to)?)
    }

    /// The server's, for one client.
    pub(super) fn server(listener: &TcpListener, both: &Path) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(both)?.collect::<Result<Vec<_>, _>>()?;
        let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let config = config.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(both)?)?;
        let (stream, _) = listener.accept()?;
        Self::new(ServerConnection::new(Arc::new(config))?.into(), stream)
    }

    fn new(mut tls: Connection, mut socket: TcpStream) -> Result<Self> {
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        tls.set_buffer_limit(None);
        let (socket, poll) = (ready(socket)?, Poll::new()?);
        poll.add(&socket, SHARED)?;
        let (out, came, buffer) = (Vec::new(), Vec::new(), vec![0; BULK]);
        Ok(Self { tls, socket, poll, streams: HashMap::new(), next: 0, out, came, buffer })
    }

    /// Carries until the shared connection ends: what `listener` takes, or what the far end has taken `to` there.
    pub(super) fn run(mut self, listener: Option<&TcpListener>, to: Option<SocketAddr>) -> Result<()> {
        if let Some(listener) = listener {
            listener.set_nonblocking(true)?;
            self.poll.add(listener, LISTENER)?;
        }
        loop {
            for Change { number, has_ended } in self.poll.wait(QUIET)? {
                match (number, listener) {
                    (LISTENER, Some(listener)) => {
                        while let Some(stream) = accepted(listener)? {
                            self.poll.add(&stream, self.next)?;
                            self.streams.insert(self.next, stream);
                            self.next += 1;
                        }
                    }
                    (SHARED, _) => {
                        if !self.receive(to)? {
                            return Ok(());
                        }
                    }
                    _ => self.take(number, has_ended)?,
                }
            }
            self.send()?;
        }
    }

    /// Takes what a connection has sent.
    fn take(&mut self, number: usize, has_ended: bool) -> Result<()> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        let buffer = self.buffer.get_mut(..CHUNK).context("a buffer")?;
        loop {
            match stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(n) if n > 0 => {
                    piece(&mut self.out, number, buffer.get(..n).unwrap_or_default())?;
                    if n < CHUNK && !has_ended {
                        return Ok(());
                    }
                }
                Ok(_) | Err(_) => {
                    self.streams.remove(&number);
                    return piece(&mut self.out, number, &[]);
                }
            }
        }
    }

    /// Sends what was taken.
    fn send(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.tls.writer().write_all(&self.out)?;
            self.out.clear();
        }
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                // It goes on when the loop says that there is room.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what the far end has sent; false when it has ended.
    fn receive(&mut self, to: Option<SocketAddr>) -> Result<bool> {
        loop {
            match self.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    let mut rest = self.buffer.get(..n).unwrap_or_default();
                    while !rest.is_empty() {
                        self.tls.read_tls(&mut rest)?;
                        let n = self.tls.process_new_packets()?.plaintext_bytes_to_read();
                        let from = self.came.len();
                        self.came.resize(from + n, 0);
                        self.tls.reader().read_exact(self.came.get_mut(from..).unwrap_or_default())?;
                    }
                    self.give(to)?;
                    if n < BULK {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives whole pieces to their connections.
    fn give(&mut self, to: Option<SocketAddr>) -> Result<()> {
        let mut at = 0;
        while let Some((number, bytes)) = whole(self.came.get(at..).unwrap_or_default()) {
            at += HEADER + bytes.len();
            if bytes.is_empty() {
                self.streams.remove(&number);
                continue;
            }
            if let (Some(to), false) = (to, self.streams.contains_key(&number)) {
                let stream = ready(TcpStream::connect(to)?)?;
                self.poll.add(&stream, number)?;
                self.streams.insert(number, stream);
            }
            // One that has gone meanwhile is given nothing; all of it is small, and taken whole.
            if let Some(stream) = self.streams.get_mut(&number)
                && stream.write_all(bytes).is_err()
            {
                self.streams.remove(&number);
            }
        }
        self.came.drain(..at);
        Ok(())
    }
}

fn piece(out: &mut Vec<u8>, number: usize, bytes: &[u8]) -> Result<()> {
    out.extend_from_slice(&u32::try_from(number)?.to_be_bytes());
    out.extend_from_slice(&u32::try_from(bytes.len())?.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// The first piece, where it is whole.
fn whole(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let [number, length] = [number, length].map(|bytes: &[u8; 4]| u32::from_be_bytes(*bytes) as usize);
    Some((number, rest.get(..length)?))
}
