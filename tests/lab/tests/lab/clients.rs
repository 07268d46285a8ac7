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
            let serving = lab.pod(server)?.start("iperf3", &["iperf3", "--server"])?;
            lab.pod(server)?.listens(5201)?;
            for direction in ["--bidir", "--reverse"] {
                let arguments = ["iperf3", "--client", &target, "--time", "1", "--parallel", "4", direction, "--json"];
                let said = lab.pod("shop/client")?.run_within(BULK, &arguments)?.ok()?;
                let report: serde_json::Value = serde_json::from_str(&said)?;
                let bits = report.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
                ensure!(bits.is_some_and(|bits| bits > 1e7), "iperf3 {direction} to {server} moves bytes: {said}");
                println!("iperf3 {direction} to {server}: {:.0} Mbit/s received", bits.unwrap_or_default() / 1e6);
            }
            serving.kill()?;
        }
        Ok(())
    });
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
