//! Prints what needs no process: definitions of kinds, shell completions.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    Ending, Failure,
    config::{Args, DefinitionFormat},
    out,
};

/// Prints the definitions of Millrace's kinds.
pub(crate) fn crds(format: DefinitionFormat) -> Result<Ending, Failure> {
    let crds = millrace_crd::crds();
    match format {
        DefinitionFormat::Json => {
            let values: Vec<_> = crds.into_iter().map(|(_, crd)| crd).collect();
            out::print_json(&values)?;
        }
        DefinitionFormat::Yaml => {
            for (_, crd) in crds {
                let yaml = millrace_crd::yaml(&crd).map_err(|why| Failure::Failed(why.to_string()))?;
                out::print(&format!("---\n{yaml}"))?;
            }
        }
    }
    Ok(Ending::Yes)
}

/// Prints completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Result<Ending, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "millrace", &mut script);
    out::print(&String::from_utf8_lossy(&script))?;
    Ok(Ending::Yes)
}
