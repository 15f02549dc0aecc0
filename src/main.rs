//! The binary: reads the command line, does what it says, and turns failure into one line and an exit code.

use std::process::ExitCode;

use ballast::cli::Cli;
use clap::Parser;

// gRPC makes many small strings per request; see docs/performance.md for what this is worth.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
