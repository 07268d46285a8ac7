//! What paths lose and policies decide is in the records and metrics of real connections: segments sent again, round trips, names.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Part, clock,
    manifests::{Rule, access_policy},
    pod::Pod,
};
use serde_json::Value;

use super::{DOWN, SENT, UP, end, plan, sum};
use crate::scene;

/// How many packets a path loses: one of each three of those that carry much, until as many are lost.
const LOST: u32 = 6;

/// Runs a command in a pod, as who shapes its network does.
fn does(pod: &Pod<'_>, program: &str, words: &str) -> Result<String> {
    let output = pod.place()?.command(program)?.args(words.split(' ')).output()?;
    ensure!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Has a pod lose what comes in with these words.
fn loses(pod: &Pod<'_>, what: &str) -> Result<()> {
    does(pod, "nft", "add table inet lossy")?;
    does(pod, "nft", "add chain inet lossy in { type filter hook input priority 0 ; }")?;
    let rule =
        format!("{what} meta length > 500 numgen inc mod 3 1 limit rate 1/hour burst {LOST} packets counter drop");
    does(pod, "nft", &format!("add rule inet lossy in {rule}"))?;
    Ok(())
}

/// How many packets it has lost, and has lose no more.
fn lost(pod: &Pod<'_>) -> Result<u64> {
    let said = does(pod, "nft", "list chain inet lossy in")?;
    does(pod, "nft", "delete table inet lossy")?;
    let n = said.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(n.context("a counter")?.parse()?)
}

fn number(end: &Value, field: &str) -> Result<u64> {
    end[field].as_u64().with_context(|| format!("{field} of {end:#}"))
}

/// A path that loses has its segments counted: within a node, on the piece to the proxy, and on the piece from it.
#[test]
fn what_was_sent_again_is_told_on_each_piece_of_a_path_and_the_bytes_stay_true() {
    scene::mesh(&plan(), |lab| {
        let (client, near, far) = (lab.pod("shop/client")?, lab.pod("shop/near")?, lab.pod("shop/far")?);
        let _serving = [near.serves("[::]:8080", &[])?, far.serves("[::]:8080", &[])?];
        let cases = [
            ("a", &near, "tcp dport 8080", "client", &near),
            ("a", &client, "tcp dport 15801", "client", &far),
            ("b", &far, "tcp sport 8080", "server", &far),
        ];
        for (node, loser, what, side, server) in cases {
            let labels = [("reporter", side), ("source_workload", "client")];
            let before = sum(lab, node, "millrace_tcp_retransmits_total", &labels)?;
            loses(loser, what)?;
            let to: SocketAddr = server.at(8080);
            client.exchanges(to, UP, DOWN, super::CHUNK)?;
            let n_lost = lost(loser)?;
            let again = |end: &Value| end["retransmits"].as_u64() >= Some(n_lost) && end["asked"] == to.to_string();
            let told = end(lab, node, side, "closed", again)?;
            println!(
                "{what}: {n_lost} packets lost; the {side} tells {} sent again, rtt {} us, {} us long, {} bytes",
                number(&told, "retransmits")?,
                number(&told, "rtt_us")?,
                number(&told, "duration_us")?,
                number(&told, "bytes_sent")?,
            );
            ensure!(n_lost == u64::from(LOST), "the path loses {LOST} packets: {n_lost}");
            ensure!(number(&told, "bytes_sent")? == SENT, "what is sent again is sent once: {told:#}");
            ensure!(number(&told, "bytes_received")? > DOWN, "{told:#}");
            let counted = sum(lab, node, "millrace_tcp_retransmits_total", &labels)? - before;
            ensure!(counted >= number(&told, "retransmits")? as f64, "{counted} are in the metric: {told:#}");
        }
        Ok(())
    });
}

/// The queue before a narrow link is the delay.
#[test]
fn a_paths_delay_is_in_the_round_trip_time_and_in_its_histogram() {
    scene::mesh(&plan(), |lab| {
        let (client, near) = (lab.pod("shop/client")?, lab.pod("shop/near")?);
        let _serving = near.serves("[::]:8080", &[])?;
        does(&client, "tc", "qdisc add dev eth0 root tbf rate 100mbit burst 100kb limit 4mb")?;
        let began = clock::now();
        client.exchanges(near.at(8080), UP, DOWN, super::CHUNK)?;
        let took = clock::now().duration_since(began);
        let told = end(lab, "a", "client", "closed", |end| end["path"] == "direct")?;
        let (rtt, long) = (number(&told, "rtt_us")?, Duration::from_micros(number(&told, "duration_us")?));
        println!("3 MB over 100 Mbit/s: rtt {rtt} us, {long:?} long");
        ensure!(rtt > 2_000, "what waits in a queue is a round trip's: {told:#}");
        ensure!(long > Duration::from_millis(200) && long <= took, "3 MB take 240 ms, and {took:?} in all: {told:#}");
        let labels = [("reporter", "client"), ("source_workload", "client")];
        let (sum_s, count) = (
            sum(lab, "a", "millrace_tcp_rtt_seconds_sum", &labels)?,
            sum(lab, "a", "millrace_tcp_rtt_seconds_count", &labels)?,
        );
        ensure!(count == 1.0 && (sum_s - rtt as f64 / 1e6).abs() < 1e-4, "{count} of {sum_s} s: {told:#}");
        Ok(())
    });
}

/// By whom it was allowed stands on the connection; by whom it was denied on the decision.
#[test]
fn the_policy_that_let_a_connection_through_or_refused_it_is_named() {
    scene::mesh(&plan(), |lab| {
        let (client, near) = (lab.pod("shop/client")?, lab.pod("shop/near")?);
        let _serving = near.serves("[::]:8080", &[])?;
        let lets_in = access_policy("shop/lets-in", "Allow", "near", &[Rule::identity("shop/client")])?;
        lab.apply(&lets_in)?;
        clock::until(scene::CALL, "it is let through by name", || {
            client.connects(near.at(8080))?;
            let ends = super::ends(lab, "a", "client")?;
            ensure!(ends.iter().any(|end| end["policy"] == "shop/lets-in" && end["verdict"] == "closed"), "{ends:#?}");
            Ok(())
        })?;
        let keeps_out = access_policy("shop/keeps-out", "Deny", "near", &[Rule::identity("shop/client")])?;
        lab.apply(&keeps_out)?;
        clock::until(scene::CALL, "it is kept out", || client.is_refused(near.at(8080)))?;
        clock::until(scene::CALL, "the denial names its policy", || {
            let kept = lab.admin(Part::Agent("a")).get("/flows?follow=false")?;
            let flows = kept.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
            let is_it = |flow: &&Value| flow["verdict"] == "denied" && flow["source"] == "shop/client";
            let denied = flows.iter().find(is_it).context("no denial")?;
            ensure!(
                denied["policy"] == "shop/keeps-out" && denied["target"] == near.at(8080).to_string(),
                "{denied:#}"
            );
            let labels = [("source_workload", "client"), ("outcome", "denied")];
            ensure!(sum(lab, "a", "millrace_tcp_connections_failed_total", &labels)? >= 1.0);
            Ok(())
        })?;
        Ok(())
    });
}
