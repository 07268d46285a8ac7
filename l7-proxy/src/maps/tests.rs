//! States what is read of sockets, and shown on them, through real maps.

#[path = "../../tests/carried/storage.rs"]
pub(crate) mod storage;

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd as _,
};

use storage::storage;

use super::{Asked, BPF_MAP_LOOKUP_ELEM, KernelMaps, Pick, SocketMaps as _, asked, element, shown};

fn socket_address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_record_is_read_as_the_kernel_writes_it() {
    let mut value = [0; 40];
    value[10..16].copy_from_slice(&[0xff, 0xff, 10, 96, 0, 1]);
    value[16..32].copy_from_slice(&[0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    value[32..36].copy_from_slice(&[0, 80, 0x1f, 0x90]);
    value[36] = 3;
    let read = Asked {
        address: socket_address("10.96.0.1:80"),
        backend: socket_address("[fd10::7]:8080"),
        pick: Default::default(),
    };
    assert_eq!(asked(&value), Some(read));
    value[37] = 1;
    assert_eq!(asked(&value), Some(Asked { pick: Pick::Binding, ..read }));
    value[36] = 1;
    assert_eq!(asked(&value), None, "a record on the application's own socket is not the proxy's to read");
}

#[test]
fn a_client_is_shown_v4_mapped() {
    let bytes = shown(socket_address("10.0.0.1:258"));
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1, 1, 2, 0, 0]);
}

/// Real socket storage in the kernel, made here by bpf(2): needs root, as the whole lab does.
#[test]
fn socket_storage_in_the_kernel_is_read_and_written() {
    let Some((original, client)) = storage(40).zip(storage(20)) else {
        assert!(!rustix::process::geteuid().is_root(), "root must be able to make socket storage");
        return;
    };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut value = [0; 40];
    value[10..16].copy_from_slice(&[0xff, 0xff, 10, 96, 0, 1]);
    value[32..34].copy_from_slice(&[0, 80]);
    value[36] = 3;
    let maps = KernelMaps::new(original.try_clone().unwrap(), client.try_clone().unwrap());
    assert_eq!(maps.original(socket.as_fd()).unwrap(), None);
    element(super::BPF_MAP_UPDATE_ELEM, &original, socket.as_fd(), &mut value).unwrap();
    assert_eq!(maps.original(socket.as_fd()).unwrap().unwrap().address, socket_address("10.96.0.1:80"));
    maps.show(socket.as_fd(), socket_address("[fd10::1]:9")).unwrap();
    let mut back = [0; 20];
    element(BPF_MAP_LOOKUP_ELEM, &client, socket.as_fd(), &mut back).unwrap();
    assert_eq!(back, shown(socket_address("[fd10::1]:9")));
}
