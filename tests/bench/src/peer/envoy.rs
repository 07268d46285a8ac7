//! What two Envoys are told.
//!
//! Each port of the server is carried by the TCP proxy; its HTTP port by the HTTP connection manager also, as in a mesh that
//! parses. Tuned: no access log, no statistics kept, no admin port, connections balanced among workers exactly, no limit on
//! the life of connections, no headers added, TLS 1.3 with the session tickets that are its default, and its own
//! default of key exchange (X25519, cheaper than the mesh's hybrid).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::certificates::{CLIENT, Certificates, SERVER};
use crate::serve::{ECHO, HTTP, SINK};

/// Added to a port of the server: where the client's Envoy listens for it, and where the server's does.
const OFFSET: u16 = 10_000;

/// Added once more for what the HTTP connection manager carries.
const PARSED: u16 = 100;

/// And for each set of them: one with a worker, one with two.
const SET: u16 = 1_000;

/// Connections that an Envoy may have to the next: more than any load makes.
const MOST: u32 = 100_000;

/// How a port is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As bytes.
    Tcp,
    /// As requests.
    Http,
}

/// Where the Envoys of set `set` listen for this port of the server, on either side.
pub fn port(set: u16, server: u16, way: Way) -> u16 {
    let parsed = match way {
        Way::Tcp => 0,
        Way::Http => PARSED,
    };
    server + OFFSET + set * SET + parsed
}

/// Every port that is carried, and how.
const CARRIED: [(u16, Way); 4] = [(SINK, Way::Tcp), (ECHO, Way::Tcp), (HTTP, Way::Tcp), (HTTP, Way::Http)];

/// The client's end: plain on loopback, to the server's Envoy by mutual TLS.
pub fn client(set: u16, server: IpAddr, certificates: &Certificates) -> Value {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common_tls("client", SERVER, certificates),
    });
    let listeners = CARRIED.iter().map(|(of, way)| {
        let port = port(set, *of, *way);
        listener("127.0.0.1".to_owned(), port, *way, None)
    });
    let clusters = CARRIED.iter().map(|(of, way)| {
        let port = port(set, *of, *way);
        cluster(port, server.to_string(), port, Some(&tls))
    });
    bootstrap(listeners.collect(), clusters.collect())
}

/// The server's end: mutual TLS from the client's Envoy, plain to the server on loopback.
pub fn server(set: u16, certificates: &Certificates) -> Value {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": common_tls("server", CLIENT, certificates),
    });
    let listeners =
        CARRIED.iter().map(|(of, way)| listener("0.0.0.0".to_owned(), port(set, *of, *way), *way, Some(&tls)));
    let clusters = CARRIED.iter().map(|(of, way)| cluster(port(set, *of, *way), "127.0.0.1".to_owned(), *of, None));
    bootstrap(listeners.collect(), clusters.collect())
}

fn bootstrap(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_config": {"stats_matcher": {"reject_all": true}},
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
        Way::Http => http(port),
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

fn http(port: u16) -> Value {
    json!({"name": "http", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "codec_type": "HTTP1",
        "generate_request_id": false,
        "skip_xff_append": true,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": format!("c{port}"), "timeout": "0s"}},
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "dynamic_stats": false,
            "suppress_envoy_headers": true,
        }}],
    }})
}

fn cluster(named: u16, address: String, port: u16, tls: Option<&Value>) -> Value {
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
    if let (Some(tls), Some(cluster)) = (tls, cluster.as_object_mut()) {
        cluster.insert("transport_socket".to_owned(), json!({"name": "tls", "typed_config": tls}));
    }
    cluster
}
