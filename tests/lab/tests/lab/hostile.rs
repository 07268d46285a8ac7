//! Peers that mean harm, at the tunnel port: each is refused, with its reason named in the proxy's metrics or its answer.

mod attack;
mod forge;
mod tunnel;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use forge::{Forge, Papers};
use millrace_lab::{
    Lab, Part, clock,
    manifests::{Rule, access_policy},
    metrics::Metrics,
};
use tunnel::{Outcome, ask};

use crate::scene::{self, CALL};

const TUNNEL: u16 = 15008;

/// How long a metric may lag behind what it counts.
const COUNTED: Duration = Duration::from_secs(3);

fn proxy_of_b(lab: &Lab) -> Result<Metrics> {
    lab.admin(Part::Proxy("b")).metrics()
}

/// Runs `attack` against node b, and checks that a series of that name with that reason grew.
fn is_counted<T>(lab: &Lab, metric: &str, reason: &str, attack: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = proxy_of_b(lab)?.sum(metric, &[("reason", reason)]);
    let outcome = attack()?;
    clock::until(COUNTED, &format!("{metric} counts {reason:?}"), || {
        let now = proxy_of_b(lab)?;
        let all: Vec<String> = now.select(metric, &[]).map(|s| format!("{:?} {}", s.labels, s.value)).collect();
        ensure!(now.sum(metric, &[("reason", reason)]) > before, "there is {all:?}");
        Ok(())
    })?;
    Ok(outcome)
}

