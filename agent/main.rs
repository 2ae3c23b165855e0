//! `pullagent`: argv to [`pullagent::cli`] to exit code.

fn main() -> std::process::ExitCode {
    pullagent::cli::main()
}
