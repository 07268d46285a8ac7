//! Programs that others wrote, through the mesh: they know nothing of it, and notice nothing.

use anyhow::{Result, ensure};
use millrace_lab::{
    Lab,
    pod::{BULK, CALL},
    shop::{PORT, Role},
};

use crate::scene;

/// Requests of h2load, and how many connections it spreads them over.
const REQUESTS: u32 = 2_000;
const AT_ONCE: u32 = 50;

/// Each with the far side on the same node and on the other.
const SERVERS: [&str; 2] = ["shop/near", "shop/far"];

fn serve_shop(lab: &mut Lab) -> Result<()> {
    let program = lab.binaries().path("shop")?.display().to_string();
    for name in SERVERS {
        let pod = lab.pod(name)?;
        let arguments = [&program, &Role::Catalogue.to_string(), "--pod", name, "--node", pod.node()];
        let process = pod.start("shop", &arguments)?;
        pod.listens(PORT)?;
        lab.adopt(process);
    }
    Ok(())
}

#[test]
fn curl_and_h2load_get_every_answer() {
    scene::mesh(&scene::two_nodes("http"), |lab| {
        serve_shop(lab)?;
        for server in SERVERS {
            for address in lab.pod(server)?.addresses().both() {
                let url = format!("http://{}/", std::net::SocketAddr::new(address, PORT));
                let client = lab.pod("shop/client")?;
                ensure!(client.get(&url)?.contains(server), "{server} answers curl at {url}");
                let (n, c) = (REQUESTS.to_string(), AT_ONCE.to_string());
                let said = client.run_within(BULK, &["h2load", "--h1", "-n", &n, "-c", &c, &url])?.ok()?;
                let all = format!("{REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
                ensure!(said.contains(&all), "h2load gets {REQUESTS} answers from {url}: {said}");
            }
        }
        Ok(())
    });
}

#[test]
fn iperf3_runs_both_ways() {
    scene::mesh(&scene::two_nodes("iperf"), |lab| {
        for server in SERVERS {
            let target = lab.pod(server)?.addresses().v4.to_string();
            for direction in ["--bidir", "--reverse"] {
                // One server for each run, and nobody else connects to it: it takes one client at a time, and a connection that only
                // looks whether it listens is a client to it, for which it may still be busy when the real one comes.
                let mut serving = lab.pod(server)?.start("iperf3", &["iperf3", "--server", "--one-off"])?;
                until_listening(lab, server, 5201)?;
                let arguments = ["iperf3", "--client", &target, "--time", "1", "--parallel", "4", direction, "--json"];
                let said = lab.pod("shop/client")?.run_within(BULK, &arguments)?.ok()?;
                let report: serde_json::Value = serde_json::from_str(&said)?;
                let bits = report.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
                ensure!(bits.is_some_and(|bits| bits > 1e7), "iperf3 {direction} to {server} moves bytes: {said}");
                println!("iperf3 {direction} to {server}: {:.0} Mbit/s received", bits.unwrap_or_default() / 1e6);
                ensure!(serving.wait(CALL)?.success(), "iperf3's server ends in order: {}", serving.errors());
            }
        }
        Ok(())
    });
}

/// Waits for a listener without connecting to it.
fn until_listening(lab: &Lab, pod: &str, port: u16) -> Result<()> {
    let listens = || {
        let listening = lab.pod(pod)?.run(&["ss", "-Htln", "sport", "=", &format!(":{port}")])?.ok()?;
        ensure!(!listening.is_empty(), "{pod} does not listen on {port}");
        Ok(())
    };
    millrace_lab::clock::until(CALL, &format!("{pod} listens on {port}"), listens)?;
    Ok(())
}

#[test]
fn netcat_and_python_talk() {
    scene::mesh(&scene::two_nodes("scripts"), |lab| {
        for server in SERVERS {
            let target = lab.pod(server)?.addresses().v4.to_string();
            let mut listening = lab.pod(server)?.start("nc", &["sh", "-c", "echo from the server | nc -l -N 7777"])?;
            let asks = format!("echo from the client | nc -N -w 5 {target} 7777");
            let (answer, _) = millrace_lab::clock::until(CALL, "nc listens", || {
                lab.pod("shop/client")?.run(&["sh", "-c", &asks])?.ok()
            })?;
            ensure!(answer == "from the server\n", "nc hears {server}: {answer:?}");
            listening.wait(CALL)?;
            ensure!(listening.output() == "from the client\n", "{server} hears nc: {:?}", listening.output());
            let serving = lab
                .pod(server)?
                .start("python", &["python3", "-m", "http.server", "8000", "--directory", "/etc/default"])?;
            lab.pod(server)?.listens(8000)?;
            let script =
                format!("import urllib.request as r; print(len(r.urlopen('http://{target}:8000/', timeout=5).read()))");
            let said = lab.pod("shop/client")?.run(&["python3", "-c", &script])?.ok()?;
            ensure!(said.trim().parse::<u32>()? > 100, "python's urllib gets python's page from {server}: {said}");
            serving.kill()?;
        }
        Ok(())
    });
}
