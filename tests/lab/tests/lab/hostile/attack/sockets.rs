//! Attacks at the sockets of the agent, the proxy's admin and the control plane: strangers, garbage, replays, crowds, what is
//! too large. Each is turned away, memory stays as it was, and the mesh goes on.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, clock, mesh::CONTROL_PORT, plan};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, sendmsg,
        socket_with,
    },
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

use super::{
    attacked,
    kinds::{Kind, Pace},
    resident::{resident, watch},
};
use crate::scene::{self, CALL};

/// What a process may come to hold above what it held, whatever is thrown at its sockets.
const MOST: u64 = 64 << 20;

/// Somebody of this machine who is neither root nor the proxy.
const STRANGER: u32 = 65_534;

fn open(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut none = SendAncillaryBuffer::default();
    sendmsg(socket, &[IoSlice::new(bytes)], &mut none, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

/// As a user who is nobody, on a thread of its own.
fn as_stranger<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let (gid, uid) = (Gid::from_raw(STRANGER), Uid::from_raw(STRANGER));
                rustix::thread::set_thread_groups(&[]).unwrap();
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, uid).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

#[test]
fn a_stranger_of_the_node_opens_none_of_the_meshs_sockets() {
    scene::mesh(&scene::two_nodes("strangers"), |lab| {
        let run = lab.run_directory("b");
        let sockets = [
            (run.join("proxy.sock"), SocketType::SEQPACKET),
            (run.join("agent-admin.sock"), SocketType::STREAM),
            (run.join("proxy-admin.sock"), SocketType::STREAM),
            (lab.directory().join("wire/run/control-admin.sock"), SocketType::STREAM),
        ];
        for (path, kind) in sockets {
            open(&path, kind).with_context(|| format!("root opens {}", path.display()))?;
            let refused = as_stranger(|| open(&path, kind)).err().map(|error| error.kind());
            ensure!(refused == Some(io::ErrorKind::PermissionDenied), "{}: {refused:?}", path.display());
        }
        Ok(())
    });
}

/// From one who may connect, as a proxy that was broken into may.
#[test]
fn garbage_replays_and_crowds_at_the_agents_socket_change_nothing() {
    scene::mesh(&scene::two_nodes("knocks"), |lab| {
        let _serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let path = lab.run_directory("b").join("proxy.sock");
        let agent = lab.pid(Part::Agent("b"))?;
        // As protobuf has it: field 1, Hello, with the name "default"; and Applied, which may not come first.
        let hello = [0x0a, 0x09, 0x0a, 0x07, b'd', b'e', b'f', b'a', b'u', b'l', b't'];
        let noise: Vec<u8> = (0..2048_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let ((), held) = watch(&[agent], || {
            for round in 0..200 {
                let Ok(socket) = open(&path, SocketType::SEQPACKET) else { continue };
                let said: &[&[u8]] = match round % 4 {
                    0 => &[&noise],
                    1 => &[&[7; 20_000]],
                    2 => &[&[0x1a, 0x00]],
                    _ => &[&hello, &hello],
                };
                // A connection that was closed meanwhile is one that was refused.
                said.iter().for_each(|bytes| {
                    send(&socket, bytes).ok();
                });
            }
            let crowd: Vec<_> = (0..200).map_while(|_| open(&path, SocketType::SEQPACKET).ok()).collect();
            thread::sleep(Duration::from_millis(200));
            drop(crowd);
        })?;
        let held = held.first().context("the agent is watched")?;
        ensure!(held.peak < held.before + MOST, "the agent came to hold {held:?}");
        let said = std::fs::read_to_string(lab.logs().join("b-agent.err"))?;
        ensure!(
            said.contains("a proxy was let go") && said.contains("too many connections to the proxy's socket"),
            "it is told"
        );
        // The proxy that serves was not let go for it, or is back.
        clock::until(CALL, "the mesh goes on", || {
            lab.admin(Part::Agent("b")).ready()?;
            lab.pod("shop/client")?.connects(lab.pod("shop/far")?.at(8080))
        })?;
        Ok(())
    });
}

#[test]
fn a_crowd_at_an_admin_socket_waits_its_turn_and_is_let_go() {
    scene::mesh(&scene::two_nodes("crowd"), |lab| {
        for (part, path) in [
            (Part::Agent("b"), lab.run_directory("b").join("agent-admin.sock")),
            (Part::Proxy("b"), lab.run_directory("b").join("proxy-admin.sock")),
        ] {
            let pid = lab.pid(part)?;
            let before = resident(pid)?;
            let crowd: Vec<_> = (0..100).map_while(|_| open(&path, SocketType::STREAM).ok()).collect();
            for socket in &crowd {
                // A head that does not end.
                send(socket, b"GET /metrics HTTP/1.1\r\nx: ").ok();
            }
            ensure!(crowd.len() == 100, "they wait in the backlog");
            // Those whose head does not end are let go after five seconds, and the rest have their turn then.
            clock::until(CALL * 3, "somebody else is answered", || lab.admin(part).ready())?;
            let now = resident(pid)?;
            ensure!(now < before + MOST, "{part:?} came to hold {now} of {before}");
            let large = format!("PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1 << 30);
            send(&open(&path, SocketType::STREAM)?, large.as_bytes()).ok();
        }
        Ok(())
    });
}

#[test]
fn floods_at_the_control_plane_are_bounded_and_no_node_loses_its_stream() {
    scene::mesh(&scene::two_nodes("control"), |lab| {
        let control = SocketAddr::new(plan::WIRE.v4.into(), CONTROL_PORT);
        let refused = |lab: &Lab, reason| -> Result<f64> {
            let metrics = lab.admin(Part::Control).metrics()?;
            Ok(metrics.sum("millrace_control_connections_refused_total", &[("reason", reason)]))
        };
        let cases = [
            (Kind::Idle, 400, Some("too_many_handshakes")),
            (Kind::Garbage, 8, Some("handshake")),
            (Kind::IdleTunnels, 64, Some("too_many_without_certificate")),
            (Kind::RapidReset, 4, None),
            (Kind::Continuations, 4, None),
            (Kind::HeaderBomb, 4, None),
            (Kind::Pings, 4, None),
        ];
        for (kind, many, reason) in cases {
            let before = reason.map(|reason| refused(lab, reason)).transpose()?;
            let work = || -> Result<()> {
                thread::sleep(Duration::from_millis(600));
                let Some((reason, before)) = reason.zip(before) else { return Ok(()) };
                clock::until(CALL, &format!("{kind:?} is counted as {reason}"), || {
                    ensure!(refused(lab, reason)? > before, "it stays at {before}");
                    Ok(())
                })?;
                Ok(())
            };
            let pid = lab.pid(Part::Control)?;
            let (attack, held) = watch(&[pid], || attacked(lab, (kind, many, Pace::Eager), control, work))?;
            attack?.1?;
            let held = held.first().context("the control plane is watched")?;
            println!("| {kind:?} | {many} at once | {held:?} |");
            ensure!(held.peak < held.before + MOST * 2, "{kind:?}: the control plane came to hold {held:?}");
            let status = lab.admin(Part::Control).json("/status")?.to_string();
            ensure!(status.matches("\"connected\":true").count() == 2, "{kind:?}: both nodes are connected: {status}");
        }
        lab.settle()?;
        Ok(())
    });
}
