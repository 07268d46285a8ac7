//! What is told of a path that loses and delays is what the kernel's own statistics say of the very connection.

use std::{net::SocketAddr, process::Command};

use millrace_abi::Side;

use super::{exchange, of, scene, told};
use crate::node::{Family, Pod, ip};

/// How many data packets the path loses: one of each three, until as many are lost.
const LOST: u32 = 6;

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn inside(pod: &Pod, program: &str, words: &str) -> String {
    let all: Vec<&str> = ["netns", "exec", pod.name(), program].into_iter().chain(words.split(' ')).collect();
    run("ip", &all)
}

/// Has a pod lose data that comes to its port 8080. An acknowledgement alone is shorter than that.
fn loses(pod: &Pod) {
    inside(pod, "nft", "add table inet lossy");
    inside(pod, "nft", "add chain inet lossy in { type filter hook input priority 0 ; }");
    let rule = format!("tcp dport 8080 meta length > 500 numgen inc mod 3 1 limit rate 1/hour burst {LOST} packets");
    inside(pod, "nft", &format!("add rule inet lossy in {rule} counter drop"));
}

/// How many packets it has lost.
fn lost(pod: &Pod) -> u32 {
    let said = inside(pod, "nft", "list chain inet lossy in");
    said.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Segments that sockets of a pod's have sent again, by the namespace's own count.
fn sent_again(pod: &Pod) -> u32 {
    let said = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let [names, values] = said.lines().filter(|line| line.starts_with("Tcp:")).collect::<Vec<_>>()[..] else {
        panic!("{said}")
    };
    let at = names.split(' ').position(|name| name == "RetransSegs").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// The smoothed round-trip time of a pod's connection to here, in microseconds, as the kernel tells anybody.
fn smoothed(pod: &Pod, to: SocketAddr) -> f64 {
    let ip = to.ip();
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let said = inside(pod, "ss", &format!("-tinH dst {host}"));
    let rtt = said.split(" rtt:").nth(1).unwrap_or_else(|| panic!("no rtt in {said}"));
    rtt.split('/').next().unwrap().parse::<f64>().unwrap() * 1000.0
}

#[test]
fn what_is_sent_again_is_told_to_the_segment_and_bytes_are_told_as_if_it_were_not() {
    let (node, client, server, listener) = scene();
    loses(&server);
    for family in [Family::V4, Family::V6] {
        let to = server.address(family, 8080);
        let (before, n_lost) = (sent_again(&client), lost(&server));
        exchange(client.connects(to).unwrap(), listener.accept().unwrap().0, true);
        let end = of(&told(&node, 1), Side::Client);
        let (again, n_lost) = (sent_again(&client) - before, lost(&server) - n_lost);
        println!("{to}: {n_lost} packets were lost, {again} segments sent again, {} told", end.retransmits);
        assert_eq!(end.retransmits, again, "{end:?}");
        assert_eq!((end.sent, end.received), (super::UP as u64, super::DOWN as u64));
        if family == Family::V4 {
            assert!(n_lost > 0 && again >= n_lost, "{n_lost} lost, {again} sent again");
        }
    }
}

/// The queue before a narrow link is the delay: 100 kB wait up to 40 ms at 20 Mbit/s.
#[test]
fn the_round_trip_time_that_is_told_is_that_of_the_path() {
    let (node, client, server, listener) = scene();
    let to = server.address(Family::V4, 8080);
    exchange(client.connects(to).unwrap(), listener.accept().unwrap().0, true);
    let quick = of(&told(&node, 1), Side::Client);
    inside(&client, "tc", "qdisc add dev eth0 root tbf rate 20mbit burst 5000 limit 1mb");
    ip(&format!("-n {} link set eth0 gso_max_size 1500", client.name()));
    let stream = client.connects(to).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let looked = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::Write::write_all(&mut &stream, &vec![1; super::UP]).unwrap());
        std::io::Read::read_exact(&mut &accepted, &mut vec![0; super::UP]).unwrap();
    });
    drop(accepted);
    assert_eq!(std::io::Read::read(&mut &looked, &mut [0]).unwrap(), 0);
    let kernels = smoothed(&client, to);
    drop((looked, stream));
    let slow = of(&told(&node, 1), Side::Client);
    println!("without a queue {} us, with one {} us; the kernel says {kernels} us", quick.srtt_us, slow.srtt_us);
    assert!(slow.srtt_us > 3 * quick.srtt_us && slow.srtt_us > 2_000, "{quick:?} {slow:?}");
    // Its last segment is measured too.
    let ratio = f64::from(slow.srtt_us) / kernels;
    assert!((0.6..1.5).contains(&ratio), "{} us told, {kernels} us by the kernel", slow.srtt_us);
    assert!(slow.duration_ns > 20_000_000, "100 kB take 40 ms: {slow:?}");
}
