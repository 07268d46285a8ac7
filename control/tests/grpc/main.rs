//! Speaks to a whole control plane over real TCP and TLS, as an agent does.

#[cfg(test)]
mod asking;
#[cfg(test)]
mod client;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod subscribing;
#[cfg(test)]
mod trusting;
