//! Names the ports that are Millrace's own inside a pod.
//!
//! The tunnel's is HBONE's. The others are not Istio's 15001 and 15006, so that a node can be shared while migrating.

/// HBONE: mTLS and HTTP/2 CONNECT, as Istio ambient's ztunnel listens.
pub const TUNNEL: u16 = 15008;
/// Where a captured outbound connection is sent, on the pod's loopback.
pub const OUTBOUND: u16 = 15801;
/// Where a connection that came in plain text is steered, on the pod's loopback.
pub const PLAINTEXT: u16 = 15806;

/// True for a port that no tunnel or connect may name as an application's.
pub fn is_mesh(port: u16) -> bool {
    matches!(port, TUNNEL | OUTBOUND | PLAINTEXT)
}
