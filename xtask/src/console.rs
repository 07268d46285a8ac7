//! Speaks to the person, and runs programs whose output they see.

use std::{
    ffi::OsStr,
    io::{self, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::clock;

/// Lines that wait to be shown; a program that writes faster waits for the terminal.
const LINES: usize = 256;

/// How often a silent program is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(100);

/// After a program's end, how long the lines it wrote last are waited for: a process it left behind may hold its
/// output open for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says a line.
#[expect(clippy::print_stdout, reason = "this is the one place where xtask speaks")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Says what begins now.
pub(crate) fn begin(what: &str) {
    say(&format!("\n== {what}"));
}

/// Runs a program that speaks to the person directly; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

/// Runs a program and returns what it wrote to standard output; an error, with what it wrote to standard error, unless it succeeds.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let said = command.output().with_context(|| format!("cannot start {}", name(command)))?;
    if !said.status.success() {
        bail!("{} failed: {}\n{}", name(command), said.status, String::from_utf8_lossy(&said.stderr));
    }
    String::from_utf8(said.stdout).with_context(|| format!("{} did not write UTF-8", name(command)))
}

enum Event {
    Line(String),
    Silent,
}

/// Runs a program, passing each line that it writes, to output or error alike, to `line`; ends it, with all it started,
/// after `limit`.
pub(crate) fn follow(command: &mut Command, limit: Duration, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let name = name(command);
    let mut deadline = clock::now() + limit;
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    // The command's own ends of the pipe would keep it open beyond the child.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, events) = sync_channel(LINES);
    thread::spawn(move || tell(BufReader::new(output), &sender));
    let mut ended: Option<ExitStatus> = None;
    while clock::now() < deadline {
        // A program may end while one it left behind keeps the output open, which is no event: ask now and then.
        match events.recv_timeout(LOOK) {
            Ok(Event::Line(text)) => line(&text),
            Ok(Event::Silent) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() {
            ended = child.try_wait()?;
            if ended.is_some() {
                deadline = deadline.min(clock::now() + LAST_WORDS);
            }
        }
    }
    match ended {
        Some(status) => Ok(status),
        None => wait(&mut child, deadline).with_context(|| format!("{name} ran for {} s, its limit", limit.as_secs())),
    }
}

fn tell(output: impl io::BufRead, events: &SyncSender<Event>) {
    for line in output.split(b'\n').map_while(Result::ok) {
        if events.send(Event::Line(String::from_utf8_lossy(&line).into_owned())).is_err() {
            return;
        }
    }
    // The receiver may be gone, and then needs to hear nothing.
    drop(events.send(Event::Silent));
}

/// Waits for a child whose output has ended: it is about to end itself, so the wait is short and rarely more than one look.
fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if clock::now() >= deadline {
            end(child)?;
            bail!("it was ended");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn end(child: &mut Child) -> Result<()> {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).context("cannot end a program's process group")?;
    }
    child.wait()?;
    Ok(())
}

/// Shows lines as they come; nothing is kept back until a newline elsewhere.
pub(crate) fn flush() {
    // A closed terminal is no reason to stop a test run.
    drop(io::stdout().flush());
}

fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args().take(3));
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::follow;
    use crate::clock;

    /// An exit code, and the lines that were written.
    type Outcome = (Option<i32>, Vec<String>);

    fn shell(script: &str, limit: Duration) -> anyhow::Result<Outcome> {
        let mut lines = Vec::new();
        let status = follow(Command::new("sh").args(["-c", script]), limit, |line| lines.push(line.to_owned()))?;
        Ok((status.code(), lines))
    }

    #[test]
    fn both_outputs_are_followed_to_the_end() {
        let (code, lines) = shell("echo one; echo two >&2; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!((code, lines), (Some(3), vec!["one".to_owned(), "two".to_owned()]));
    }

    #[test]
    fn a_program_left_behind_holds_nobody_up() {
        let began = clock::now();
        let (code, lines) = shell("sleep 30 & echo $!", Duration::from_secs(25)).unwrap();
        assert_eq!((code, lines.len()), (Some(0), 1));
        assert!(clock::now() - began < Duration::from_secs(20), "the one left behind was waited for");
        assert!(Command::new("kill").args(lines).status().unwrap().success(), "it still runs");
    }

    #[test]
    fn a_program_is_ended_at_its_limit_even_if_it_never_falls_silent() {
        for script in ["sleep 30", "while :; do echo more; done", "exec >&- 2>&-; sleep 30"] {
            let ended = shell(script, Duration::from_millis(300)).unwrap_err();
            assert!(format!("{ended:#}").contains("limit"), "{script}: {ended:#}");
        }
    }
}
