//! Lays a node's status out for people: the node, its workloads, services and kernel maps, then what is amiss.

use std::fmt::Display;

use serde_json::Value;

use super::{Agent, Control, Ejected, Map, Node, Plane, Proxy, Service, Setting, Tuning, Workload};
use crate::table::{Table, plain};

/// A map this full is worth a word before it refuses, in percent.
const NEARLY_FULL: u64 = 80;

pub(super) fn text(agent: Option<&Agent>, plane: Option<&Plane>, services: &[Service]) -> String {
    let mut text = String::new();
    if let Some(agent) = agent {
        push(&mut text, &node(agent));
        push(&mut text, &workloads(agent));
    }
    push(&mut text, &service_table(services));
    if let Some(agent) = agent {
        push(&mut text, &ejected(agent));
        push(&mut text, &maps(agent));
        push(&mut text, &tuning(&agent.tuning));
    }
    if let Some(plane) = plane {
        push(&mut text, &nodes(plane));
    }
    let amiss = amiss(agent, plane);
    match amiss.as_slice() {
        [] => push(&mut text, &"Nothing is amiss.\n"),
        [_, ..] => {
            let lines: String = amiss.iter().map(|line| format!("  - {}\n", plain(line))).collect();
            push(&mut text, &format!("Amiss:\n{lines}"));
        }
    }
    text
}

/// Adds a block, with an empty line before it; an empty block adds nothing.
fn push(text: &mut String, block: &dyn Display) {
    let block = block.to_string();
    if block.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&block);
}

fn node(agent: &Agent) -> Table {
    let Agent { node, generation, control: Control { connected, since_s }, proxy, .. } = agent;
    let mut table = Table::new(["NODE", "GENERATION", "CONTROL PLANE", "PROXY"]);
    let control = if *connected { "connected" } else { "away" };
    let control = match since_s {
        Some(since) => format!("{control} for {}", span(*since)),
        None => control.to_owned(),
    };
    let proxy = match proxy {
        Some(Proxy { name, version, generation, connected: true }) => {
            format!("{name} {version}, generation {generation}")
        }
        Some(Proxy { name, version, .. }) => format!("{name} {version}, away"),
        None => "none".to_owned(),
    };
    table.row([node.clone(), generation.to_string(), control, proxy]);
    table
}

fn workloads(agent: &Agent) -> Table {
    let mut table = Table::new(["WORKLOAD", "STATE", "IDENTITY", "ADDRESSES", "LISTENERS", "CERTIFICATE"]);
    for Workload { name, identity, addresses, listeners, state, unguarded: _, udp, certificate_expires_s } in
        &agent.workloads
    {
        let certificate = match certificate_expires_s {
            Some(left) if *left <= 0.0 => "EXPIRED".to_owned(),
            Some(left) => format!("{} left", span(*left)),
            None => "none".to_owned(),
        };
        let state = &match udp.as_str() {
            "Deny" => format!("{state}, UDP from its node alone"),
            _ => state.clone(),
        };
        let cells = [state, identity].map(|text| text.strip_prefix("spiffe://").unwrap_or(text).to_owned());
        let [state, identity] = cells;
        table.row([name.clone(), state, identity, addresses.join(" "), listeners.len().to_string(), certificate]);
    }
    table
}

fn service_table(services: &[Service]) -> Table {
    let mut table = Table::new(["SERVICE", "ADDRESSES", "PORTS", "READY"]);
    for Service { name, addresses, ports, n_ready, n_endpoints } in services {
        let addresses = if addresses.is_empty() { "headless".to_owned() } else { addresses.join(" ") };
        table.row([name.clone(), addresses, ports.join(" "), format!("{n_ready} of {n_endpoints}")]);
    }
    table
}

/// Who is left out and why; nothing where nobody is.
fn ejected(agent: &Agent) -> String {
    if agent.ejected.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["LEFT OUT", "OF SERVICE", "BECAUSE", "SINCE", "RETURNS IN"]);
    for Ejected { service, port, endpoint, workload, cause, failures, times, since_s, returns_in_s } in &agent.ejected {
        let who = workload.as_ref().map_or_else(|| endpoint.clone(), |name| format!("{name} at {endpoint}"));
        let again = if *times > 1 { format!(", {times} times running") } else { String::new() };
        let because = format!("{failures} connections in a row {}{again}", cause.replace('_', " "));
        table.row([who, format!("{service}:{port}"), because, span(*since_s), span(*returns_in_s)]);
    }
    table.to_string()
}

fn maps(agent: &Agent) -> Table {
    let mut table = Table::new(["KERNEL MAP", "ENTRIES", "CAPACITY", "USED"]);
    for map in &agent.maps {
        let Map { map: name, entries, capacity } = map;
        table.row([name.clone(), entries.to_string(), capacity.to_string(), format!("{} %", used(map))]);
    }
    table
}

