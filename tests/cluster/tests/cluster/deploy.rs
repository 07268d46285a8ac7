//! What `deploy` holds is taken by an API server and by the programs that it starts.

use std::{fs, path::Path};

use clap::Parser as _;
use serde_json::Value;

use crate::server::{Server, server, target};

/// In the order of `deploy/README.md`.
const FILES: [&str; 4] =
    ["control/rbac.yaml", "control/deployment.yaml", "control/webhook.yaml", "agent/daemonset.yaml"];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy"))
}

fn documents() -> Vec<Value> {
    let texts = FILES.map(|file| fs::read_to_string(folder().join(file)).unwrap());
    let documents = texts.iter().flat_map(|text| text.split("\n---\n"));
    documents.map(|text| serde_yaml_ng::from_str(text).unwrap()).collect()
}

#[test]
fn an_api_server_takes_every_manifest_and_knows_every_field() {
    let server = server();
    for file in FILES {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        let args = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
        let said = server.kubectl(&args, &text);
        assert!(said.status.success(), "{file}: {}", String::from_utf8_lossy(&said.stderr));
        assert!(said.stderr.is_empty(), "{file}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

/// All that is deployed, with these parts of it that are left to choose.
pub(crate) fn built(server: &Server, components: &[&str]) -> String {
    // Beside `deploy`: bases are named by ways from a folder.
    let own = tempfile::tempdir_in(target()).unwrap();
    let components: Vec<String> = components.iter().map(|part| format!("../../deploy/{part}")).collect();
    let all = serde_json::json!({"resources": ["../../deploy"], "components": components});
    fs::write(own.path().join("kustomization.yaml"), all.to_string()).unwrap();
    let said = server.kubectl(&["kustomize", &own.path().display().to_string()], "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// With the plugin it is the same, and what the plugin adds.
#[test]
fn the_layer_with_the_plugin_is_taken_and_takes_nothing_away() {
    let server = server();
    let (plain, layered) = (built(server, &[]), built(server, &["cni"]));
    let args = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
    let said = server.kubectl(&args, &layered);
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    let daemonset = |text: &str| -> Value {
        let own = text.split("\n---\n").find(|one| one.contains("kind: DaemonSet")).unwrap();
        serde_yaml_ng::from_str(own).unwrap()
    };
    let (plain, layered) = (daemonset(&plain), daemonset(&layered));
    let agent = |set: &Value| set.pointer("/spec/template/spec/containers/0").unwrap().clone();
    let mut mounts = agent(&layered)["volumeMounts"].as_array().unwrap().clone();
    mounts.retain(|mount| mount["name"] != "netns");
    assert_eq!(agent(&plain)["volumeMounts"].as_array().unwrap(), &mounts);
    assert_eq!(agent(&plain)["securityContext"], agent(&layered)["securityContext"]);
    assert_eq!(layered.pointer("/spec/template/spec/initContainers/0/command/0").unwrap(), "millrace-cni");
}

#[test]
fn what_is_listed_is_all_there_is() {
    let text = fs::read_to_string(folder().join("kustomization.yaml")).unwrap();
    let listed: Value = serde_yaml_ng::from_str(&text).unwrap();
    let mut listed: Vec<String> =
        listed["resources"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned()).collect();
    let mut found = Vec::new();
    for part in ["agent", "control", "crds"] {
        // `cni` is a layer of its own.
        for file in fs::read_dir(folder().join(part)).unwrap() {
            found.push(format!("{part}/{}", file.unwrap().file_name().to_string_lossy()));
        }
    }
    listed.sort();
    found.sort();
    assert_eq!(listed, found);
}

/// Each container's command line, the environment's part filled in.
fn commands() -> Vec<Vec<String>> {
    let documents = documents();
    let containers = documents.iter().filter_map(|one| one.pointer("/spec/template/spec/containers")?.as_array());
    let words = |container: &Value, field: &str| -> Vec<String> {
        let list = container[field].as_array().cloned().unwrap_or_default();
        list.iter().map(|word| word.as_str().unwrap().replace("$(NODE_NAME)", "node-1")).collect()
    };
    containers.flatten().map(|one| [words(one, "command"), words(one, "args")].concat()).collect()
}

#[test]
fn every_program_takes_the_arguments_that_it_is_given() {
    let commands = commands();
    let of = |program: &str| commands.iter().find(|command| command[0] == program).unwrap().clone();
    let control = millrace_control::config::Args::try_parse_from(of("millrace-control")).unwrap();
    millrace_control::config::Config::from_args(control).unwrap();
    let agent = millrace_agent::config::Args::try_parse_from(of("millrace-agent")).unwrap();
    let files = millrace_agent::config::Files {
        mounts: "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n".to_owned(),
        passwd: String::new(),
    };
    millrace_agent::config::Config::from_args(agent, &files).unwrap();
    assert_eq!(commands.len(), 4, "a program that this test does not know: {commands:?}");
}

#[test]
fn the_image_holds_every_program_that_a_manifest_starts() {
    let recipe = fs::read_to_string(folder().join("Containerfile")).unwrap();
    let programs = recipe.lines().find(|line| line.contains("for program in")).unwrap();
    let held: Vec<&str> = programs.split([' ', ';']).collect();
    let probes = documents();
    let containers =
        probes.iter().filter_map(|one| one.pointer("/spec/template/spec/containers")?.as_array()).flatten();
    let probed = containers.filter_map(|one| one.pointer("/readinessProbe/exec/command/0")?.as_str());
    let started = commands().into_iter().map(|command| command[0].clone());
    for program in started.chain(probed.map(str::to_owned)) {
        assert!(held.contains(&program.as_str()), "{program} is not in the image: {programs}");
    }
}

/// Else a roll-out would wait for a replica that is never ready, or send nodes where nobody listens.
#[test]
fn ports_and_probes_are_those_that_the_programs_have() {
    let documents = documents();
    let find = |kind: &str| documents.iter().find(|one| one["kind"] == kind).unwrap();
    let args = find("Deployment").pointer("/spec/template/spec/containers/0/args").unwrap().to_string();
    for port in find("Service")["spec"]["ports"].as_array().unwrap() {
        assert!(args.contains(&format!(":{}", port["targetPort"])), "{port}: {args}");
    }
    for one in &documents {
        let containers = one.pointer("/spec/template/spec/containers").and_then(Value::as_array);
        for probe in containers.into_iter().flatten().filter_map(|one| one.pointer("/readinessProbe/exec/command")) {
            let words: Vec<&str> = probe.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
            millrace_cli::config::Args::try_parse_from(words).unwrap();
        }
    }
}
