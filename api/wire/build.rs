//! Compiles the protobufs in pure Rust: no protoc on the machine is asked for.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/name.proto",
        "proto/route.proto",
        "proto/trust.proto",
        "proto/mesh.proto",
        "proto/control.proto",
        "proto/node.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".millrace.node.v1")
        // It holds a private key: its Debug is written by hand, and shows none.
        .skip_debug([".millrace.node.v1.KeyMaterial"])
        .compile_fds(descriptors)?;
    Ok(())
}
