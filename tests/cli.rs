//! The command line, as a shell uses it: the real program against published files and a real control socket. What the
//! loop would answer is scripted; everything else is as on a host.

#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::disallowed_methods, reason = "a test runs the program, and git, itself")]

mod cli {
    mod host;
    mod worlds;

    mod files;
    mod local;
    mod log;
    mod orders;
    mod watch;
}
