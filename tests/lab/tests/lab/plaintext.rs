//! Plain text from where the kernel attests nobody: refused by a strict pod, taken by a permissive one.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use millrace_lab::{
    Lab, Part, clock,
    manifests::{Rule, access_policy, encryption_policy},
};

use crate::scene;

const PATIENCE: Duration = Duration::from_secs(10);

/// The greeting that one without a mesh gets, from the wire between the nodes.
fn from_outside(lab: &Lab, target: SocketAddr) -> Result<String> {
    lab.place("wire")?.inside(|| -> Result<String> {
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        ensure!(!line.is_empty(), "closed without a greeting");
        Ok(line)
    })?
}

#[test]
fn a_strict_pod_refuses_plain_text_and_a_permissive_one_takes_it() {
    scene::mesh(&scene::two_nodes("plaintext"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        let targets = far.addresses().both().map(|address| SocketAddr::new(address, 8080));
        for target in targets {
            let greeting = from_outside(lab, target).map_err(|error| error.context("permissive is the default"))?;
            ensure!(greeting.contains("172.30.0.1") || greeting.contains("fd30::1"), "it sees who called: {greeting}");
        }
        let strict = encryption_policy("shop/strict", "Strict", "web")?;
        lab.apply(&strict)?;
        for target in targets {
            let (_, took) = clock::until(PATIENCE, "a strict pod refuses plain text", || {
                let error = from_outside(lab, target).err().map(|error| format!("{error:#}"));
                ensure!(error.is_some(), "it took it");
                Ok(())
            })?;
            ensure!(took < Duration::from_secs(1), "in force within a second, not {took:?}");
            // The one before may have been cut off as the policy came, and not refused by it.
            ensure!(from_outside(lab, target).is_err(), "a strict pod refuses plain text");
        }
        // The caller sees the reset before the proxy's task has come to count it.
        clock::until(PATIENCE, "the refusals are counted by their reason", || {
            let labels = [("direction", "plaintext"), ("reason", "strict")];
            let metrics = lab.admin(Part::Proxy("b")).metrics()?;
            let refused = metrics.sum("millrace_proxy_connections_refused_total", &labels);
            ensure!(refused >= 2.0, "{refused}");
            Ok(())
        })?;
        lab.pod("shop/client")?.connects(targets[0])?;
        lab.pod("shop/caller")?.connects(targets[0])?;
        lab.remove(&strict)?;
        clock::until(PATIENCE, "without the policy it is taken again", || from_outside(lab, targets[0]))?;
        Ok(())
    });
}

/// A caller without identity is one that no Allow by identity matches.
#[test]
fn an_allow_by_identity_refuses_plain_text() {
    scene::mesh(&scene::two_nodes("nobody"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        from_outside(lab, far.at(8080))?;
        lab.apply(&access_policy("shop/known", "Allow", "web", &[Rule::identity("shop/client")])?)?;
        clock::until(PATIENCE, "nobody is refused", || {
            ensure!(from_outside(lab, far.at(8080)).is_err(), "it took it");
            Ok(())
        })?;
        lab.pod("shop/client")?.connects(far.at(8080))?;
        Ok(())
    });
}
