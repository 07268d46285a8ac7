//! Speaks to a whole control plane over real TCP and TLS, as an agent does.

mod client;
mod joining;
mod subscribing;
