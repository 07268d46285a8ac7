//! Compiles the protobufs in pure Rust: no protoc on the machine is asked for.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["name", "profile", "retry", "route", "session", "telemetry", "trust", "mesh", "control", "node"]
        .map(|name| format!("proto/{name}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".millrace.node.v1")
        // Pieces of what was received, without a copy.
        .bytes(".millrace.mesh.v1.Update")
        // It holds a private key: its Debug is written by hand, and shows none.
        .skip_debug([".millrace.node.v1.KeyMaterial"])
        .compile_fds(descriptors)?;
    Ok(())
}
