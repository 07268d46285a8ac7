//! Bytes come back to who sent them, however many share what carries them.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use super::{carrier::Carrier, plain};
use crate::peer::certificates::Certificates;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Answers every eight bytes with the same, backwards.
fn server() -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut stream, mut bytes) = (stream, [0; 8]);
                while stream.read_exact(&mut bytes).is_ok() {
                    bytes.reverse();
                    stream.write_all(&bytes).unwrap();
                }
            });
        }
    });
    address
}

/// Each of several connections has its own answers.
fn answers(address: SocketAddr) {
    let mut clients: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
    let patience = Some(std::time::Duration::from_secs(20));
    clients.iter().for_each(|client| client.set_read_timeout(patience).unwrap());
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("{number} of {round}..").as_bytes()).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut answer = [0; 8];
            client.read_exact(&mut answer).unwrap();
            answer.reverse();
            assert_eq!(answer, format!("{number} of {round}..").as_bytes());
        }
    }
}

#[test]
fn what_is_forwarded_comes_back_to_who_asked() {
    let (listener, to) = (TcpListener::bind(ANY).unwrap(), server());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || plain(&listener, to));
    answers(address);
    answers(address);
}

#[test]
fn connections_that_share_one_of_tls_keep_their_bytes_apart() {
    let directory = std::env::temp_dir().join(format!("millrace-bare-{}", std::process::id()));
    let certificates = Certificates::make(&directory).unwrap();
    let (far, to) = (TcpListener::bind(ANY).unwrap(), server());
    let middle = far.local_addr().unwrap();
    let both = certificates.path("bare-both.pem");
    thread::spawn(move || Carrier::server(&far, &both).and_then(|carrier| carrier.run(None, Some(to))));
    let carrier = Carrier::client(middle, &certificates.path("root.pem")).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || carrier.run(Some(&listener), None));
    answers(address);
    answers(address);
}