/// What a NodeProfile asks for, and what of it is in force. What nobody asks for has its default, and is on `-o json`.
fn tuning(Tuning { profile, settings }: &Tuning) -> Table {
    let mut table = Table::new(["NODEPROFILE", "FIELD", "WANTED", "IN FORCE", "NOTE"]);
    let profile = profile.as_deref().unwrap_or("none");
    for Setting { field, wanted, in_force, note } in settings {
        if wanted.is_some() || !note.is_empty() {
            let wanted = wanted.clone().unwrap_or_else(|| "default".to_owned());
            table.row([profile.to_owned(), field.clone(), wanted, in_force.clone(), note.clone()]);
        }
    }
    table
}

fn used(Map { entries, capacity, .. }: &Map) -> u64 {
    entries.saturating_mul(100) / (*capacity).max(1)
}

fn nodes(plane: &Plane) -> Table {
    let mut table = Table::new(["NODE OF THE MESH", "CONNECTED", "SENT", "IN FORCE", "WORKLOADS"]);
    for (name, Node { sent, applied, connected, n_listening, failures: _ }) in &plane.nodes {
        let connected = if *connected { "yes" } else { "no" };
        let [sent, applied, listening] = [sent, applied, n_listening].map(u64::to_string);
        table.row([name.clone(), connected.to_owned(), sent, applied, listening]);
    }
    table
}

fn amiss(agent: Option<&Agent>, plane: Option<&Plane>) -> Vec<String> {
    let mut amiss = Vec::new();
    match agent {
        None => amiss.push("the agent does not answer".to_owned()),
        Some(agent) => of_agent(agent, &mut amiss),
    }
    let Some(Plane { generation: _, nodes, diagnostics }) = plane else { return amiss };
    for (name, Node { sent, applied, connected, n_listening: _, failures }) in nodes {
        match connected {
            false => amiss.push(format!("node {name} is not connected to the control plane")),
            true if applied < sent => amiss.push(format!("node {name} is at generation {applied}, behind {sent}")),
            true => {}
        }
        // This node's own are told by its agent.
        if agent.is_none_or(|agent| agent.node != *name) {
            amiss.extend(failures.iter().map(|failure| format!("node {name}: {failure}")));
        }
    }
    amiss.extend(diagnostics.iter().map(diagnostic));
    amiss
}

fn of_agent(agent: &Agent, amiss: &mut Vec<String>) {
    let Agent { node: _, generation, control, proxy, workloads, ejected: _, maps, failures, tuning: _ } = agent;
    if !control.connected {
        amiss.push("the control plane is away: the node keeps to what it knows".to_owned());
    }
    match proxy {
        Some(Proxy { connected: true, generation: at, name, .. }) if at < generation => {
            amiss.push(format!("proxy {name} is at generation {at}, behind {generation}"));
        }
        Some(Proxy { connected: true, .. }) => {}
        Some(Proxy { name, .. }) => amiss.push(format!("proxy {name} is away: calls to other nodes fail")),
        None => amiss.push("no proxy: calls to other nodes fail".to_owned()),
    }
    for Workload { name, state, unguarded, certificate_expires_s, .. } in workloads {
        if let Some(why) = unguarded {
            amiss.push(format!("{name} can send in others' names: {why}"));
        }
        if state != "captured" {
            amiss.push(format!("{name}: {state}"));
        }
        if certificate_expires_s.is_some_and(|left| left <= 0.0) {
            amiss.push(format!("{name}: its certificate has expired"));
        }
    }
    for map in maps.iter().filter(|map| used(map) >= NEARLY_FULL) {
        amiss.push(format!("kernel map {} is {} % full: a full one refuses what is new", map.map, used(map)));
    }
    amiss.extend(failures.iter().cloned());
}

/// A diagnostic as one sentence: as it comes, or from its place, object, field, problem and mend.
fn diagnostic(value: &Value) -> String {
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(sentence) = value.as_str().or_else(|| text("message")) {
        return sentence.to_owned();
    }
    let (Some(object), Some(problem)) = (text("object"), text("problem")) else { return value.to_string() };
    let place = value.get("place").and_then(|place| {
        let file = place.get("file")?.as_str()?;
        let document = place.get("document").and_then(Value::as_u64).filter(|document| *document > 0);
        Some(document.map_or_else(|| format!("{file}: "), |document| format!("{file} document {document}: ")))
    });
    let field = text("field").map(|field| format!("{field}: ")).unwrap_or_default();
    let mend = text("mend").map(|mend| format!("; {mend}")).unwrap_or_default();
    format!("{}{object}: {field}{problem}{mend}", place.unwrap_or_default())
}

