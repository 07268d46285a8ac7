//! Tests the built command: what it answers, what it exits with, and what it keeps running.

mod answers;
mod commands;
mod requests;
mod routes;
mod run;
