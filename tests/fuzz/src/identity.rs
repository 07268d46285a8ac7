//! Feeds any bytes to the parser of SPIFFE ids: what it takes, it must print again as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_model::Identity;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text, "an identity has one spelling");
    }
});
