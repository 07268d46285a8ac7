//! Carries connections through two real proxies: TLS, HTTP/2 and the hand-over protocol are real, the kernel programs are
//! played (see `stage`). Needs root for a network namespace and a process that gives root up.

mod agent;
mod authority;
mod bytes;
mod changes;
mod netns;
mod process;
mod refusals;
mod stage;
mod storage;
