//! States what crosses a hand-over connection, and that whatever else comes is an error.

use std::{
    fs::File,
    io::{IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
};

use proptest::prelude::*;
use prost::Message as _;
use rustix::{
    fs::{MemfdFlags, SealFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType},
};

use super::{
    Connection, Fault, Listener, MAX_DESCRIPTORS, MAX_MESSAGE, Malformed, check_from_agent, check_from_proxy, seal,
    unseal,
};
use crate::{
    socket,
    wire::{
        mesh::ObjectName,
        node::{
            Drain, FromAgent, FromProxy, Hello, Keys, ListenerKind, Listeners, Returned, Snapshot, Sockets, Want,
            Welcome, from_agent, from_proxy,
        },
    },
};

fn hello() -> FromProxy {
    FromProxy {
        kind: Some(from_proxy::Kind::Hello(Hello {
            name: "default".into(),
            version: "0.1.0".into(),
            draining: false,
            takes_differences: false,
        })),
    }
}

fn from_agent(kind: from_agent::Kind) -> FromAgent {
    FromAgent { kind: Some(kind) }
}

fn pod() -> Option<ObjectName> {
    Some(ObjectName { namespace: "shop".into(), name: "web".into() })
}

#[tokio::test]
async fn a_packet_arrives_whole_with_its_descriptors_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.sock");
    let listener = Listener::bind(&path, 0o660).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let proxy = Connection::connect(&path).await.unwrap();
    let (agent, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.pid, rustix::process::getpid().as_raw_nonzero().get());

    proxy.send(&hello(), &[]).await.unwrap();
    let packet = agent.receive::<FromProxy>().await.unwrap().unwrap();
    assert_eq!(packet.message, hello());
    assert!(packet.descriptors.is_empty());

    let memory: Vec<OwnedFd> =
        (0..MAX_DESCRIPTORS).map(|n| seal("test", &[u8::try_from(n).unwrap()]).unwrap()).collect();
    let borrowed: Vec<BorrowedFd<'_>> = memory.iter().map(|fd| fd.as_fd()).collect();
    let sockets =
        from_agent(from_agent::Kind::Sockets(Sockets { workload: pod(), uid: "1".into(), family: 1, count: 64 }));
    agent.send(&sockets, &borrowed).await.unwrap();
    let packet = proxy.receive::<FromAgent>().await.unwrap().unwrap();
    check_from_agent(&packet.message, packet.descriptors.len()).unwrap();
    for (n, fd) in packet.descriptors.iter().enumerate() {
        assert_eq!(unseal(fd.as_fd(), 1).unwrap(), [u8::try_from(n).unwrap()]);
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    drop(agent);
    assert!(proxy.receive::<FromAgent>().await.unwrap().is_none());
}

/// The successor binds the same path while the predecessor still listens: no connect in between finds nobody.
#[tokio::test]
async fn a_successor_takes_the_path_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.sock");
    let old = Listener::bind(&path, 0o600).unwrap();
    let to_old = Connection::connect(&path).await.unwrap();
    let new = Listener::bind(&path, 0o600).unwrap();
    let to_new = Connection::connect(&path).await.unwrap();
    let (from_old, _) = old.accept().await.unwrap();
    let (from_new, _) = new.accept().await.unwrap();
    to_old.send(&hello(), &[]).await.unwrap();
    to_new.send(&hello(), &[]).await.unwrap();
    assert!(from_old.receive::<FromProxy>().await.unwrap().is_some());
    assert!(from_new.receive::<FromProxy>().await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_too_much_to_send_is_refused_before_it_is_sent() {
    let (one, _other) = Connection::pair().unwrap();
    let name = "x".repeat(MAX_MESSAGE);
    let long = FromProxy {
        kind: Some(from_proxy::Kind::Hello(Hello {
            name,
            version: String::new(),
            draining: false,
            takes_differences: false,
        })),
    };
    assert!(matches!(one.send(&long, &[]).await, Err(Fault::TooLong { .. })));
    assert!(matches!(one.send(&FromProxy { kind: None }, &[]).await, Err(Fault::Empty)));
    let memory = seal("test", b"").unwrap();
    let many = vec![memory.as_fd(); MAX_DESCRIPTORS + 1];
    assert!(matches!(one.send(&hello(), &many).await, Err(Fault::TooManyDescriptors)));
}

/// A sender that keeps to no bound of ours: raw bytes and descriptors.
async fn received(bytes: &[u8], n_descriptors: usize) -> Result<Option<usize>, Fault> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path, 0o600).unwrap();
    let raw = socket::socket(SocketType::SEQPACKET).unwrap();
    rustix::net::connect(&raw, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let (end, _) = listener.accept().await.unwrap();
    let memory = seal("test", b"").unwrap();
    let rights = vec![memory.as_fd(); n_descriptors];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if n_descriptors > 0 {
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
    }
    rustix::net::sendmsg(&raw, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    let got = end.receive::<FromProxy>().await.map(|packet| packet.map(|p| p.descriptors.len()));
    assert_eq!(open_on(&memory), 1, "descriptors of a refused packet stay open");
    got
}

/// How many descriptors of this process are open on this very file.
fn open_on(file: &OwnedFd) -> usize {
    let inode = rustix::fs::fstat(file).unwrap().st_ino;
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|entry| rustix::fs::stat(entry.unwrap().path()).ok()).filter(|s| s.st_ino == inode).count()
}

#[tokio::test]
async fn a_packet_over_a_bound_is_cut_and_said_to_be() {
    let whole = hello().encode_to_vec();
    assert!(matches!(received(&whole, 0).await, Ok(Some(0))));
    assert!(matches!(received(&vec![0; MAX_MESSAGE + 1], 0).await, Err(Fault::Truncated)));
    assert!(matches!(received(&whole, MAX_DESCRIPTORS + 40).await, Err(Fault::Truncated | Fault::TooManyDescriptors)));
    assert!(matches!(received(&whole, MAX_DESCRIPTORS + 1).await, Err(Fault::Truncated | Fault::TooManyDescriptors)));
}

#[tokio::test]
async fn bytes_that_are_no_message_are_an_error() {
    assert!(matches!(received(b"\xff\xff\xff\xff", 0).await, Err(Fault::Undecodable(_))));
    assert!(matches!(received(b"\xff", 3).await, Err(Fault::Undecodable(_))));
}

#[test]
fn memory_that_could_still_change_is_refused() {
    let bytes = vec![7; 100_000];
    let sealed = seal("snapshot", &bytes).unwrap();
    assert_eq!(unseal(sealed.as_fd(), 100_000).unwrap(), bytes);
    assert!(unseal(sealed.as_fd(), 99_999).is_err(), "over the limit");
    assert!(File::from(sealed).write_all(b"x").is_err(), "sealed for its maker too");

    let open = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(unseal(open.as_fd(), 1).is_err());
    rustix::fs::fcntl_add_seals(&open, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).unwrap();
    assert!(unseal(open.as_fd(), 1).is_err(), "without F_SEAL_SEAL");
    let file = tempfile::tempfile().unwrap();
    assert!(unseal(file.as_fd(), 1).is_err(), "a file has no seals");
}

#[test]
fn reading_sealed_memory_leaves_its_offset_alone() {
    let sealed = seal("snapshot", b"bytes").unwrap();
    let mut file = File::from(sealed.try_clone().unwrap());
    let mut two = [0; 2];
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut two).unwrap();
    assert_eq!(unseal(sealed.as_fd(), 5).unwrap(), b"bytes");
    file.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"te");
}

