//! The binary: reads the command line, does what it says, and turns failure into one line and an exit code.

use std::process::ExitCode;

use ballast::cli::Cli;
use clap::Parser;
use mimalloc::MiMalloc;

/// A request makes dozens of small allocations, many of which another thread frees. See docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
