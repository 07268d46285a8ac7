//! What an eavesdropper between two nodes sees.

use anyhow::{Result, ensure};
use millrace_lab::{
    capture::tls::{TLS_1_3, X25519MLKEM768},
    demo::wire,
};

use crate::scene::{self, CALL};

#[test]
fn between_nodes_all_is_tls_1_3_with_a_hybrid_key_exchange() {
    scene::mesh(&scene::two_nodes("wire"), |lab| {
        let _serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let capture = lab.capture("a", "wire")?;
        let far = lab.pod("shop/far")?;
        let client = lab.pod("shop/client")?;
        for address in far.addresses().both() {
            client.connects(std::net::SocketAddr::new(address, 8080))?;
        }
        client.exchanges(far.at(8080), 100_000, 100_000, 10_000)?;
        capture.shows(CALL, "both families' tunnels are on the wire", |flows| {
            let sessions = wire::sessions(flows)?;
            ensure!(sessions.iter().any(|(flow, _)| flow.source.is_ipv6()), "none over IPv6 yet");
            ensure!(sessions.iter().any(|(flow, _)| flow.source.is_ipv4()), "none over IPv4 yet");
            let encrypted: usize = sessions.iter().map(|(_, session)| session.encrypted_bytes).sum();
            ensure!(encrypted > 200_000, "{encrypted} bytes so far");
            Ok(())
        })?;
        let flows = capture.flows()?;
        let sessions = wire::sessions(&flows)?;
        for (flow, session) in &sessions {
            let (from, to) = (flow.source, flow.target);
            ensure!(session.version == TLS_1_3, "{from} → {to} is TLS 1.3: {session:?}");
            ensure!(session.group == X25519MLKEM768, "{from} → {to} exchanges keys by X25519MLKEM768: {session:?}");
            ensure!(!session.server_name, "{from} → {to} names no server in the clear");
        }
        let outside = wire::bytes_outside_tunnels(&flows);
        ensure!(outside == 0, "nothing between pods passes outside the tunnels, but {outside} bytes");
        ensure!(wire::clear_line(&flows, "shop/far").is_none(), "nothing is in the clear");
        Ok(())
    });
}

/// The bytes of a same-node call pass no proxy, in no direction.
#[test]
fn a_same_node_call_passes_no_proxy() {
    scene::mesh(&scene::two_nodes("direct"), |lab| {
        let _serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let carried = |lab: &millrace_lab::Lab| -> Result<f64> {
            let metrics = lab.admin(millrace_lab::Part::Proxy("a")).metrics()?;
            let opened = metrics.sum("millrace_proxy_connections_opened_total", &[]);
            Ok(opened + metrics.sum("millrace_proxy_bytes_total", &[]))
        };
        let before = carried(lab)?;
        let near = lab.pod("shop/near")?;
        for address in near.addresses().both() {
            let target = std::net::SocketAddr::new(address, 8080);
            lab.pod("shop/client")?.exchanges(target, 1 << 20, 1 << 20, 65_536)?;
        }
        ensure!(
            carried(lab)? == before,
            "no proxy carried a byte or took a connection: {} and then {}",
            before,
            carried(lab)?
        );
        Ok(())
    });
}