#[test]
fn a_message_with_another_number_of_descriptors_is_malformed() {
    let kinds = vec![ListenerKind::OutboundV4.into(), ListenerKind::TunnelV4.into()];
    let listeners = Listeners { workload: pod(), uid: "1".into(), kinds: kinds.clone() };
    let identity = String::from("spiffe://td/ns/shop/sa/web");
    for (message, expected) in [
        (from_agent::Kind::Welcome(Welcome { node: "a".into() }), 2),
        (from_agent::Kind::Snapshot(Snapshot { generation: 1, settings: None, from: 0 }), 1),
        (from_agent::Kind::Listeners(listeners), 2),
        (from_agent::Kind::Keys(Keys { identity }), 1),
        (from_agent::Kind::Drain(Drain { deadline_ms: 1 }), 0),
    ] {
        let message = from_agent(message);
        for n in 0..4 {
            let is_right = n == expected;
            assert_eq!(check_from_agent(&message, n).is_ok(), is_right, "{message:?} with {n}");
        }
    }
    let returned = Returned { workload: pod(), uid: "1".into(), kinds };
    let returned = FromProxy { kind: Some(from_proxy::Kind::Returned(returned)) };
    assert!(check_from_proxy(&returned, 2).is_ok());
    assert_eq!(
        check_from_proxy(&returned, 1),
        Err(Malformed::Descriptors { message: "Returned", expected: 2, got: 1 })
    );
}

#[test]
fn a_field_out_of_bounds_is_named() {
    let want = |workload, family, count| {
        let want = Want { workload, uid: "1".into(), family, count };
        check_from_proxy(&FromProxy { kind: Some(from_proxy::Kind::Want(want)) }, 0)
    };
    assert_eq!(want(pod(), 1, 64), Ok(()));
    assert_eq!(want(pod(), 1, 65), Err(Malformed::Field("Want.count")));
    assert_eq!(want(pod(), 1, 0), Err(Malformed::Field("Want.count")));
    assert_eq!(want(pod(), 3, 1), Err(Malformed::Field("Want.family")));
    assert_eq!(want(None, 1, 1), Err(Malformed::Field("Want.workload")));

    let listeners = |kinds: Vec<i32>, n| {
        let listeners = Listeners { workload: pod(), uid: "1".into(), kinds };
        check_from_agent(&from_agent(from_agent::Kind::Listeners(listeners)), n)
    };
    assert_eq!(listeners(vec![1, 1], 2), Err(Malformed::Twice("Listeners")));
    assert_eq!(listeners(vec![99], 1), Err(Malformed::Field("Listeners")));
    assert_eq!(check_from_agent(&FromAgent { kind: None }, 0), Err(Malformed::Kind));
    let keys = from_agent(from_agent::Kind::Keys(Keys { identity: "spiffe://td/web".into() }));
    assert!(matches!(check_from_agent(&keys, 1), Err(Malformed::Identity("Keys", _))));
}

proptest! {
    /// Whatever the bytes and the count: a verdict, and no panic.
    #[test]
    fn any_bytes_are_decoded_and_checked_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), n in 0usize..70) {
        if let Ok(message) = FromAgent::decode(bytes.as_slice()) {
            drop(check_from_agent(&message, n));
        }
        if let Ok(message) = FromProxy::decode(bytes.as_slice()) {
            drop(check_from_proxy(&message, n));
        }
    }
}
