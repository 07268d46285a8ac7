//! Writes the log: one JSON object a line, on standard error; its filter can be changed while the process runs.

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// What is logged, for whoever wants to know or change it.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Logs by this filter from now on.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter: EnvFilter = filter.parse().map_err(|error| format!("{filter:?} is no filter: {error}"))?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }

    /// The filter in force.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Begins to log by this filter. Once in a process.
pub fn start(filter: &str) -> anyhow::Result<LogLevel> {
    let (layer, handle) = reload::Layer::new(filter.parse::<EnvFilter>()?);
    tracing_subscriber::registry()
        .with(layer)
        .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
        .try_init()?;
    Ok(LogLevel(handle))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::reload;

    use super::LogLevel;

    #[test]
    fn the_filter_in_force_is_told() {
        let (_layer, handle) = reload::Layer::new("info".parse().unwrap());
        let level = LogLevel(handle);
        assert_eq!(level.get(), "info");
        level.set("warn,millrace_control=debug").unwrap();
        assert!(level.get().contains("millrace_control=debug"), "{}", level.get());
        let before = level.get();
        assert!(level.set("=,=").is_err());
        assert_eq!(level.get(), before);
    }
}
