//! Holds a process of the lab: its output in files, its end waited for, never left behind.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use crate::clock;

/// How long a process may take to end on SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running process. Dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Process {
    name: String,
    detached: bool,
    child: Child,
    end: OwnedFd,
    output: Log,
    errors: Log,
}

/// A log, and where in it this process began: one of the same name may have written before.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    start: usize,
}

impl Log {
    fn read(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.start..).unwrap_or_default()).into_owned()
    }
}

impl Process {
    /// Starts `command`; its output goes to `<logs>/<name>.out` and `.err`, after what an earlier process of this name wrote.
    pub fn start(mut command: Command, name: &str, logs: &Path) -> Result<Self> {
        let open = |kind: &str| -> Result<(File, Log)> {
            let path = logs.join(format!("{name}.{kind}"));
            let file = File::options().create(true).append(true).open(&path)?;
            let start = usize::try_from(file.metadata()?.len())?;
            Ok((file, Log { path, start }))
        };
        let ((out, output), (err, errors)) = (open("out")?, open("err")?);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().with_context(|| format!("start {name}: {}", command.get_program().display()))?;
        let end = pidfd_open(pid_of(&child)?, PidfdFlags::empty())?;
        Ok(Self { name: name.to_owned(), detached: false, child, end, output, errors })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn output(&self) -> String {
        self.output.read()
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        self.errors.read()
    }

    /// Fails if it has ended, with the end of what it said.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, tail(&self.errors(), 20)),
        }
    }

    /// Waits for a line of standard output that contains `text`.
    pub fn says(&mut self, text: &str, patience: Duration) -> Result<String> {
        let what = format!("{} says {text:?}", self.name);
        let (line, _took) = clock::until(patience, &what, || {
            let output = self.output();
            if let Some(line) = output.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            self.still_runs()?;
            bail!("it said:\n{}", tail(&output, 5))
        })?;
        Ok(line)
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        ensure!(ends_within(&self.end, patience)?, "{} did not end within {patience:?}", self.name);
        Ok(self.child.wait()?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(pid_of(&self.child)?, signal)?)
    }

    /// Asks it to end, waits, and kills it if it won't; says how it ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(GRACE)
    }

    /// Lets it outlive this process.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Kills it at once.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached && matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// What a command that ran to its end left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must have succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status.success(), "it ended with {}: {}{}", self.status, self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

/// Runs a command to its end, or kills it when `patience` is over.
pub fn run(mut command: Command, patience: Duration) -> Result<Output> {
    let program = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("start {program}"))?;
    let pid = pid_of(&child)?;
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    let (result, in_time) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| child.wait_with_output());
        let in_time = ends_within(&end, patience);
        if !matches!(in_time, Ok(true)) {
            kill_process(pid, Signal::KILL).ok(); // It may have ended meanwhile.
        }
        (reader.join(), in_time)
    });
    let Ok(output) = result else { bail!("the reader of {program} panicked") };
    let output = output?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(in_time?, "{program} did not end within {patience:?}; it said: {stdout}{stderr}");
    Ok(Output { status: output.status, stdout, stderr })
}

/// The last `n` lines of `text`.
pub fn tail(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(n)..).unwrap_or_default().join("\n")
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the process has no id")
}

fn ends_within(end: &OwnedFd, patience: Duration) -> Result<bool> {
    let deadline = clock::now() + patience;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(clock::now()))?;
        match poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&left)) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
