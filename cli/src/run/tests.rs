//! Checks what children are started with, and where secrets go.

use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;

use super::{Place, write_secret};
use crate::config::{Args, Command, Process};

fn place(dir: &std::path::Path) -> Place {
    let path = dir.to_str().unwrap();
    let state = dir.join("state");
    let args = Args::parse_from(["millrace", "run", path, "--node", "a", "--state-dir", state.to_str().unwrap()]);
    let Command::Run(settings) = args.command else { panic!("run is run") };
    Place::new(&dir.join("run"), settings).unwrap()
}

#[test]
fn each_program_is_told_where_the_others_are() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let said = |process| {
        let arguments = place.arguments(process);
        arguments.iter().map(|a| a.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let (run, state) = (place.run_dir.display(), place.control_dir.parent().unwrap().display());
    assert!(said(Process::Control).contains(&format!("--admin {run}/control-admin.sock")));
    assert!(said(Process::Control).contains("--listen 127.0.0.1:15810"));
    assert!(
        said(Process::Agent)
            .contains(&format!("--control https://127.0.0.1:15810 --join-token-file {state}/join-token"))
    );
    assert!(said(Process::Proxy).contains(&format!("--run-dir {run} --user 15008:15008")));
}

#[test]
fn a_second_run_in_the_same_place_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    let held = place.lock().unwrap();
    assert!(place.lock().unwrap_err().to_string().contains("another millrace run"));
    drop(held);
    assert!(place.lock().is_ok());
}

#[test]
fn secrets_are_for_root_alone_from_the_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    for token in ["v1.a.one", "v1.a.two"] {
        write_secret(&place.token_file, token).unwrap();
        assert_eq!(std::fs::read_to_string(&place.token_file).unwrap(), token);
        assert_eq!(std::fs::metadata(&place.token_file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    for private in [&place.control_dir, &place.agent_dir] {
        assert_eq!(std::fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_directory_that_is_not_there_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let args = Args::parse_from(["millrace", "run", "/nonexistent/manifests"]);
    let Command::Run(settings) = args.command else { panic!("run is run") };
    assert!(Place::new(dir.path(), settings).unwrap_err().to_string().contains("/nonexistent/manifests"));
}
