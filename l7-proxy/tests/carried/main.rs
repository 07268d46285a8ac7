//! Carries connections through two real proxies: TLS, HTTP/2 and the hand-over protocol are real, the kernel programs are
//! played (see `stage`). Needs root for a network namespace and a process that gives root up.
//!
//! `cfg(test)` is always true here; it tells clippy that a test may unwrap.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod bytes;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod process;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod storage;
