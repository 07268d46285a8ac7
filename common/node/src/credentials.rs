//! Proves who a process is and checks who its peer is: SPIFFE certificates in TLS 1.3, by rustls with aws-lc-rs.
//!
//! A peer is refused for a named [`Refusal`], which [`refusal`] finds again in the error that a failed handshake
//! returns. No name but the SPIFFE id is ever looked at, and no time but the one that rustls gives.

mod material;
mod peer;
mod refusal;
mod request;
mod tls;
mod trust;
mod verify;

pub use material::{KeyMaterial, MARK, MAX_REVOKED, Revoked, Unusable};
pub use peer::{peer_identity, validity};
pub use refusal::{Refusal, refusal};
pub use request::{csr, new_key, renew_at};
pub use tls::{Expect, client_config, control_config, pinned_root_client_config, server_config};
pub use trust::{Trust, issuer_sha256};
pub use verify::is_not_revoked;

#[cfg(test)]
mod tests;
