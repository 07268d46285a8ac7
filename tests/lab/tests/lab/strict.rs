//! What is no HTTP is refused by name, and what is passes: the corpora, and the conformance suite of HTTP/2, against the real proxy.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, clock, pod::BULK, web::corpus::Outcome};

use crate::{
    protocols::{all_to, plan, says, serves},
    scene,
};

/// Cases of each corpus: the bound.
const LEAST: usize = 150;

fn corpus(lab: &Lab, file: &str) -> Result<()> {
    let path = format!("{}/corpus/{file}", env!("CARGO_MANIFEST_DIR"));
    let said = says(lab, "shop/client", "probe-http", &["corpus", "web:80", &path])?;
    let Outcome { n_cases, failed } = serde_json::from_str(&said)?;
    ensure!(failed.is_empty(), "{} of {n_cases} cases of {file}:\n{}", failed.len(), failed.join("\n"));
    ensure!(n_cases >= LEAST, "{file} has {n_cases} cases");
    println!("{file}: {n_cases} cases");
    Ok(())
}

fn served(lab: &Lab) -> Result<millrace_lab::process::Process> {
    let server = serves(lab, "shop/near", "probe-http", &["serve", "[::]:8080", "--name", "near"])?;
    lab.apply(&all_to("HTTPRoute", "near", 80))?;
    clock::until(Duration::from_secs(10), "the route is in force", || {
        let got = lab.pod("shop/client")?.get("http://web/")?;
        ensure!(got.contains("x-forwarded-for"), "it goes by the proxy: {got}");
        Ok(())
    })?;
    Ok(server)
}

#[test]
fn every_case_of_the_corpora_comes_to_the_end_that_its_rfc_asks() {
    scene::mesh(&plan("corpus"), |lab| {
        let _server = served(lab)?;
        let both = [corpus(lab, "http1.json"), corpus(lab, "http2.json")];
        let failed: Vec<String> =
            both.into_iter().filter_map(|ended| ended.err().map(|error| format!("{error:#}"))).collect();
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    });
}

#[test]
fn h2spec_passes_whole_and_strict() {
    scene::mesh(&plan("h2spec"), |lab| {
        let _server = served(lab)?;
        let program = lab.binaries().directory().with_file_name("h2spec").join("h2spec");
        ensure!(program.exists(), "`cargo xtask test h2spec` builds {}", program.display());
        let web = lab.topology().services.iter().find(|service| &*service.name.name == "web").context("service web")?;
        let (program, address) = (program.display().to_string(), web.addresses.v4.to_string());
        let said = lab.pod("shop/client")?.run_within(BULK, &[&program, "-host", &address, "-port", "80"])?;
        let text = format!("{said:?}");
        let last = text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        let said = said.ok().with_context(|| last)?;
        let summary = said.lines().rfind(|line| line.contains("tests,")).context("it ends with a summary")?;
        ensure!(summary.contains(" 0 failed"), "{summary}");
        println!("{summary}");
        Ok(())
    });
}
