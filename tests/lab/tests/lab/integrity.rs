//! Bytes arrive as they were sent, both ways at once, in pieces of any size; ends and resets arrive as what they are.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_lab::{Lab, peer::Ended, pod::CALL};

use crate::{config, scene};

/// Bytes up, down, and per write: nothing at all, around a segment, around TLS records and HTTP/2 frames, odd ones.
const SIZES: [(u64, u64, usize); 9] = [
    (0, 0, 1),
    (1, 0, 1),
    (0, 1, 1),
    (1_447, 1_449, 1),
    (16_384, 16_385, 16_384),
    (65_535, 65_537, 997),
    (1 << 20, 3, 65_536),
    (3, 1 << 20, 65_536),
    (5_000_011, 7_000_003, 131_071),
];

/// The paths: client, server.
const PATHS: [(&str, &str); 2] = [("shop/client", "shop/near"), ("shop/client", "shop/far")];

fn targets(lab: &Lab, server: &str) -> Result<[SocketAddr; 2]> {
    let of = lab.pod(server)?.addresses();
    Ok(of.both().map(|address| SocketAddr::new(address, 8080)))
}

#[test]
fn every_size_arrives_whole_with_its_half_close_on_every_path() {
    scene::mesh(&scene::two_nodes("sizes"), |lab| {
        for (client, server) in PATHS {
            let _serving = lab.pod(server)?.serves("[::]:8080", &[])?;
            for target in targets(lab, server)? {
                for (up, down, chunk) in SIZES {
                    let done = lab.pod(client)?.exchanges(target, up, down, chunk);
                    done.map_err(|error| {
                        error.context(format!("{client} → {target}: {up} up, {down} down by {chunk}"))
                    })?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn bulk_arrives_whole_each_way_on_every_path() {
    scene::mesh(&scene::two_nodes("bulk"), |lab| {
        let bytes = config::bulk_bytes();
        for (client, server) in PATHS {
            let _serving = lab.pod(server)?.serves("[::]:8080", &[])?;
            for target in targets(lab, server)? {
                let done = lab.pod(client)?.exchanges(target, bytes, bytes, 1 << 18)?;
                let rate = 2.0 * bytes as f64 / done.seconds / 1e6;
                println!(
                    "{client} → {target}: {bytes} bytes each way at {rate:.0} MB/s, sha256 {} {}",
                    done.up_sha256, done.down_sha256
                );
            }
        }
        Ok(())
    });
}

#[test]
fn a_reset_arrives_as_a_reset_at_either_end() {
    scene::mesh(&scene::two_nodes("resets"), |lab| {
        for (client, server) in PATHS {
            let mut serving = lab.pod(server)?.serves("[::]:8080", &[])?;
            for target in targets(lab, server)? {
                for after in ["0", "1", "100000"] {
                    let read: String =
                        lab.pod(client)?.peer(CALL, &["reset", &target.to_string(), "--after", after])?;
                    ensure!(
                        read == "ConnectionReset",
                        "{client} reads a reset by {target} after {after} bytes: {read}"
                    );
                }
                let aborted: SocketAddr = lab.pod(client)?.peer(CALL, &["abort", &target.to_string()])?;
                let line = serving.says("\"command\":\"hold\"", CALL)?;
                let ended: Ended = serde_json::from_str(&line)?;
                ensure!(ended.how == "ConnectionReset", "{server} reads the reset by {aborted}: {ended:?}");
            }
        }
        Ok(())
    });
}

/// A port that nobody listens on looks as it does without the mesh.
#[test]
fn a_closed_port_looks_closed() {
    scene::mesh(&scene::two_nodes("closed"), |lab| {
        for (client, server) in PATHS {
            for target in targets(lab, server)? {
                lab.pod(client)?.is_refused(target)?;
            }
        }
        Ok(())
    });
}
