//! What each knob of a NodeProfile helps: pairs of runs, one without the knob and one with it, in turn, so that a machine that
//! drifts drifts under both. Prints the table of docs/TUNING.md; states nothing but that both ran. For figures worth writing
//! down the proxy beside the tests is one built for release, and the machine is quiet.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    delay::{DEVICE, Delay},
    peer::{Connects, Pings},
};
use serde_json::{Value, json};

use crate::{
    profile::comes,
    scene::{self, CALL},
};

/// Pairs of each knob: an odd number, for a median.
const PAIRS: usize = 5;

/// How long bytes flow in one run.
const SECONDS: &str = "1";

/// Round trips, and connections, of one run.
const PINGS: &str = "2000";
const CONNECTS: &str = "600";

/// Megabits a second of the narrow link, and how much of it may wait: 160 ms of it.
const NARROW: [&str; 6] = ["rate", "200mbit", "burst", "128kb", "limit", "4mb"];

/// Where bytes go in a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To another node, through both proxies.
    Across,
    /// The same over a link of 200 Mbit/s with a deep queue.
    Narrow,
    /// Within the node, past the proxy.
    Within,
}

/// Figures of one run, by name.
type Figures = Vec<(&'static str, f64)>;

fn profile(spec: &Value) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "NodeProfile",
        "metadata": {"name": "measured"},
        "spec": spec,
    })
}

/// Has both nodes tuned so, by fresh proxies: every tunnel is new.
fn tune(lab: &mut Lab, spec: &Value) -> Result<()> {
    lab.apply(&profile(spec))?;
    lab.settle()?;
    for node in ["a", "b"] {
        lab.take(Part::Proxy(node))?.stop()?;
        lab.start(Part::Proxy(node))?;
    }
    for node in ["a", "b"] {
        lab.wait_ready(Part::Proxy(node))?;
    }
    lab.settle()?;
    Ok(())
}

/// Seconds of processor, and MiB resident, of both proxies.
fn spent(lab: &Lab) -> Result<(f64, f64)> {
    let (mut seconds, mut resident) = (0.0, 0.0);
    for node in ["a", "b"] {
        let pid = lab.pid(Part::Proxy(node))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name in brackets: utime and stime are the 12th and 13th, in hundredths.
        let fields = stat.rsplit_once(')').context("no stat")?.1.split_whitespace();
        seconds += fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        resident += line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0;
    }
    Ok((seconds, resident))
}

/// Gbit/s of so many streams, and bytes that arrived.
fn flows(lab: &Lab, to: &str, streams: &str) -> Result<(f64, f64)> {
    let arguments = ["iperf3", "-c", to, "-p", "5201", "-t", SECONDS, "-P", streams, "-J"];
    // Its server is busy with the run before for as long as a deep queue takes to drain, and says so to who comes meanwhile.
    let (received, _) = clock::until(CALL, "a run comes to its end", || {
        let said: Value = serde_json::from_str(&lab.pod("shop/client")?.run_within(CALL * 2, &arguments)?.stdout)?;
        said.pointer("/end/sum_received").cloned().with_context(|| format!("iperf3 says no sum: {}", said["error"]))
    })?;
    let number = |field: &str| received.get(field).and_then(Value::as_f64).with_context(|| format!("no {field}"));
    Ok((number("bits_per_second")? / 1e9, number("bytes")?))
}

