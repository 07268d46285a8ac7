//! Prints the demo and keeps count of its checks.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use crate::clock;

/// What has been shown and checked so far.
#[derive(Debug)]
pub struct Stage {
    coloured: Colour,
    start: Instant,
    n_scenes: u32,
    n_checks: u32,
    failures: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Colour {
    On,
    Off,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug)]
pub enum Tone {
    /// A figure or a name that matters.
    Strong,
    /// What is there for completeness.
    Faint,
    /// What went well.
    Good,
    /// What went wrong.
    Bad,
    /// A title.
    Title,
}

impl Default for Stage {
    fn default() -> Self {
        let coloured = if io::stdout().is_terminal() { Colour::On } else { Colour::Off };
        Self { coloured, start: clock::now(), n_scenes: 0, n_checks: 0, failures: Vec::new() }
    }
}

impl Stage {
    /// Text in a tone, where the terminal has any.
    pub fn tone(&self, tone: Tone, text: impl Display) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Title => "1;36",
        };
        match self.coloured {
            Colour::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Colour::Off => text.to_string(),
        }
    }

    /// A line, indented under its scene.
    pub fn say(&self, text: impl Display) {
        for line in text.to_string().lines() {
            print(&format!("   {line}"));
        }
    }

    /// A line that is there for completeness.
    pub fn whisper(&self, text: impl Display) {
        self.say(self.tone(Tone::Faint, text));
    }

    /// Begins a scene.
    pub fn scene(&mut self, title: &str) {
        self.n_scenes += 1;
        let at = self.tone(Tone::Faint, format!("{:5.1} s", self.start.elapsed().as_secs_f64()));
        let title = self.tone(Tone::Title, format!("{} · {title}", self.n_scenes));
        print(&format!("\n{title}  {at}"));
    }

    /// A statement that must be true; whether it was.
    pub fn check(&mut self, holds: bool, statement: impl Display) -> bool {
        self.n_checks += 1;
        if holds {
            self.say(format!("{} {statement}", self.tone(Tone::Good, "✓")));
        } else {
            self.say(format!("{} {statement}", self.tone(Tone::Bad, "✗ not true:")));
            self.failures.push(statement.to_string());
        }
        holds
    }

    /// A check that could not be made.
    pub fn failed(&mut self, what: &str, why: &str) {
        self.n_checks += 1;
        self.say(format!("{} {what}: {}", self.tone(Tone::Bad, "✗"), why.trim()));
        self.failures.push(format!("{what}: {}", why.trim()));
    }

    /// The last line; whether all was well.
    pub fn end(&self) -> bool {
        let (n, n_failed) = (self.n_checks, self.failures.len());
        print(&self.tone(Tone::Faint, format!("\n   the whole demo took {:.1} s", self.start.elapsed().as_secs_f64())));
        for failure in &self.failures {
            print(&format!("   {} {failure}", self.tone(Tone::Bad, "failed:")));
        }
        let word = if n_failed == 0 { "ok" } else { "failed" };
        print(&format!("\ndemo: {word}, {n} checks, {n_failed} failed"));
        n_failed == 0
    }
}

/// A duration as people read it.
pub fn human(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// A count of bytes as people read it.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} bytes"),
        10_000..10_000_000 => format!("{} KB", n / 1_000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

/// Prints a line.
pub fn print(line: &str) {
    // Where standard output is closed there is nobody to tell.
    writeln!(io::stdout().lock(), "{line}").ok();
}
