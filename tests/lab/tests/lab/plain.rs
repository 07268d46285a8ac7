//! The lab itself, without the mesh: what the other tests stand on.

use anyhow::{Result, ensure};
use millrace_lab::{Lab, clock, network, slot};

use crate::scene;

#[test]
fn pods_reach_each_other_on_both_families_and_see_true_addresses() {
    scene::plain(&scene::two_nodes("plain"), |lab| {
        for (from, to) in [("shop/client", "shop/near"), ("shop/client", "shop/far"), ("shop/caller", "shop/near")] {
            let (client, server) = (lab.pod(from)?, lab.pod(to)?);
            let _serving = server.serves("[::]:8080", &[])?;
            for target in [server.addresses().both()[0], server.addresses().both()[1], server.addresses().mapped()] {
                let called = client.connects(std::net::SocketAddr::new(target, 8080))?;
                let greeting = called.greeting.unwrap();
                ensure!(greeting.name == to, "{to} answers, not {}", greeting.name);
                ensure!(called.local == Some(greeting.peer) || target.to_canonical().is_ipv4(), "{greeting:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_closed_port_is_refused_and_a_bulk_exchange_is_intact() {
    scene::plain(&scene::two_nodes("bulk"), |lab| {
        let (client, server) = (lab.pod("shop/client")?, lab.pod("shop/far")?);
        client.is_refused(server.at(8080))?;
        let serving = server.serves("0.0.0.0:8080", &[])?;
        let exchanged = client.exchanges(server.at(8080), 20 << 20, 30 << 20, 65_536)?;
        ensure!(exchanged.down == 30 << 20, "{exchanged:?}");
        let read: String = client.peer(scene::CALL, &["reset", &server.at(8080).to_string(), "--after", "100000"])?;
        ensure!(read == "ConnectionReset", "a reset arrives as a reset, not as {read}");
        drop(serving);
        client.is_refused(server.at(8080))?;
        Ok(())
    });
}

#[test]
fn names_resolve_in_pods() {
    scene::plain(&scene::two_nodes("names"), |lab| {
        let vip = lab.topology().service("shop/web")?.addresses.v4.to_string();
        for name in ["web", "web.shop", "web.shop.svc.cluster.local"] {
            let found = lab.pod("shop/client")?.run(&["getent", "ahostsv4", name])?.ok()?;
            ensure!(found.starts_with(&vip), "{name} is {vip}, not {found:?}");
        }
        ensure!(
            lab.pod("other/guest")?.run(&["getent", "-s", "hosts:files", "hosts", "web"])?.ok().is_err(),
            "web is no name elsewhere"
        );
        Ok(())
    });
}

/// Dropped, a lab leaves nothing; two at once don't meet; it is up in under two seconds.
#[test]
fn labs_live_side_by_side_and_leave_nothing() {
    let start = clock::now();
    let one = Lab::up(&scene::two_nodes("one")).unwrap();
    let took = start.elapsed();
    let two = Lab::up(&scene::two_nodes("two")).unwrap();
    assert!(took.as_secs_f64() < 2.0, "a lab of six pods is up in two seconds, not {took:?}");
    assert_ne!(one.number(), two.number());
    let serving: Result<_> = one.pod("shop/far").and_then(|pod| pod.serves("0.0.0.0:8080", &[]));
    let serving = serving.unwrap();
    let (number, pid) = (one.number(), serving.pid());
    drop(one);
    assert!(!network::netns(number, "shop/far").exists() && !slot::directory(number).exists(), "lab {number} is gone");
    assert!(
        std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| s.contains("Z (zombie)")),
        "so is {pid}"
    );
    two.pod("shop/client").and_then(|pod| pod.run(&["true"])).unwrap().ok().unwrap();
}

/// The same capture that shows TLS elsewhere shows clear text here: it would not miss any.
#[test]
fn without_the_mesh_the_wire_is_in_the_clear() {
    scene::plain(&scene::two_nodes("clear"), |lab| {
        let _serving = lab.pod("shop/far")?.serves("0.0.0.0:8080", &[])?;
        let capture = lab.capture("a", "clear")?;
        let far = lab.pod("shop/far")?.at(8080);
        lab.pod("shop/client")?.connects(far)?;
        capture.shows(scene::CALL, "the greeting is on the wire", |flows| {
            ensure!(flows.iter().any(|flow| flow.source == far && flow.contains(b"\"name\":\"shop/far\"")));
            Ok(())
        })
    });
}
