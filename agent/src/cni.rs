//! The CNI plugin: holds each new pod of its node back until the agent knows it, so that its first packet is captured.
//!
//! It stands last in the chain that makes a pod's network (CNI specification 1.1), makes nothing itself, and passes on what it was given. It
//! tells the agent the pod's network namespace over the agent's own socket, and ends once the kernel's tables have the pod. Where that is
//! not so in time, the pod does not start, and its events say why: it fails closed, save for the namespaces that are left out.

mod install;
mod tell;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

pub use install::{Folders, install, remove};

/// What the plugin is called in a chain and on disk.
pub const TYPE: &str = "millrace-cni";
/// Versions of the specification whose results are passed on as they came.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// A chain's configuration and the result before are kilobytes.
const MAX_INPUT: u64 = 1024 * 1024;
/// How long the agent may take in all: it may be just being replaced, or hear of the pod in a moment. A kubelet tries again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Error codes of the specification: 4, an environment variable is not as it must be; 6, nor is the input; 11, try again later; 50, the
/// plugin is not available.
const BAD_ENVIRONMENT: u32 = 4;
const BAD_INPUT: u32 = 6;
const TRY_AGAIN: u32 = 11;
const NOT_AVAILABLE: u32 = 50;

/// What a chain says to this plugin.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    cni_version: String,
    #[serde(default = "run_dir")]
    run_dir: PathBuf,
    /// Namespaces whose pods start without the agent: what the mesh itself needs to begin.
    #[serde(default)]
    exclude: Vec<String>,
    prev_result: Option<Value>,
}

fn run_dir() -> PathBuf {
    "/run/millrace".into()
}

/// Why a call fails, as the specification has it.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: u32,
    msg: &'static str,
    details: String,
}

/// Answers one call of a runtime: what goes to its standard output, and whether it went well.
pub fn call(environment: &BTreeMap<String, String>, input: impl Read, mut output: impl Write) -> std::io::Result<bool> {
    let mut text = String::new();
    input.take(MAX_INPUT).read_to_string(&mut text)?;
    let version = serde_json::from_str::<Value>(&text).ok();
    let version = version.and_then(|all| Some(all.get("cniVersion")?.as_str()?.to_owned()));
    let version = version.unwrap_or_else(|| "1.0.0".to_owned());
    match answer(environment, &text) {
        Ok(Some(said)) => output.write_all(said.to_string().as_bytes()).map(|()| true),
        Ok(None) => Ok(true),
        Err(Refusal { code, msg, details }) => {
            let said = json!({"cniVersion": version, "code": code, "msg": msg, "details": details});
            output.write_all(said.to_string().as_bytes()).map(|()| false)
        }
    }
}

fn answer(environment: &BTreeMap<String, String>, text: &str) -> Result<Option<Value>, Refusal> {
    let variable = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
    let input = || {
        let bad = |why: serde_json::Error| refusal(BAD_INPUT, "the configuration can't be read", why.to_string());
        let input: Input = serde_json::from_str(text).map_err(bad)?;
        if !VERSIONS.contains(&input.cni_version.as_str()) {
            let details = format!("{} is none of {}", input.cni_version, VERSIONS.join(" "));
            return Err(refusal(1, "this version of CNI is not spoken", details));
        }
        Ok(input)
    };
    match variable("CNI_COMMAND") {
        "VERSION" => {
            let version = VERSIONS.last().copied().unwrap_or_default();
            Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS})))
        }
        "ADD" => {
            let input = input()?;
            let Some(result) = input.prev_result.clone() else {
                let details = format!("{TYPE} makes no network: it stands behind the plugins that do");
                return Err(refusal(BAD_INPUT, "there is no result to pass on", details));
            };
            add(&input, variable("CNI_ARGS"), variable("CNI_NETNS"))?;
            Ok(Some(result))
        }
        // What was told of a pod goes with the pod: its object and its processes say so.
        "DEL" | "GC" | "CHECK" => Ok(None),
        "STATUS" => {
            let unready = |why: String| refusal(NOT_AVAILABLE, "the agent is not ready", why);
            tell::ready(&input()?.run_dir).map(|()| None).map_err(unready)
        }
        other => Err(refusal(BAD_ENVIRONMENT, "CNI_COMMAND says no command", format!("it says {other:?}"))),
    }
}

fn add(input: &Input, args: &str, netns: &str) -> Result<(), Refusal> {
    let all: BTreeMap<&str, &str> = args.split(';').filter_map(|one| one.split_once('=')).collect();
    let (Some(namespace), Some(name)) = (all.get("K8S_POD_NAMESPACE"), all.get("K8S_POD_NAME")) else {
        // Nothing of a kubelet's: no pod of any mesh.
        return Ok(());
    };
    if input.exclude.iter().any(|excluded| excluded == namespace) {
        return Ok(());
    }
    let said = json!({"namespace": namespace, "name": name, "netns": netns});
    let refused = |why: String| {
        refusal(TRY_AGAIN, "the pod is held back", format!("Millrace does not know {namespace}/{name}: {why}"))
    };
    tell::tell(&input.run_dir, &said, PATIENCE).map_err(refused)
}

fn refusal(code: u32, msg: &'static str, details: String) -> Refusal {
    Refusal { code, msg, details }
}

#[cfg(test)]
mod tests;
