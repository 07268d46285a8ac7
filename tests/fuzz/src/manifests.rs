//! Feeds any bytes to the reader of manifests and what it reads to the compiler: both are total, what is left out has a
//! reason and a mend, and what compiles crosses the wire whole.

#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libfuzzer_sys::fuzz_target;
use millrace_control::{
    compile::compile,
    diagnostic::Weight,
    source::{manifest, shelf::Shelf},
    world::{Settings, World},
};
use millrace_node::wire::{decode_snapshot, encode_snapshot};

fuzz_target!(|bytes: &[u8]| {
    let file: Arc<str> = "fuzz.yaml".into();
    let settings = Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() };
    let reading = manifest::read(&file, bytes, &settings);
    for item in &reading.items {
        let is_left_out = item.problems.iter().any(|problem| problem.weight == Weight::Fatal);
        assert_eq!(item.object.is_none(), is_left_out, "an object is left out for a reason, and only then: {item:?}");
        for problem in &item.problems {
            assert!(!problem.problem.is_empty() && !problem.mend.is_empty(), "a problem names its mend: {problem:?}");
        }
    }
    let files = BTreeMap::from([(file, Arc::new(reading))]);
    let (_, sourced) = Shelf::default().settle(&files);
    let (snapshot, _) =
        compile(&World { settings, objects: sourced.objects, listening: BTreeMap::new(), revoked: BTreeSet::new() });
    let arrived = decode_snapshot(encode_snapshot(&snapshot).into()).expect("what compiles can be sent");
    assert_eq!(arrived, snapshot, "the wire carries every field");
});
