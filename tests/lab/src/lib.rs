//! Nodes and pods as network namespaces on one kernel, with the mesh's real programs in them.
//!
//! A [`Plan`] is a value; [`Lab::up`] makes it real; [`Lab::start_mesh`] runs the mesh in it. A test then speaks of pods:
//! `lab.pod("shop/client")?.connects("web:80")`, `lab.pod("shop/client")?.is_refused("web:80")`. Everything a lab made goes
//! when it is dropped, and what a killed one left goes when the next one starts. There is no mock of anything here.

pub mod admin;
pub mod binaries;
pub mod capture;
pub mod cgroup;
pub mod clock;
pub mod collector;
pub mod comings;
pub mod delay;
pub mod demo;
pub mod frames;
pub mod grpc;
pub mod intruder;
pub mod lab;
pub mod load;
pub mod manifests;
pub mod mesh;
pub mod metrics;
pub mod network;
pub mod peer;
pub mod place;
pub mod plan;
pub mod pod;
pub mod process;
pub mod shop;
pub mod slot;
pub mod topology;
pub mod web;

pub use lab::Lab;
pub use mesh::Part;
pub use plan::{Plan, Pod};
