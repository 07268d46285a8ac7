//! Tests the kernel programs on the real kernel, as root: network namespaces as pods, a scratch cgroup as the node.
//!
//! Everything is in `tests/kernel/`, one file for each of the programs' own. Nothing is here.
