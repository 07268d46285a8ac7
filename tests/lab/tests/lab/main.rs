//! The lab's tests: each brings up nodes and pods on the real kernel with the mesh's real programs, and says what must be true.
//!
//! They need root. Tests run side by side, each in a lab of its own.

#[cfg(test)]
mod access;
#[cfg(test)]
mod balance;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod config;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod datagrams;
#[cfg(test)]
mod expect;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod held;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_pod;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod integrity;
#[cfg(test)]
mod joins;
#[cfg(test)]
mod kubelet;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod members;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod network_policy;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod outliers;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod plain;
#[cfg(test)]
mod plaintext;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod returns;
#[cfg(test)]
mod revoked;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod routes_scale;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod services;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod standalone;
#[cfg(test)]
mod strict;
#[cfg(test)]
mod survival;
#[cfg(test)]
mod taken_out;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod tracing;
#[cfg(test)]
mod tuning;
#[cfg(test)]
mod wire;
