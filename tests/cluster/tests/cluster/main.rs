//! Tests the control plane on a real Kubernetes API server, which `cargo xtask cluster up --api-only` starts for them.
//!
//! They share one API server, each in namespaces of its own; what they do to the server itself they do one at a time.

#![cfg(test)]

mod admission;
mod agent;
mod backends;
mod between;
mod cli;
mod clusters;
mod definitions;
mod deploy;
mod equal;
mod follower;
mod image;
mod joining;
mod lists;
mod mesh;
mod network;
mod node;
mod nodes;
mod outage;
mod outside;
mod process;
mod replicas;
mod routes;
mod server;
mod size;
mod source;
mod status;
mod trusting;
mod wire;
mod world;
