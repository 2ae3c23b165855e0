//! The trusted store against real Git repositories: what is accepted can be read by git and is complete, what is
//! refused leaves no trace, whatever the pack is and whenever the import dies.

mod bytes;
mod crash;
mod export;
mod git;
mod host;
mod hostile;
mod imports;
mod watch;

use pullagent as product;
