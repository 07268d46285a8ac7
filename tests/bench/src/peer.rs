//! The other proxies: what is written for them, so that each runs as its own project would tune it for this.
//!
//! They stand where sidecars stand, in the pods' own namespaces: the client connects to its proxy over loopback, that one to the
//! proxy in the server's pod over the wire by mutual TLS 1.3, and it to the server over loopback. These are the hops that a connection through
//! the mesh makes too. Nothing captures for them, which saves them the work that the mesh's kernel programs are measured with.

pub mod certificates;
pub mod envoy;
pub mod haproxy;
