//! States what a runtime is answered, by an agent that says what a test has it say; and what becomes of a node's chain.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    thread::JoinHandle,
};

use serde_json::{Value, json};

use super::{Folders, TYPE, call, install, remove};

fn environment(command: &str, namespace: &str) -> BTreeMap<String, String> {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=web-1;K8S_POD_UID=aa");
    [("CNI_COMMAND", command), ("CNI_ARGS", &args), ("CNI_NETNS", "/var/run/netns/cni-1"), ("CNI_IFNAME", "eth0")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn result() -> Value {
    json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.7/24", "interface": 0}], "routes": [], "x": [1]})
}

fn input(run_dir: &Path) -> String {
    json!({"cniVersion": "1.0.0", "name": "pods", "type": TYPE, "runDir": run_dir, "exclude": ["kube-system"],
        "prevResult": result()})
    .to_string()
}

fn said(environment: &BTreeMap<String, String>, input: &str) -> (bool, Value) {
    let mut output = Vec::new();
    let went_well = call(environment, input.as_bytes(), &mut output).unwrap();
    (went_well, serde_json::from_slice(&output).unwrap_or_default())
}

/// An agent that answers once; what it was asked.
fn agent(folder: &Path, status: &'static str) -> JoinHandle<String> {
    let listener = UnixListener::bind(folder.join("agent-admin.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            length = line.strip_prefix("Content-Length: ").map_or(length, |n| n.trim().parse().unwrap());
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        write!(socket, "HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nwhy\n").unwrap();
        head.lines().next().unwrap().to_owned() + " " + &String::from_utf8(body).unwrap()
    })
}

#[test]
fn a_pod_whose_agent_knows_it_starts_with_the_result_that_was_made_before() {
    let folder = tempfile::tempdir().unwrap();
    let asked = agent(folder.path(), "200 OK");
    assert_eq!(said(&environment("ADD", "shop"), &input(folder.path())), (true, result()));
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /pods HTTP/1.1 "), "{asked}");
    for part in ["\"namespace\":\"shop\"", "\"name\":\"web-1\"", "\"netns\":\"/var/run/netns/cni-1\""] {
        assert!(asked.contains(part), "{asked}");
    }
}

#[test]
fn a_pod_that_its_agent_does_not_know_is_held_back_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let asked = agent(folder.path(), "503 Service Unavailable");
    let (went_well, answer) = said(&environment("ADD", "shop"), &input(folder.path()));
    asked.join().unwrap();
    assert!(!went_well);
    assert_eq!((&answer["code"], &answer["cniVersion"]), (&json!(11), &json!("1.0.0")));
    assert_eq!(answer["details"], "Millrace does not know shop/web-1: why");
}

/// The cluster's own parts start where no agent ever was; and what is no kubelet's is no pod.
#[test]
fn what_is_left_out_needs_no_agent() {
    let nowhere = Path::new("/nowhere");
    assert_eq!(said(&environment("ADD", "kube-system"), &input(nowhere)), (true, result()));
    let mut bare = environment("ADD", "shop");
    bare.insert("CNI_ARGS".to_owned(), String::new());
    assert_eq!(said(&bare, &input(nowhere)), (true, result()));
    for command in ["DEL", "CHECK", "GC"] {
        assert_eq!(said(&environment(command, "shop"), &input(nowhere)), (true, Value::Null), "{command}");
    }
}

#[test]
fn what_can_not_be_answered_is_refused_by_the_specifications_numbers() {
    let (nowhere, code) = (Path::new("/nowhere"), |said: (bool, Value)| (said.0, said.1["code"].as_u64()));
    assert_eq!(code(said(&environment("STATUS", "shop"), &input(nowhere))), (false, Some(50)));
    assert_eq!(code(said(&environment("FLY", "shop"), &input(nowhere))), (false, Some(4)));
    assert_eq!(code(said(&environment("ADD", "shop"), "{")), (false, Some(6)));
    assert_eq!(code(said(&environment("ADD", "shop"), r#"{"cniVersion": "1.0.0"}"#)), (false, Some(6)));
    assert_eq!(code(said(&environment("ADD", "shop"), r#"{"cniVersion": "9.0.0"}"#)), (false, Some(1)));
    let (went_well, answer) = said(&environment("VERSION", ""), "{}");
    assert!(went_well && answer["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")), "{answer}");
}

#[test]
fn a_nodes_chain_gets_the_plugin_once_and_loses_it_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders { bin_dir: folder.path().join("bin"), conf_dir: folder.path().join("net.d") };
    fs::create_dir_all(&folders.bin_dir).unwrap();
    fs::create_dir_all(&folders.conf_dir).unwrap();
    let own = folder.path().join("own");
    fs::write(&own, "program").unwrap();
    let put_in = || install(&folders, &own, (Path::new("/run/millrace"), &["kube-system".to_owned()]));
    assert!(put_in().unwrap_err().to_string().contains("no chain"));
    let chain = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}, {"type": "portmap"}]});
    let path = folders.conf_dir.join("10-pods.conflist");
    fs::write(&path, chain.to_string()).unwrap();
    fs::write(folders.conf_dir.join("20-other.conflist"), chain.to_string()).unwrap();
    for _ in 0..2 {
        assert_eq!(put_in().unwrap(), path);
        let now: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let types: Vec<&str> =
            now["plugins"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["ptp", "portmap", TYPE]);
        assert_eq!(now["plugins"][2]["exclude"], json!(["kube-system"]));
        assert_eq!(fs::read_to_string(folders.bin_dir.join(TYPE)).unwrap(), "program");
    }
    remove(&folders).unwrap();
    let now: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(now, chain);
    assert!(!folders.bin_dir.join(TYPE).exists());
    remove(&folders).unwrap();
}
