//! States what the command line may say, and that every mistake in it is told at once.

use clap::Parser as _;

use super::{Args, Config, ControlAddress, Files, Format, Invalid, Task, User, parse};

fn files() -> Files {
    Files {
        mounts: "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n".into(),
        passwd: "root:x:0:0::/root:/bin/sh\nmillrace:x:977:978::/:/bin/false\n".into(),
    }
}

fn args(line: &str) -> Args {
    Args::try_parse_from(std::iter::once("millrace-agent").chain(line.split_whitespace())).unwrap()
}

fn read(line: &str) -> Result<Task, Invalid> {
    Config::from_args(args(line), &files())
}

#[test]
fn three_flags_are_enough_to_run() {
    let Ok(Task::Run(config)) = read("--node a --control https://172.30.0.1:15012") else { panic!() };
    assert_eq!(config.control, ControlAddress { host: "172.30.0.1".into(), port: 15012 });
    let pins = format!("/sys/fs/bpf/millrace/a/v{}", millrace_abi::SCHEMA);
    assert_eq!(config.place.pins.to_str(), Some(pins.as_str()));
    assert_eq!(config.place.cgroup.to_str(), Some("/sys/fs/cgroup/unified"));
    assert_eq!(config.proxy_user, User { uid: 15008, gid: 15008 });
}

#[test]
fn all_bad_settings_are_told_together() {
    let Err(Invalid(bad)) = read("--node A_b --control http://x --cgroup /tmp --proxy-user nobody-here --run-dir run")
    else {
        panic!()
    };
    let flags: Vec<&str> = bad.iter().filter_map(|complaint| complaint.split(':').next()).collect();
    assert_eq!(flags, ["--node", "--cgroup", "--control", "--proxy-user", "--run-dir"]);
}

#[test]
fn a_command_takes_its_flags_on_either_side() {
    let Ok(Task::Leave(before)) = read("--node a leave") else { panic!() };
    let Ok(Task::Leave(after)) = read("leave --node a") else { panic!() };
    assert_eq!(before, after);
    assert_eq!(read("check -o json"), Ok(Task::Check(Format::Json, Vec::new())));
}

#[test]
fn a_control_address_has_one_spelling() {
    for (text, host) in [("https://c:1", "c"), ("https://[fd30::1]:1", "fd30::1"), ("https://10.0.0.1:1/", "10.0.0.1")]
    {
        assert_eq!(parse::control(Some(text)), Ok(ControlAddress { host: host.into(), port: 1 }));
    }
    for text in ["", "c:1", "http://c:1", "https://c", "https://:1", "https://c:0", "https://u@c:1", "https://c/p:1"] {
        assert!(parse::control(Some(text)).is_err(), "{text:?}");
    }
}

#[test]
fn a_user_goes_by_name_or_by_numbers() {
    assert_eq!(parse::user("millrace", &files().passwd), Ok(User { uid: 977, gid: 978 }));
    assert_eq!(parse::user("1:2", ""), Ok(User { uid: 1, gid: 2 }));
    assert!(parse::user("1:x", "").is_err());
}
