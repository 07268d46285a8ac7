//! The binary itself: what it gives up when root starts it, and that it works without it.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use millrace_model::{Identity, Snapshot};
use millrace_node::{
    credentials::{Expect, client_config},
    wire::node::ListenerKind,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    agent::{FakeAgent, Makes, Say},
    authority::Authority,
    netns::Netns,
    stage::{SOON, refused, workload},
    storage::storage,
};

fn start(dir: &std::path::Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_millrace-proxy"))
        .args(["--workers", "2", "--run-dir", dir.to_str().unwrap()])
        .args(arguments)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn status(path: &std::path::Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path.join("status")).unwrap();
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(field).collect()
}

/// One GET on the admin socket: the whole response.
async fn ask(dir: &std::path::Path, path: &str) -> String {
    let mut stream = UnixStream::connect(dir.join("proxy-admin.sock")).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    timeout(SOON, stream.read_to_string(&mut response)).await.unwrap().unwrap();
    response
}

/// Waits until the metrics have this line: the last connections may still be ending.
async fn says(dir: &std::path::Path, line: &str) {
    let mut metrics = String::new();
    for _ in 0..200 {
        metrics = ask(dir, "/metrics").await;
        if metrics.contains(line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{line} is not in\n{metrics}");
}

#[tokio::test]
async fn started_as_root_it_gives_everything_up_and_serves_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // The directory is root's: what the proxy needs in it must be there before it is nobody.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let netns = Netns::new();
    let storages = || [storage(40).expect("root can make socket storage"), storage(20).unwrap()];
    let makes = Makes { sockets_in: Some(netns.clone()), storage: storages };
    let mut agent = FakeAgent::start(&dir.path().join("proxy.sock"), makes);
    let mut child = start(dir.path(), &[]);

    let address = IpAddr::V4(Ipv4Addr::new(127, 5, 0, 2));
    let (api, web) = (workload("api", address, "here"), workload("web", [127, 5, 0, 1].into(), "there"));
    let mut snapshot = Snapshot { generation: 7, trust_domain: "cluster.local".into(), ..Snapshot::default() };
    for workload in [&api, &web] {
        snapshot.workloads.insert(workload.name.clone(), Arc::new(workload.clone()));
    }
    let authority = Authority::new();
    agent.say(Say::Snapshot(Arc::new(snapshot))).await;
    timeout(SOON, agent.applied(7)).await.unwrap();
    agent.say(Say::Keys(api.identity.clone(), authority.issue(&api.identity))).await;
    let listeners =
        [(ListenerKind::TunnelV4, 15008), (ListenerKind::PlaintextV4, 9000), (ListenerKind::OutboundV4, 9001)];
    let mut bound: Vec<(ListenerKind, OwnedFd)> = Vec::new();
    for (kind, port) in listeners {
        bound.push((kind, TcpListener::bind((address, port)).await.unwrap().into_std().unwrap().into()));
    }
    agent.say(Say::Listeners(api.name.clone(), bound)).await;

    Box::pin(carries_a_tunnel(&authority, &api.identity, &web.identity, &netns, address)).await;
    let plain = netns.listen(SocketAddr::new(address, 9000));
    let (client, accepted) = tokio::join!(TcpStream::connect((address, 9000)), plain.accept());
    let (mut client, mut server) = (client.unwrap(), accepted.unwrap().0);
    server.write_all(b"hello").await.unwrap();
    drop(server);
    let mut said = String::new();
    timeout(SOON, client.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "hello");
    drop(client);
    // Nothing was captured here: the real look-up in ORIGINAL finds nothing.
    assert_eq!(refused(TcpStream::connect((address, 9001)).await).await, ErrorKind::ConnectionReset);

    assert!(ask(dir.path(), "/readyz").await.starts_with("HTTP/1.1 200"));
    for line in [
        "millrace_proxy_connections_closed_total{direction=\"inbound\",outcome=\"closed\"} 1",
        "millrace_proxy_connections_closed_total{direction=\"plaintext\",outcome=\"closed\"} 1",
        "millrace_proxy_connections_refused_total{direction=\"outbound\",reason=\"no_original\"} 1",
        "millrace_proxy_snapshot_generation 7",
        "millrace_proxy_descriptors_left ",
    ] {
        says(dir.path(), line).await;
    }
    let config = ask(dir.path(), "/config").await;
    assert!(config.contains("spiffe://cluster.local/ns/shop/sa/api") && !config.contains("PRIVATE"));

    has_nothing(child.id().unwrap());
    let mut err = child.stderr.take().unwrap();
    rustix::process::kill_process(pid(&child), rustix::process::Signal::TERM).unwrap();
    assert!(timeout(SOON, child.wait()).await.expect("nothing is open: it ends at once").unwrap().success());
    let mut log = String::new();
    err.read_to_string(&mut log).await.unwrap();
    let event = log.lines().find(|line| line.contains("\"inbound\"")).expect("a connection's event").to_owned();
    for part in ["\"outcome\":\"closed\"", "shop/web", "shop/api", "spiffe://cluster.local/ns/shop/sa/web"] {
        assert!(event.contains(part), "{part} is not in {event}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap()
}

/// Every thread of it.
fn has_nothing(pid: u32) {
    let mut n_threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = status(&task.unwrap().path());
        n_threads += 1;
        for (field, value) in [
            ("Uid", "15008\t15008\t15008\t15008"),
            ("Gid", "15008\t15008\t15008\t15008"),
            ("Groups", ""),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(status.get(field).map(String::as_str), Some(value), "{field}");
        }
    }
    assert_eq!(n_threads, 5, "main, acceptor, two workers, and who wrote /config");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
}

async fn carries_a_tunnel(authority: &Authority, api: &Identity, web: &Identity, netns: &Netns, address: IpAddr) {
    let listener = netns.listen(SocketAddr::new(address, 8080));
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let key = authority.issue(web);
    let expect = Expect::Identity(api.clone());
    let config = client_config(Some(&key), &key.bundle, expect, &[b"h2"]).unwrap();
    let stream = connect(SocketAddr::new(address, 15008)).await;
    let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::from(address), stream).await.unwrap();
    let group = tls.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let (send, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(http::Method::CONNECT)
        .uri(format!("{address}:8080"))
        .header("forwarded", "for=\"127.5.0.1:5000\"")
        .body(())
        .unwrap();
    let (response, mut body) = send.ready().await.unwrap().send_request(request, false).unwrap();
    let response = timeout(SOON, response).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let bytes = vec![5; 50_000];
    body.send_data(bytes.clone().into(), true).unwrap();
    let mut recv = response.into_body();
    let mut back = Vec::new();
    while let Some(frame) = timeout(SOON, recv.data()).await.unwrap() {
        let frame = frame.unwrap();
        recv.flow_control().release_capacity(frame.len()).unwrap();
        back.extend_from_slice(&frame);
    }
    assert!(back == bytes);
    echo.await.unwrap();
}

/// The listener is there before the proxy was told of it; what it accepts first is judged when it is.
async fn connect(address: SocketAddr) -> TcpStream {
    timeout(SOON, TcpStream::connect(address)).await.unwrap().unwrap()
}

/// 300 descriptors, of which 256 are kept back: the connection too many is refused by name, and what is open goes on.
#[tokio::test]
async fn a_connection_too_many_is_refused_before_descriptors_run_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let netns = Netns::new();
    let storages = || [storage(40).unwrap(), storage(20).unwrap()];
    let makes = Makes { sockets_in: Some(netns.clone()), storage: storages };
    let mut agent = FakeAgent::start(&dir.path().join("proxy.sock"), makes);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=300:300", env!("CARGO_BIN_EXE_millrace-proxy"), "--workers", "2", "--run-dir"]);
    let _child = command.arg(dir.path()).kill_on_drop(true).stderr(Stdio::null()).spawn().unwrap();
    let address = IpAddr::V4(Ipv4Addr::new(127, 6, 0, 2));
    let api = workload("api", address, "here");
    let mut snapshot = Snapshot { generation: 1, trust_domain: "cluster.local".into(), ..Snapshot::default() };
    snapshot.workloads.insert(api.name.clone(), Arc::new(api.clone()));
    agent.say(Say::Snapshot(Arc::new(snapshot))).await;
    let listener = TcpListener::bind((address, 9000)).await.unwrap().into_std().unwrap();
    agent.say(Say::Listeners(api.name.clone(), vec![(ListenerKind::PlaintextV4, listener.into())])).await;
    timeout(SOON, agent.applied(1)).await.unwrap();
    let application = netns.listen(SocketAddr::new(address, 9000));
    let mut open = Vec::new();
    let mut n_refused = 0;
    for _ in 0..60 {
        match first(&application, TcpStream::connect((address, 9000)).await).await {
            Some(pair) => open.push(pair),
            None => n_refused += 1,
        }
    }
    assert!(n_refused > 10 && open.len() > 10, "{n_refused} refused, {} open", open.len());
    says(dir.path(), "reason=\"no_descriptor\"}").await;
    for (client, server) in &mut open {
        client.write_all(b"!").await.unwrap();
        timeout(SOON, server.read_exact(&mut [0])).await.unwrap().unwrap();
    }
    // What is closed comes back.
    open.clear();
    for _ in 0..200 {
        if first(&application, TcpStream::connect((address, 9000)).await).await.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("descriptors did not come back");
}

/// Both ends of a client's connection; None where it was reset, while it connected or after.
async fn first(application: &TcpListener, connected: std::io::Result<TcpStream>) -> Option<(TcpStream, TcpStream)> {
    let mut client = connected.ok()?;
    let mut byte = [0];
    tokio::select! {
        accepted = application.accept() => Some((client, accepted.unwrap().0)),
        read = client.read(&mut byte) => {
            assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
            None
        }
    }
}

#[tokio::test]
async fn a_user_with_capabilities_is_refused_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // A user other than root with one capability kept: what a container's runtime may give by mistake.
    let with_capability = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "15008", "--regid", "15008", "--clear-groups"]);
        command.args(["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"]);
        command.arg(env!("CARGO_BIN_EXE_millrace-proxy")).args(["--run-dir", dir.path().to_str().unwrap()]);
        command.args(arguments).kill_on_drop(true).stderr(Stdio::piped()).stdin(Stdio::null());
        command.spawn().unwrap()
    };
    let mut refused = with_capability(&[]);
    let ended = timeout(SOON, refused.wait()).await.unwrap().unwrap();
    assert!(!ended.success());
    let mut said = String::new();
    refused.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert!(said.contains("NET_RAW") && said.contains("--allow-privileged"), "{said}");
    let mut told = with_capability(&["--allow-privileged"]);
    assert!(timeout(Duration::from_millis(500), told.wait()).await.is_err(), "it runs");
    rustix::process::kill_process(pid(&told), rustix::process::Signal::TERM).unwrap();
    assert!(timeout(SOON, told.wait()).await.unwrap().unwrap().success());
}
