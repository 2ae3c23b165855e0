//! `pullagent`: argv to [`pullagent::cli`] to exit code.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().skip(1).collect();
    pullagent::cli::hidden::dispatch(&argv).unwrap_or(ExitCode::SUCCESS)
}
