//! The path table: every way to reach a server, and that both ends see the truth on it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use millrace_lab::{Lab, Plan, Pod, peer::Called, plan::Addresses, pod};

use crate::scene;

/// How a server listens: address, port, and whether by MPTCP.
const SERVERS: [Listens; 3] =
    [("0.0.0.0:8081", 8081, &[]), ("[::]:8082", 8082, &[]), ("[::]:8083", 8083, &["--mptcp"])];

/// Address and port, the port again, and flags of the server.
type Listens = (&'static str, u16, &'static [&'static str]);

/// How a client calls: by TCP, and by MPTCP.
const CLIENTS: [&[&str]; 2] = [&[], &["--mptcp"]];

/// One way to a server.
struct Way<'a> {
    client: pod::Pod<'a>,
    server: pod::Pod<'a>,
    /// What the client asks for.
    asked: SocketAddr,
    port: u16,
    /// The client's flags.
    flags: &'static [&'static str],
}

#[test]
fn both_ends_see_the_truth_on_every_path() {
    let ports = SERVERS.map(|(_, port, _)| (port - 8000, port));
    let plan = Plan::new("paths")
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near")])
        .node("b", [Pod::new("shop/far")])
        .service("shop/near", &ports)
        .service("shop/far", &ports);
    scene::mesh(&plan, |lab| {
        let mut serving = Vec::new();
        for server in ["shop/near", "shop/far"] {
            for (listen, _, more) in SERVERS {
                serving.push(lab.pod(server)?.serves(listen, more)?);
            }
        }
        let ways = ways(lab)?;
        ensure!(ways.len() == 2 * 2 * 2 * (2 + 3 + 3), "{} ways", ways.len());
        let wrong: Vec<String> = ways.iter().filter_map(|way| way.is_wrong().err()).map(|e| format!("{e:#}")).collect();
        ensure!(wrong.is_empty(), "{} of {} paths:\n{}", wrong.len(), ways.len(), wrong.join("\n"));
        Ok(())
    });
}

fn ways(lab: &Lab) -> Result<Vec<Way<'_>>> {
    let mut ways = Vec::new();
    let client = lab.pod("shop/client")?;
    for name in ["shop/near", "shop/far"] {
        let server = lab.pod(name)?;
        for (listen, port, _) in SERVERS {
            let families = |of: Addresses| match listen.starts_with("0.0.0.0") {
                true => vec![IpAddr::V4(of.v4), of.mapped()],
                false => vec![IpAddr::V4(of.v4), IpAddr::V6(of.v6), of.mapped()],
            };
            let by_pod = families(server.addresses()).into_iter().map(|address| SocketAddr::new(address, port));
            let service = families(lab.topology().service(name)?.addresses).into_iter();
            let by_service = service.map(|address| SocketAddr::new(address, port - 8000));
            for asked in by_pod.chain(by_service) {
                ways.extend(CLIENTS.map(|flags| Way { client, server, asked, port, flags }));
            }
        }
    }
    Ok(ways)
}

impl Way<'_> {
    fn is_wrong(&self) -> Result<()> {
        let flags = self.flags.join(" ");
        let says = || format!("{} → {} asked for at {} {flags}", self.client.name(), self.server.name(), self.asked);
        let asked = self.asked.to_string();
        let mut arguments = vec!["call", &asked];
        arguments.extend(self.flags);
        let called: Called = self.client.peer(pod::CALL, &arguments).map_err(|error| error.context(says()))?;
        ensure!(called.error.is_none(), "{}: it connects, not {called:?}", says());
        self.ends_agree(&called).map_err(|error| error.context(says()))
    }

    fn ends_agree(&self, called: &Called) -> Result<()> {
        let greeting = called.greeting.as_ref().unwrap();
        ensure!(greeting.name == self.server.name(), "the right backend answers, not {}", greeting.name);
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let own = |pod: pod::Pod<'_>| {
            let both = pod.addresses().both();
            both[usize::from(!canonical(self.asked).is_ipv4())]
        };
        let (peer, local) = (called.peer.unwrap(), called.local.unwrap());
        ensure!(peer == self.asked, "the client's getpeername() says what was asked for, not {peer}");
        ensure!(
            canonical(local).ip() == own(self.client),
            "the client's getsockname() says its pod's address, not {local}"
        );
        ensure!(
            local.is_ipv4() == self.asked.is_ipv4(),
            "the client's getsockname() is of its socket's family: {local}"
        );
        for (call, seen) in [("accept()", greeting.accept), ("getpeername()", greeting.peer)] {
            ensure!(
                canonical(seen).ip() == own(self.client),
                "the server's {call} says the client's address, not {seen}"
            );
            ensure!(
                canonical(seen).port() == local.port(),
                "the server's {call} says the client's port {}, not {seen}",
                local.port()
            );
        }
        let bound = canonical(greeting.local);
        ensure!(
            bound == SocketAddr::new(own(self.server), self.port),
            "the server's getsockname() says where it serves, not {bound}"
        );
        Ok(())
    }
}
