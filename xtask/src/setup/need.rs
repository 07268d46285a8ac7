//! Lists what is needed, how to tell that it is there, and what for.

use std::path::Path;

use crate::config::Config;

/// One thing that has to be on the machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// What shows that it is there.
    pub(crate) sign: Sign,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// What it is for, shown to the person.
    pub(crate) why: &'static str,
}

/// How a thing is recognised: by what it brings, not by its package, as it may have come another way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// A program in `PATH`.
    Program(&'static str),
    /// A file.
    File(&'static str),
}

impl Need {
    /// True when it is on this machine.
    pub(crate) fn is_there(&self, config: &Config) -> bool {
        match self.sign {
            Sign::Program(name) => config.program(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
        }
    }
}

const fn program(name: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { sign: Sign::Program(name), package, why }
}

const fn file(path: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { sign: Sign::File(path), package, why }
}

/// What the user-space programs and the fuzz targets are built with.
pub(crate) const BUILD: &[Need] = &[
    program("cc", "gcc", "links every program, and compiles the C of the TLS library"),
    program("g++", "g++", "compiles libFuzzer, for the fuzz targets"),
];

/// What the kernel programs are compiled with, Debian's way.
pub(crate) const COMPILER: &[Need] = &[
    file("/usr/bin/rustc", "rustc-web", "compiles the kernel programs, with a stable compiler"),
    file(
        "/usr/lib/rustlib/bpfel-unknown-none",
        "libstd-rust-web-dev-bpf",
        "is Rust's core library for BPF, built already",
    ),
];

/// What bpf-linker is built from: the LLVM of that compiler.
pub(crate) const LINKER: &[Need] = &[
    file("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev", "is the LLVM that bpf-linker links kernel programs with"),
    file("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev", "is named by that LLVM when something is linked to it"),
    file("/usr/include/zlib.h", "zlib1g-dev", "is named by that LLVM when something is linked to it"),
    file("/usr/include/zstd.h", "libzstd-dev", "is named by that LLVM when something is linked to it"),
    file(
        "/usr/include/libxml2/libxml/xmlversion.h",
        "libxml2-dev",
        "is named by that LLVM when something is linked to it",
    ),
];

/// What the tests and the demo run.
pub(crate) const TOOLS: &[Need] = &[
    program("ip", "iproute2", "makes the lab's nodes and pods, which are network namespaces"),
    program("tcpdump", "tcpdump", "captures what goes between the lab's nodes, to show that it is TLS"),
    program("curl", "curl", "is a client in the lab's pods, as users have it"),
    program("nc", "netcat-openbsd", "is a client and a server in the lab's pods"),
    program("iperf3", "iperf3", "moves bulk data through the mesh"),
    program("h2load", "nghttp2-client", "is an HTTP/2 client with many streams"),
    program("python3", "python3", "is an application in the lab's pods that knows nothing of Rust"),
    program("bpftool", "bpftool", "shows what is attached in the kernel when a test fails"),
];

/// What the benchmark compares with, beside Envoy.
pub(crate) const PEERS: &[Need] =
    &[program("haproxy", "haproxy", "is one of the proxies that the benchmark compares with")];
