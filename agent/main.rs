//! `pullagent`: argv to [`pullagent::cli`] to exit code.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
