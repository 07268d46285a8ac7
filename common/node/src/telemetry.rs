//! Writes log lines as JSON to standard error, one object a line, with a filter that can be changed at run time.

mod line;

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use crate::config;

/// What is logged where nothing else is asked for.
const DEFAULT_FILTER: &str = "info";

/// The longest filter taken, in bytes.
const MAX_FILTER: usize = 1024;

/// Changes what is logged. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    held: Arc<Mutex<String>>,
}

/// The text is no filter, or logging was not set up by this handle.
#[derive(Debug, thiserror::Error)]
#[error("not a log filter (as in `info,millrace_agent=debug`): {0}")]
pub struct BadFilter(String);

impl LogLevel {
    /// Logs by this filter from now on: a level, or `target=level` pairs, joined by commas.
    pub fn set(&self, filter: &str) -> Result<(), BadFilter> {
        let filter = filter.trim();
        let parsed = parse(filter)?;
        self.handle.reload(parsed).map_err(|why| BadFilter(why.to_string()))?;
        filter.clone_into(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// The filter in force.
    pub fn get(&self) -> String {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn parse(filter: &str) -> Result<EnvFilter, BadFilter> {
    if filter.is_empty() || filter.len() > MAX_FILTER {
        return Err(BadFilter(format!("{} bytes, not 1 to {MAX_FILTER}", filter.len())));
    }
    EnvFilter::try_new(filter).map_err(|why| BadFilter(why.to_string()))
}

/// Sets up logging for this process, by `RUST_LOG` or else at `info`. Where logging was set up already (a test that
/// runs two processes' parts in one), that stays, and the handle returned changes nothing.
pub fn init(process: &'static str) -> LogLevel {
    let asked = config::log_filter().unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let (filter, text, complaint) = match parse(&asked) {
        Ok(filter) => (filter, asked, None),
        Err(why) => (EnvFilter::new(DEFAULT_FILTER), DEFAULT_FILTER.to_owned(), Some(why)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(line::Fields)
        .event_format(line::Line::new(process))
        .with_writer(std::io::stderr);
    // Only a second call fails, and then the first one's set-up is the one wanted.
    drop(tracing_subscriber::registry().with(filter).with(lines).try_init());
    if let Some(why) = complaint {
        tracing::warn!(%why, "the environment's log filter is not used");
    }
    LogLevel { handle, held: Arc::new(Mutex::new(text)) }
}