#[test]
fn a_peer_without_good_papers_is_refused_by_name() {
    scene::mesh(&scene::two_nodes("papers"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        let (forge, stranger) = (Forge::of_mesh(lab)?, Forge::of_nobody()?);
        let client = "spiffe://cluster.local/ns/shop/sa/client";
        let cases: [(&str, Option<Papers>); 8] = [
            ("no_certificate", None),
            ("not_chained", Some(stranger.papers(&[client])?)),
            ("expired", Some(forge.expired(client)?)),
            ("other_trust_domain", Some(forge.papers(&["spiffe://evil.example/ns/shop/sa/client"])?)),
            ("not_spiffe", Some(forge.papers(&["spiffe://cluster.local/shop/client"])?)),
            ("many_uris", Some(forge.papers(&[client, "spiffe://cluster.local/ns/shop/sa/far"])?)),
            ("no_uri", Some(forge.papers(&[])?)),
            ("ca_as_leaf", Some(forge.as_authority(client)?)),
        ];
        let mut wrong = Vec::new();
        for (reason, papers) in cases {
            let attack = || ask(lab, far.at(TUNNEL), papers.as_ref(), &far.at(8080).to_string(), None);
            match is_counted(lab, "millrace_proxy_handshakes_failed_total", reason, attack) {
                Ok(Outcome::Closed(_)) => {}
                Ok(outcome) => wrong.push(format!("{reason}: it must be closed, not {outcome:?}")),
                Err(error) => wrong.push(format!("{reason}: {error:#}")),
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let good = ask(lab, far.at(TUNNEL), Some(&forge.papers(&[client])?), &far.at(8080).to_string(), None)?;
        ensure!(matches!(good, Outcome::Answered { status: 200, .. }), "with good papers it is let in: {good:?}");
        Ok(())
    });
}

#[test]
fn garbage_and_silence_leave_the_proxy_well() {
    scene::mesh(&scene::two_nodes("garbage"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        let failed =
            |lab: &Lab| -> Result<f64> { Ok(proxy_of_b(lab)?.sum("millrace_proxy_handshakes_failed_total", &[])) };
        let before = failed(lab)?;
        let throw = |bytes: &[u8]| -> Result<()> {
            lab.place("wire")?.inside(|| -> Result<()> {
                let mut stream = TcpStream::connect_timeout(&far.at(TUNNEL), CALL)?;
                stream.set_read_timeout(Some(CALL))?;
                stream.write_all(bytes)?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).ok(); // A reset is as good as an end.
                ensure!(answer.len() < 64, "an alert at most is answered, not {} bytes", answer.len());
                Ok(())
            })?
        };
        let noise: Vec<u8> = (0..4096_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        throw(b"GET / HTTP/1.1\r\nhost: far\r\n\r\n")?;
        throw(&noise)?;
        throw(&[22, 3, 1, 0xff, 0xff])?;
        throw(&[22, 3, 1, 0, 4, 1, 0, 0, 0])?;
        let idle: Result<Vec<TcpStream>> = lab
            .place("wire")?
            .inside(|| (0..200).map(|_| Ok(TcpStream::connect_timeout(&far.at(TUNNEL), CALL)?)).collect())?;
        let idle = idle?;
        lab.pod("shop/client")?.connects(far.at(8080))?;
        clock::until(COUNTED, "garbage is counted", || {
            ensure!(failed(lab)? >= before + 3.0, "{} from {before}", failed(lab)?);
            Ok(())
        })?;
        let panics = proxy_of_b(lab)?.sum("millrace_proxy_panics_total", &[]);
        ensure!(panics == 0.0 && idle.len() == 200, "no task panicked: {panics}");
        Ok(())
    });
}

/// A peer with good papers that asks for what is not there for it.
#[test]
fn a_tunnel_leads_only_to_the_address_it_came_to() {
    scene::mesh(&scene::two_nodes("authority"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        let papers = Forge::of_mesh(lab)?.papers(&["spiffe://cluster.local/ns/shop/sa/client"])?;
        let other = lab.pod("shop/caller")?.at(8080).to_string();
        let cases = [
            ("127.0.0.1:8080".to_owned(), "loopback_authority"),
            ("[::1]:8080".to_owned(), "loopback_authority"),
            (other, "other_address"),
            ("10.10.2.1:80".to_owned(), "other_address"),
            (far.at(TUNNEL).to_string(), "mesh_port"),
            (far.at(15801).to_string(), "mesh_port"),
            (far.at(15806).to_string(), "mesh_port"),
            (far.at(0).to_string(), "bad_authority"),
            ("far.shop.svc.cluster.local:8080".to_owned(), "bad_authority"),
        ];
        let mut wrong = Vec::new();
        for (authority, reason) in cases {
            let attack = || ask(lab, far.at(TUNNEL), Some(&papers), &authority, None);
            match is_counted(lab, "millrace_proxy_connections_refused_total", reason, attack) {
                Ok(Outcome::Answered { status: 400, .. }) => {}
                Ok(outcome) => wrong.push(format!("CONNECT {authority}: 400, not {outcome:?}")),
                Err(error) => wrong.push(format!("CONNECT {authority}: {error:#}")),
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

/// A valid certificate of another identity opens no door that is not that identity's, and lends nobody's address.
#[test]
fn a_valid_certificate_of_another_identity_is_only_itself() {
    scene::mesh(&scene::two_nodes("other"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        let forge = Forge::of_mesh(lab)?;
        let papers = forge.papers(&["spiffe://cluster.local/ns/other/sa/stranger"])?;
        let go =
            |forwarded: Option<&str>| ask(lab, far.at(TUNNEL), Some(&papers), &far.at(8080).to_string(), forwarded);
        let client = lab.pod("shop/client")?.addresses().v4;
        let spoofed = go(Some(&format!("for=\"{client}:4444\"")))?;
        let greeting = spoofed.greeting().context("it is let in, as itself")?;
        ensure!(greeting.contains("172.30.0.1"), "the application sees the tunnel's own peer: {greeting}");
        ensure!(!greeting.contains(&client.to_string()), "and not the address of another identity: {greeting}");
        let own = lab.pod("other/stranger")?.addresses().v4;
        let honest = go(Some(&format!("for=\"{own}:4444\"")))?;
        let greeting = honest.greeting().context("it is let in")?;
        ensure!(greeting.contains(&format!("{own}]:4444")), "its own address is shown: {greeting}");
        lab.apply(&access_policy("shop/guard", "Allow", "web", &[Rule::identity("shop/client")])?)?;
        let (refused, _) = clock::until(CALL, "it is refused", || {
            let outcome = go(None)?;
            ensure!(matches!(outcome, Outcome::Answered { status: 401, .. }), "{outcome:?}");
            Ok(outcome)
        })?;
        ensure!(format!("{refused:?}").contains("denied"), "with its reason: {refused:?}");
        Ok(())
    });
}

/// A server at a pod's address with a valid certificate of somebody else gets not one byte.
#[test]
fn a_server_with_another_identity_gets_nothing() {
    scene::mesh(&scene::two_nodes("impostor"), |lab| {
        let far = lab.pod("shop/far")?;
        // Node b is taken over: no agent, no proxy, no kernel program; an impostor answers at the pod's tunnel port.
        let (address, place) = (far.at(8080), far.place()?);
        lab.take(Part::Proxy("b"))?.kill()?;
        lab.take(Part::Agent("b"))?.kill()?;
        lab.forget_kernel("b")?;
        let papers = Forge::of_mesh(lab)?.papers(&["spiffe://cluster.local/ns/shop/sa/caller"])?;
        let listener =
            clock::until(CALL, "the port is free", || Ok(place.inside(|| TcpListener::bind(("0.0.0.0", TUNNEL)))??))?.0;
        let impostor = tunnel::Impostor::start(listener, &papers)?;
        let metric = "millrace_proxy_handshakes_failed_total";
        let reason = [("end", "client"), ("reason", "other_identity")];
        lab.pod("shop/client")?.is_refused(address)?;
        let counted = lab.admin(Part::Proxy("a")).metrics()?;
        ensure!(
            counted.sum(metric, &reason) >= 1.0,
            "the refusal is counted: {:?}",
            counted.select(metric, &[]).collect::<Vec<_>>()
        );
        ensure!(impostor.received()?.is_empty(), "it got not one byte");
        Ok(())
    });
}

/// Within the mesh, a pod can't even dial the mesh's own ports.
#[test]
fn a_pod_may_not_dial_mesh_ports() {
    scene::mesh(&scene::two_nodes("ports"), |lab| {
        for server in ["shop/near", "shop/far"] {
            for port in [TUNNEL, 15801, 15806] {
                let target: SocketAddr = lab.pod(server)?.at(port);
                lab.pod("other/stranger")?.is_refused(target)?;
            }
        }
        Ok(())
    });
}
