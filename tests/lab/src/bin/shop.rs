//! One service of the demo shop: `shop web --pod shop/web --node a`.

use anyhow::Result;
use clap::Parser;
use millrace_lab::shop::{Role, Shop, serve};

/// The demo application: each answer is JSON that says which pod answered, whom it saw, and what it called.
#[derive(Parser)]
struct Args {
    /// What this process is.
    role: Role,
    /// Its version.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Its pod, namespace/name.
    #[arg(long)]
    pod: String,
    /// Its node.
    #[arg(long)]
    node: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Args { role, version, pod, node } = Args::parse();
    serve::serve(Shop { role, version, pod, node }).await
}
