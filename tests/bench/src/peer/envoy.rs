//! What two Envoys are told.
//!
//! Each port of the server is carried by the TCP proxy; its HTTP port by the HTTP connection manager also, as in a mesh that
//! parses. Tuned: no access log, no admin port, connections balanced among workers exactly, no limit on
//! the life of connections, TLS 1.3 with the session tickets that are its default, and its own
//! default of key exchange (X25519, cheaper than the mesh's hybrid). Those that carry bytes keep no statistics. Those that carry
//! requests do for each what the mesh does for it: count it, give it an id, and say from where it came.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::certificates::{CLIENT, Certificates, SERVER};
use crate::serve::{ECHO, HTTP, HTTP2, SINK};

/// Added to a port of the server: where the client's Envoy listens for it, and where the server's does.
const OFFSET: u16 = 10_000;

/// Added once more for what the HTTP connection manager carries.
const PARSED: u16 = 100;

/// And once more for HTTP/2.
const PARSED_TWO: u16 = 200;

/// And for each set of them: one with a worker, one with two.
const SET: u16 = 1_000;

/// The first of the sets that carry requests alone, which have nothing to hold for bulk.
const REQUESTS: u16 = 2;

/// Added to where the set that carries requests listens: for the server of the same node, with one Envoy and no TLS between.
const NEAR: u16 = 50;

/// Connections that an Envoy may have to the next: more than any load makes.
const MOST: u32 = 100_000;

/// How a port is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As bytes.
    Tcp,
    /// As requests.
    Http,
    /// As requests of HTTP/2, both ways.
    Http2,
}

/// Where the one Envoy of the set that carries requests listens for a server of its own node.
pub fn near_port(n_workers: u16) -> u16 {
    port(n_workers + REQUESTS, HTTP, Way::Http) + NEAR
}

/// Where the Envoys that carry requests alone listen for this port of the server, on either side.
pub fn requests_port(n_workers: u16, server: u16, way: Way) -> u16 {
    port(n_workers + REQUESTS, server, way)
}

/// Where the Envoys of set `set` listen for this port of the server, on either side.
pub fn port(set: u16, server: u16, way: Way) -> u16 {
    let parsed = match way {
        Way::Tcp => 0,
        Way::Http => PARSED,
        Way::Http2 => PARSED_TWO,
    };
    server + OFFSET + set * SET + parsed
}

/// Every port that is carried, and how.
const CARRIED: [(u16, Way); 4] = [(SINK, Way::Tcp), (ECHO, Way::Tcp), (HTTP, Way::Tcp), (HTTP, Way::Http)];

/// The same for those that carry requests alone.
const CARRIED_REQUESTS: [(u16, Way); 2] = [(HTTP, Way::Http), (HTTP2, Way::Http2)];

/// The client's end: plain on loopback, to the server's Envoy by mutual TLS.
pub fn client(n_workers: u16, server: IpAddr, certificates: &Certificates) -> Value {
    let (listeners, clusters) = client_end((n_workers, &CARRIED), server, certificates);
    bootstrap(listeners, clusters, Statistics::None)
}

/// The server's end: mutual TLS from the client's Envoy, plain to the server on loopback.
pub fn server(n_workers: u16, certificates: &Certificates) -> Value {
    let (listeners, clusters) = server_end((n_workers, &CARRIED), certificates);
    bootstrap(listeners, clusters, Statistics::None)
}

/// The client's end of those that carry requests alone; it also carries them to a server of its node, without TLS.
pub fn requests_client(n_workers: u16, [near, far]: [IpAddr; 2], certificates: &Certificates) -> Value {
    let set = n_workers + REQUESTS;
    let (mut listeners, mut clusters) = client_end((set, &CARRIED_REQUESTS), far, certificates);
    let port = near_port(n_workers);
    listeners.push(listener("127.0.0.1".to_owned(), port, Way::Http, None));
    clusters.push(cluster((port, Way::Http), near.to_string(), HTTP, None));
    bootstrap(listeners, clusters, Statistics::Kept)
}

/// The server's end of those.
pub fn requests_server(n_workers: u16, certificates: &Certificates) -> Value {
    let (listeners, clusters) = server_end((n_workers + REQUESTS, &CARRIED_REQUESTS), certificates);
    bootstrap(listeners, clusters, Statistics::Kept)
}

/// A set, and what it carries.
type Set<'c> = (u16, &'c [(u16, Way)]);

/// Listeners and clusters.
type End = (Vec<Value>, Vec<Value>);

