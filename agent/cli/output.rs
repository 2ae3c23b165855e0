//! What goes to the terminal: text or JSON on stdout, news on stderr, in the style that the terminal can show.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;

use super::Options;
use super::exit::Fail;
use crate::report::Style;

/// The widest page; longer lines are hard to read.
const WIDTH_MAX: usize = 120;
/// The width where there is no terminal.
const WIDTH_USUAL: usize = 100;

/// When to send colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// If stdout is a terminal, and neither `NO_COLOR` nor `CLICOLOR=0` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Returns the style of stdout.
pub fn style(options: &Options) -> Style {
    let color = match options.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never,
    };
    Style { color, width: width(), zone: jiff::tz::TimeZone::system() }
}

fn width() -> usize {
    if !io::stdout().is_terminal() {
        return WIDTH_USUAL;
    }
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col).min(WIDTH_MAX),
        Ok(_) | Err(_) => WIDTH_USUAL,
    }
}

/// Prints to stdout. A reader that has gone away, as in `| head -1`, is no error.
pub fn print(text: &str) -> Result<(), Fail> {
    print_on(text).map(drop)
}

/// Prints to stdout, and tells whether anybody still reads it.
pub fn print_on(text: &str) -> Result<bool, Fail> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(anyhow::Error::from(e).context("failed to write to stdout").into()),
    }
}

/// Prints a value as JSON to stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Fail> {
    let text = serde_json::to_string_pretty(value).context("failed to render JSON")?;
    print(&(text + "\n"))
}

/// Tells news on stderr, unless `--quiet`.
pub fn tell(options: &Options, text: &str) {
    if !options.quiet {
        anstream::eprintln!("{text}");
    }
}