/// A span of time in its largest unit that still says two digits.
fn span(seconds: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    for (unit, name) in UNITS {
        if seconds >= 2.0 * unit {
            return format!("{:.0} {name}", (seconds / unit).floor());
        }
    }
    format!("{:.0} s", seconds.max(0.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{span, text};
    use crate::status::{Agent, Plane};

    fn agent() -> Agent {
        serde_json::from_value(json!({
            "node": "a", "generation": 12, "control": {"connected": true, "since_s": 200.0, "new": 1},
            "proxy": {"name": "default", "version": "0.1.0", "generation": 12, "connected": true},
            "workloads": [
                {"name": "shop/web", "identity": "spiffe://cluster.local/ns/shop/sa/web", "addresses": ["10.10.1.2", "fd10::2"],
                 "netns_cookie": 7, "listeners": ["outbound_v4", "tunnel_v4"], "state": "captured", "certificate_expires_s": 80_000},
            ],
            "maps": [{"map": "DESTS", "entries": 3, "capacity": 131_072}],
            "failures": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_sound_node_is_shown_in_tables_that_line_up() {
        let shown = text(Some(&agent()), None, &[]);
        assert_eq!(
            shown,
            "NODE  GENERATION  CONTROL PLANE        PROXY\n\
             a     12          connected for 3 min  default 0.1.0, generation 12\n\
             \n\
             WORKLOAD  STATE     IDENTITY                      ADDRESSES          LISTENERS  CERTIFICATE\n\
             shop/web  captured  cluster.local/ns/shop/sa/web  10.10.1.2 fd10::2  2          22 h left\n\
             \n\
             KERNEL MAP  ENTRIES  CAPACITY  USED\n\
             DESTS       3        131072    0 %\n\
             \n\
             Nothing is amiss.\n"
        );
    }

    #[test]
    fn who_takes_no_datagrams_from_elsewhere_is_said_to() {
        let mut agent = agent();
        agent.workloads[0].udp = "Deny".to_owned();
        assert!(text(Some(&agent), None, &[]).contains("captured, UDP from its node alone  cluster.local"));
    }

    #[test]
    fn an_endpoint_that_is_left_out_is_shown_with_its_reason() {
        let mut agent = agent();
        agent.ejected = serde_json::from_value(json!([
            {"service": "shop/web", "port": 80, "endpoint": "10.0.0.2:8080", "workload": "shop/web-1", "cause": "timed_out",
             "failures": 5, "times": 2, "since_s": 20, "returns_in_s": 40},
        ]))
        .unwrap();
        let shown = text(Some(&agent), None, &[]);
        let row =
            "shop/web-1 at 10.0.0.2:8080  shop/web:80  5 connections in a row timed out, 2 times running  20 s   40 s";
        assert!(shown.contains(row), "{shown}");
    }

    #[test]
    fn a_tuned_node_shows_what_is_wanted_and_what_is_in_force() {
        let mut agent = agent();
        agent.tuning = serde_json::from_value(json!({"profile": "edge", "settings": [
            {"field": "spec.proxy.workers", "wanted": "4", "in_force": "4", "note": ""},
            {"field": "spec.proxy.cpus", "wanted": null, "in_force": "any", "note": ""},
            {"field": "spec.maps.DESTS", "wanted": "200000", "in_force": "131072", "note": "needs a restart of the agent"},
        ]}))
        .unwrap();
        let shown = text(Some(&agent), None, &[]);
        let table = "NODEPROFILE  FIELD               WANTED  IN FORCE  NOTE\n\
                     edge         spec.proxy.workers  4       4\n\
                     edge         spec.maps.DESTS     200000  131072    needs a restart of the agent\n";
        assert!(shown.contains(table), "{shown}");
    }

    #[test]
    fn whatever_is_amiss_is_said_in_a_sentence() {
        let mut agent = agent();
        agent.proxy = None;
        agent.control.connected = false;
        agent.workloads[0].state = "pending: no such network namespace".to_owned();
        agent.maps[0].entries = 131_000;
        let plane: Plane = serde_json::from_value(json!({
            "generation": 13,
            "nodes": {"a": {"sent": 13, "applied": 12, "connected": true}, "b": {"connected": false, "failures": ["no memory"]}},
            "diagnostics": [{"place": {"file": "shop.yaml", "document": 2, "line": 9}, "object": "Service shop/db",
                "field": "spec.ports[0].port", "problem": "99999 is no port", "mend": "write 1 to 65535", "effect": "Kept"}],
        }))
        .unwrap();
        let shown = text(Some(&agent), Some(&plane), &[]);
        for sentence in [
            "no proxy",
            "control plane is away",
            "shop/web: pending: no such network namespace",
            "kernel map DESTS is 99 % full",
            "node a is at generation 12, behind 13",
            "node b is not connected",
            "node b: no memory",
            "shop.yaml document 2: Service shop/db: spec.ports[0].port: 99999 is no port; write 1 to 65535",
        ] {
            assert!(shown.contains(sentence), "{sentence}\n{shown}");
        }
    }

    #[test]
    fn a_span_is_said_in_a_unit_that_fits() {
        let said: Vec<String> =
            [0.0, 119.0, 120.0, 7199.0, 7200.0, 86_400.0, 200_000.0].into_iter().map(span).collect();
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "24 h", "2 d"]);
    }
}