fn client_end((set, carried): Set<'_>, server: IpAddr, certificates: &Certificates) -> End {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common_tls("client", SERVER, certificates),
    });
    let listeners = carried.iter().map(|(of, way)| {
        let port = port(set, *of, *way);
        listener("127.0.0.1".to_owned(), port, *way, None)
    });
    let clusters = carried.iter().map(|(of, way)| {
        let port = port(set, *of, *way);
        cluster((port, *way), server.to_string(), port, Some(&tls))
    });
    (listeners.collect(), clusters.collect())
}

fn server_end((set, carried): Set<'_>, certificates: &Certificates) -> End {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": common_tls("server", CLIENT, certificates),
    });
    let listeners =
        carried.iter().map(|(of, way)| listener("0.0.0.0".to_owned(), port(set, *of, *way), *way, Some(&tls)));
    let clusters =
        carried.iter().map(|(of, way)| cluster((port(set, *of, *way), *way), "127.0.0.1".to_owned(), *of, None));
    (listeners.collect(), clusters.collect())
}

/// Whether an Envoy counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Statistics {
    None,
    Kept,
}

fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>, statistics: Statistics) -> Value {
    json!({
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_config": {"stats_matcher": {"reject_all": statistics == Statistics::None}},
        "stats_flush_interval": "60s",
    })
}

fn common_tls(name: &str, expects: &str, certificates: &Certificates) -> Value {
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": certificates.path(&format!("{name}.pem"))},
            "private_key": {"filename": certificates.path(&format!("{name}.key"))},
        }],
        "validation_context": {
            "trusted_ca": {"filename": certificates.path("root.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": expects}}],
        },
    })
}

fn listener(address: String, port: u16, way: Way, tls: Option<&Value>) -> Value {
    let mut chain = json!({"filters": [match way {
        Way::Tcp => tcp(port),
        Way::Http => http(port, "HTTP1"),
        Way::Http2 => http(port, "HTTP2"),
    }]});
    if let (Some(tls), Some(chain)) = (tls, chain.as_object_mut()) {
        chain.insert("transport_socket".to_owned(), json!({"name": "tls", "typed_config": tls}));
    }
    json!({
        "name": format!("l{port}"),
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [chain],
        "connection_balance_config": {"exact_balance": {}},
    })
}

fn tcp(port: u16) -> Value {
    json!({"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t",
        "cluster": format!("c{port}"),
        "idle_timeout": "0s",
    }})
}

fn http(port: u16, codec: &str) -> Value {
    json!({"name": "http", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "codec_type": codec,
        "use_remote_address": true,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": format!("c{port}"), "timeout": "0s"}},
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        }}],
    }})
}

fn cluster((named, way): (u16, Way), address: String, port: u16, tls: Option<&Value>) -> Value {
    let limits = |priority: &str| json!({"priority": priority, "max_connections": MOST, "max_pending_requests": MOST, "max_requests": MOST});
    let mut cluster = json!({
        "name": format!("c{named}"),
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits("DEFAULT"), limits("HIGH")]},
        "load_assignment": {"cluster_name": format!("c{named}"), "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}},
        ]}]},
    });
    if let (Way::Http2, Some(cluster)) = (way, cluster.as_object_mut()) {
        let options = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
        cluster.insert("typed_extension_protocol_options".to_owned(), options);
    }
    if let (Some(tls), Some(cluster)) = (tls, cluster.as_object_mut()) {
        cluster.insert("transport_socket".to_owned(), json!({"name": "tls", "typed_config": tls}));
    }
    cluster
}

/// Where one with many routes listens.
pub const MANY: u16 = 18_080;

/// One Envoy with so many hosts, each with a cluster of its own: all to one server. It keeps its statistics, as those do that carry
/// requests: what calls a service is counted here by caller and service, and a mesh's Envoy is not run without.
pub fn many(n: usize, server: IpAddr) -> Value {
    let name = |index: usize| format!("s{index}.shop.svc.cluster.local");
    let hosts = (0..n).map(|index| {
        json!({"name": name(index), "domains": [name(index)], "routes": [{
            "match": {"prefix": "/"},
            "route": {"cluster": name(index), "timeout": "0s"},
            "response_headers_to_add": [{"header": {"key": "x-edition", "value": "1"}}],
        }]})
    });
    let hosts: Vec<Value> = hosts.collect();
    let mut listener = listener("127.0.0.1".to_owned(), MANY, Way::Http, None);
    if let Some(config) = listener.pointer_mut("/filter_chains/0/filters/0/typed_config/route_config") {
        *config = json!({"virtual_hosts": hosts});
    }
    let clusters = (0..n).map(|index| {
        json!({
            "name": name(index), "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name(index), "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"socket_address": {"address": server.to_string(), "port_value": HTTP}}}},
            ]}]},
        })
    });
    bootstrap(vec![listener], clusters.collect(), Statistics::Kept)
}