fn run(lab: &Lab, way: Way) -> Result<Figures> {
    let server = lab.pod(if way == Way::Within { "shop/near" } else { "shop/far" })?;
    let (host, at) = (server.addresses().v4.to_string(), server.at(8080).to_string());
    let client = lab.pod("shop/client")?;
    let pings = || -> Result<Pings> { client.peer(CALL, &["pings", &at, "--count", PINGS]) };
    let mut figures = Figures::new();
    let before = spent(lab)?.0;
    let (one, bytes) = flows(lab, &host, "1")?;
    let (four, more) = flows(lab, &host, "4")?;
    figures.push(("1 stream, Gbit/s", one));
    figures.push(("4 streams, Gbit/s", four));
    if way != Way::Within {
        figures.push(("proxies' CPU-s per GB", (spent(lab)?.0 - before) / (bytes + more) * 1e9));
    }
    let alone = pings()?;
    figures.push(("64 B round trip p50, us", alone.p50_us));
    figures.push(("64 B round trip p99, us", alone.p99_us));
    let beside = {
        // Until the bulk has filled what it will fill: iperf3 tells nobody.
        let (seconds, filled, count) = match way {
            Way::Narrow => ("3", Duration::from_millis(1000), "8"),
            Way::Across | Way::Within => (SECONDS, Duration::from_millis(300), "300"),
        };
        let mut bulk = client.start("bulk", &["iperf3", "-c", &host, "-p", "5201", "-t", seconds, "-P", "1", "-J"])?;
        std::thread::sleep(filled);
        let arguments = ["pings", &at, "--count", count];
        let beside: Pings = client.peer(CALL, &arguments)?;
        bulk.wait(CALL)?;
        beside
    };
    figures.push(("round trip beside bulk p50, us", beside.p50_us));
    if way != Way::Narrow {
        let done: Connects = client.peer(CALL * 3, &["connects", &at, "--count", CONNECTS, "--threads", "8"])?;
        figures.push(("short connections/s", f64::from(done.by_name.values().sum::<u32>()) / done.seconds));
    }
    if way != Way::Within {
        figures.push(("proxies' memory at most, MiB", spent(lab)?.1));
    }
    Ok(figures)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs pairs of each knob and prints what came of them.
fn compare(name: &str, way: Way, knobs: &[(&str, Value)]) {
    let plan = scene::two_nodes(name);
    scene::mesh(&plan, |lab| {
        let _servers = [
            lab.pod("shop/near")?.serves("[::]:8080", &[])?,
            lab.pod("shop/far")?.serves("[::]:8080", &[])?,
            lab.pod("shop/near")?.start("iperf", &["iperf3", "-s", "-p", "5201"])?,
            lab.pod("shop/far")?.start("iperf", &["iperf3", "-s", "-p", "5201"])?,
        ];
        if way == Way::Narrow {
            for node in ["a", "b"] {
                let mut command = lab.place(node)?.command("tc")?;
                command.args(["qdisc", "add", "dev", "eth0", "root", "tbf"]).args(NARROW);
                anyhow::ensure!(command.status()?.success(), "no narrow link");
            }
        }
        for (knob, spec) in knobs {
            let began = clock::now();
            let mut pairs: Vec<[Figures; 2]> = Vec::new();
            for _ in 0..PAIRS {
                tune(lab, &json!({}))?;
                let without = run(lab, way)?;
                tune(lab, spec)?;
                pairs.push([without, run(lab, way)?]);
            }
            println!(
                "{name}: {knob}, {PAIRS} pairs in {:.0} s: without, with, ratio (least to most)",
                began.elapsed().as_secs_f64()
            );
            let [first, _] = pairs.first().context("no pair")?;
            for (index, (figure, _)) in first.iter().enumerate() {
                let of = |side: usize| pairs.iter().map(|pair| pair[side][index].1).collect::<Vec<f64>>();
                let ratios: Vec<f64> = pairs.iter().map(|pair| pair[1][index].1 / pair[0][index].1).collect();
                let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(l, m), r| (l.min(*r), m.max(*r)));
                println!(
                    "  {figure:<32} {:>9.2} {:>9.2} {:>6.2} ({least:.2} to {most:.2})",
                    median(of(0)),
                    median(of(1)),
                    median(ratios)
                );
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "long: measures workers and processors, minutes on a quiet machine"]
fn tuning_of_workers_and_processors() {
    compare(
        "tune-workers",
        Way::Across,
        &[
            ("workers: 1", json!({"proxy": {"workers": 1}})),
            ("workers: 4", json!({"proxy": {"workers": 4}})),
            ("cpus: 0-1", json!({"proxy": {"cpus": "0-1"}})),
        ],
    );
}

#[test]
#[ignore = "long: measures HTTP/2 windows and frames, minutes on a quiet machine"]
fn tuning_of_windows_and_frames() {
    compare(
        "tune-windows",
        Way::Across,
        &[
            ("streamWindowBytes: 65535", json!({"proxy": {"http2": {"streamWindowBytes": 65_535}}})),
            ("streamWindowBytes: 8 MiB", json!({"proxy": {"http2": {"streamWindowBytes": 8_388_608}}})),
            ("frameBytes: 16384", json!({"proxy": {"http2": {"frameBytes": 16_384}}})),
        ],
    );
}

#[test]
#[ignore = "long: measures socket buffers, minutes on a quiet machine"]
fn tuning_of_socket_buffers() {
    compare(
        "tune-buffers",
        Way::Across,
        &[
            ("both buffers 64 KiB", json!({"proxy": {"sendBufferBytes": 65_536, "receiveBufferBytes": 65_536}})),
            ("both buffers 4 MiB", json!({"proxy": {"sendBufferBytes": 4_194_304, "receiveBufferBytes": 4_194_304}})),
        ],
    );
}

#[test]
#[ignore = "long: measures congestion control of tunnels, minutes on a quiet machine"]
fn tuning_of_the_tunnels_congestion_control() {
    compare("tune-cc", Way::Across, &[("congestionControl: cubic", json!({"proxy": {"congestionControl": "cubic"}}))]);
}

#[test]
#[ignore = "long: measures congestion control over a narrow link, minutes on a quiet machine"]
fn tuning_of_congestion_control_over_a_narrow_link() {
    compare(
        "narrow-cc",
        Way::Narrow,
        &[("congestionControl: cubic", json!({"proxy": {"congestionControl": "cubic"}}))],
    );
}

#[test]
#[ignore = "long: measures socket buffers over a narrow link, minutes on a quiet machine"]
fn tuning_of_socket_buffers_over_a_narrow_link() {
    let both = |bytes: u32| json!({"proxy": {"sendBufferBytes": bytes, "receiveBufferBytes": bytes}});
    compare("narrow-buffers", Way::Narrow, &[("both buffers 64 KiB", both(65_536))]);
}

#[test]
#[ignore = "long: measures windows over a narrow link, minutes on a quiet machine"]
fn tuning_of_windows_over_a_narrow_link() {
    let small = json!({"proxy": {"http2": {"streamWindowBytes": 65_535}}});
    compare("narrow-windows", Way::Narrow, &[("streamWindowBytes: 65535", small)]);
}

#[test]
#[ignore = "long: measures pods' own connections, minutes on a quiet machine"]
fn tuning_of_pods_connections() {
    compare(
        "tune-pods",
        Way::Within,
        &[
            ("pods.congestionControl: cubic", json!({"pods": {"congestionControl": "cubic"}})),
            ("pods.initialWindowSegments: 40", json!({"pods": {"initialWindowSegments": 40}})),
        ],
    );
}

/// How long a packet takes from node to node on the path with delay: a round trip of 20 ms.
const ONE_WAY: Duration = Duration::from_millis(10);

/// What is sent there: more than ten segments and twenty, which are two round trips at the kernel's initial window, and less than forty.
const BODY: usize = 48 * 1_024;

/// Has what goes between these two pods of the nodes a and b go over the path with delay.
fn slow(lab: &Lab, near: &str, far: &str) -> Result<Delay> {
    let [a, b] = [lab.place("a")?, lab.place("b")?];
    let delay = Delay::between(&a.netns, &b.netns, ONE_WAY)?;
    for (node, to) in [(a, far), (b, near)] {
        let to = lab.pod(to)?.addresses().v4.to_string();
        for words in [vec!["link", "set", DEVICE, "up"], vec!["route", "add", &to, "dev", DEVICE]] {
            ensure!(node.command("ip")?.args(&words).status()?.success(), "ip {words:?} in {}", node.netns.display());
        }
    }
    Ok(delay)
}

/// Milliseconds that a request with [`BODY`] takes from its connect to its answer.
fn post(lab: &Lab, url: &str, body: &str) -> Result<f64> {
    let words =
        ["curl", "-sS", "--max-time", "8", "-H", "Expect:", "-o", "/dev/null", "-w", "%{time_total}", "--data-binary"];
    let words: Vec<&str> = words.into_iter().chain([body, url]).collect();
    Ok(lab.pod("shop/client")?.run(&words)?.ok()?.trim().parse::<f64>()? * 1e3)
}

/// To who is not in the mesh a pod's connection is its own from end to end, and so is its window.
#[test]
fn a_larger_initial_window_saves_round_trips_on_a_path_with_delay() {
    let plan =
        Plan::new("tune-delay").node("a", [Pod::new("shop/client")]).node("b", [Pod::new("shop/hermit").outside()]);
    scene::mesh(&plan, |lab| {
        let _delay = slow(lab, "shop/client", "shop/hermit")?;
        let program = lab.binaries().path("probe-http")?.display().to_string();
        let mut server = lab.pod("shop/hermit")?.start("web", &[&program, "serve", "[::]:8080", "--name", "hermit"])?;
        server.says("listening", CALL)?;
        let body = lab.directory().join("body");
        fs::write(&body, vec![b'x'; BODY])?;
        let (url, body) = (format!("http://{}/", lab.pod("shop/hermit")?.at(8080)), format!("@{}", body.display()));
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            for (segments, figures) in [(10, &mut without), (40, &mut with)] {
                lab.apply(&profile(&json!({"pods": {"initialWindowSegments": segments}})))?;
                comes(lab, ("a", "spec.pods.initialWindowSegments"), &segments.to_string())?;
                figures.push(post(lab, &url, &body)?);
            }
        }
        println!(
            "{BODY} bytes over a path of 20 ms, each pair's ms without and with 40 segments: {without:.0?}, {with:.0?}"
        );
        let (without, with) = (median(without), median(with));
        println!("the medians: {without:.1} and {with:.1} ms, {:.2}", with / without);
        // Of a connect and three flights two are saved.
        ensure!(with + 30.0 < without, "40 segments at once save round trips: {with:.1} ms, {without:.1} without");
        Ok(())
    });
}
