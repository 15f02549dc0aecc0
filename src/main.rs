//! The binary: reads the command line, does what it says, and turns failure into one line and an exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use ballast::cli::Cli;
use ballast::output;
use mimalloc::MiMalloc;

/// A request makes dozens of small allocations, many of which another thread frees. See docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// As clap has it for an argument that it does not understand.
const EXIT_CODE_USAGE: u8 = 2;
/// As Rust has it.
const EXIT_CODE_PANIC: u8 = 101;

fn main() -> ExitCode {
    output::redirect_panics();
    let code = catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::from(EXIT_CODE_PANIC));
    output::finish();
    code
}

fn run() -> ExitCode {
    let failed = |error: &dyn std::error::Error, code: u8| {
        output::say(format_args!("error: {error}"));
        ExitCode::from(code)
    };
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return failed(&error, EXIT_CODE_USAGE),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, 1),
    };
    let done = runtime.block_on(cli.run());
    // What still runs on it, such as a look-up of a host name, is of no use to anybody.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.exit_code()),
    }
}
