//! Real handshakes of rustls, read as if captured.

use std::{io, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, crypto::aws_lc_rs};

use super::{TLS_1_3, X25519MLKEM768, session};

/// The bytes of both directions of a handshake and a word each way.
fn conversation(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Vec<u8>, Vec<u8>) {
    let key = rcgen::generate_simple_self_signed(vec!["lab".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![key.cert.der().clone()], private).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), "lab".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _round in 0..4 {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        server.read_tls(&mut io::Cursor::new(&sent)).unwrap();
        server.process_new_packets().unwrap();
        up.extend(sent);
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        client.read_tls(&mut io::Cursor::new(&sent)).unwrap();
        client.process_new_packets().unwrap();
        down.extend(sent);
    }
    io::Write::write_all(&mut client.writer(), b"a word").unwrap();
    client.write_tls(&mut up).unwrap();
    (up, down)
}

#[test]
fn a_hybrid_handshake_is_read_as_one() {
    let (up, down) = conversation(&[&rustls::version::TLS13]);
    let session = session(&up, &down).unwrap();
    assert_eq!((session.version, session.group, session.server_name), (TLS_1_3, X25519MLKEM768, true));
    assert!(session.n_encrypted >= 4 && !up.windows(6).any(|window| window == b"a word"), "{session:?}");
}

#[test]
fn an_older_handshake_and_clear_text_are_no_session() {
    let (up, down) = conversation(&[&rustls::version::TLS12]);
    assert!(session(&up, &down).unwrap_err().to_string().contains("older"));
    assert!(session(b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n").is_err());
}

#[test]
fn clear_text_after_the_hellos_is_found() {
    let (mut up, down) = conversation(&[&rustls::version::TLS13]);
    up.extend(b"GET / HTTP/1.1\r\n\r\n");
    assert!(session(&up, &down).is_err());
}
