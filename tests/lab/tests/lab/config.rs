//! What the environment says about how thorough the tests shall be.

/// Bytes each way in the bulk test; the full gibibyte unless said otherwise.
const BULK_MIB: u64 = 1024;

/// `MILLRACE_LAB_BULK_MIB` or a gibibyte.
pub(crate) fn bulk_bytes() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is config.rs")]
    let said = std::env::var("MILLRACE_LAB_BULK_MIB");
    said.ok().and_then(|text| text.parse().ok()).unwrap_or(BULK_MIB) << 20
}
