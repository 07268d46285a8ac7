//! Carries the model between processes: protobufs, and conversions that name every field so that none is forgotten.
//!
//! Decoding is strict: an enum value or a oneof that this version does not know is an error, never a default.

pub mod convert;

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unused_qualifications,
    unreachable_pub,
    reason = "generated; documented in the .proto files"
)]
mod generated {
    pub mod mesh {
        pub mod v1 {
            tonic::include_proto!("millrace.mesh.v1");
        }
    }
    pub mod control {
        pub mod v1 {
            tonic::include_proto!("millrace.control.v1");
        }
    }
    pub mod node {
        pub mod v1 {
            tonic::include_proto!("millrace.node.v1");
        }
    }
}

pub use convert::{Undecodable, decode_snapshot, decode_update, encode_snapshot, encode_update};
/// Between control plane and agent.
pub use generated::control::v1 as control;
/// The model's messages.
pub use generated::mesh::v1 as mesh;
/// Between agent and proxy.
pub use generated::node::v1 as node;

impl std::fmt::Debug for node::KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { chain_der, key_pkcs8_der: _, bundle_der, revoked: _ } = self;
        f.debug_struct("KeyMaterial")
            .field("chain_der", &chain_der.len())
            .field("key_pkcs8_der", &"not shown")
            .field("bundle_der", &bundle_der.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::node::KeyMaterial;

    #[test]
    fn key_material_prints_no_key() {
        let material = KeyMaterial { key_pkcs8_der: b"a private key".as_slice().into(), ..KeyMaterial::default() };
        let printed = format!("{material:?}");
        assert!(!printed.contains("private") && !printed.contains("97, 32"), "{printed}");
    }
}
