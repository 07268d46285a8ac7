//! Feeds any bytes to the checks of hand-over messages, both ways: the first byte is how many descriptors came along.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_node::{
    handover::{MAX_DESCRIPTORS, MAX_MESSAGE, check_from_agent, check_from_proxy},
    wire::node::{FromAgent, FromProxy},
};
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Some((n_descriptors, message)) = bytes.split_first() else { return };
    let n_descriptors = usize::from(*n_descriptors);
    if message.len() > MAX_MESSAGE {
        return;
    }
    if let Ok(message) = FromAgent::decode(message)
        && check_from_agent(&message, n_descriptors).is_ok()
    {
        assert!(n_descriptors <= MAX_DESCRIPTORS, "more descriptors than a packet holds were taken");
        let again = FromAgent::decode(&*message.encode_to_vec()).expect("what was taken can be sent");
        assert_eq!(check_from_agent(&again, n_descriptors), Ok(()));
    }
    if let Ok(message) = FromProxy::decode(message)
        && check_from_proxy(&message, n_descriptors).is_ok()
    {
        assert!(n_descriptors <= MAX_DESCRIPTORS, "more descriptors than a packet holds were taken");
        let again = FromProxy::decode(&*message.encode_to_vec()).expect("what was taken can be sent");
        assert_eq!(check_from_proxy(&again, n_descriptors), Ok(()));
    }
});
