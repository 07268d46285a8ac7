//! Speaks to the person, and runs programs whose output they see.

use std::{
    ffi::OsStr,
    io::{self, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::clock;

/// Lines that wait to be shown; a program that writes faster waits for the terminal.
const LINES: usize = 256;

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
    let deadline = clock::now() + limit;
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    // The command's own ends of the pipe would keep it open beyond the child.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, events) = sync_channel(LINES);
    thread::spawn(move || tell(BufReader::new(output), &sender));
    let mut ended: Option<ExitStatus> = None;
    loop {
        let patience = if ended.is_some() { LAST_WORDS } else { deadline.saturating_duration_since(clock::now()) };
        // A program may end while one it left behind keeps the output open, which is no event: ask now and then.
        match events.recv_timeout(patience.min(LAST_WORDS)) {
            Ok(Event::Line(text)) => line(&text),
            Ok(Event::Silent) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if ended.is_some() => break,
            Err(RecvTimeoutError::Timeout) if clock::now() >= deadline => {
                end(&mut child)?;
                bail!("{name} was ended: it ran for {} s, which is its limit", limit.as_secs());
            }
            Err(RecvTimeoutError::Timeout) => ended = child.try_wait()?,
        }
    }
    let remaining = deadline.saturating_duration_since(clock::now());
    match ended {
        Some(status) => Ok(status),
        None => wait(&mut child, remaining).with_context(|| format!("{name} closed its output and did not end")),
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
fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = clock::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if clock::now() >= deadline {
            end(child)?;
            bail!("it was ended at its limit");
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
