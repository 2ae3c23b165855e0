//! For the people who sign: hooks, `verify` where commits are made and where they arrive, the allowed-signers file, and
//! the page that leads through all of it. Real Git, ssh-keygen and gpg; nothing of the user's own configuration.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test runs the programs that people run, and reads the clock"
)]

mod signing {
    mod desk;

    mod hooks;
    mod keys;
    mod page;
    mod places;
    mod verify;
}
