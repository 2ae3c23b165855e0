//! Why an import ended without a verdict. Nothing here says anything about the revision: all of it may be tried again.

use std::error::Error as _;
use std::io;

use serde::{Deserialize, Serialize};

use super::store::StoreError;

/// How gix-hash 0.28 says that somebody computed a collision; the error has no type to tell it by.
const COLLISION: &str = "Detected SHA-1 collision attack";

/// What to do about a failed import; also the label under which it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The trusted store is damaged: discard it and fetch everything.
    Corrupt,
    /// A limit was exceeded, of the settings or of the operating system.
    Limit,
    /// A file could not be read or written: the disk is full, most of the time.
    Io,
    /// The pack is not exactly what was asked for: cut, damaged, or with a foreign object.
    Incomplete,
    /// The pack is sound but an object that is needed was not sent.
    Missing,
    /// An object was made to have the same id as another one.
    Collision,
    /// The import child ended without saying anything: killed, or at fault itself.
    Crashed,
}

/// An import that ended without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What to do about it.
    pub class: FailureClass,
    /// What happened, for people; one line.
    pub text: String,
}

impl Failure {
    /// Returns a failure of `class`; `text` may say anything on one line.
    pub fn new(class: FailureClass, text: impl Into<String>) -> Failure {
        Failure { class, text: text.into() }
    }

    pub(super) fn limit(what: &str, limit: impl std::fmt::Display) -> Failure {
        Failure::new(FailureClass::Limit, format!("{what} exceeds {limit}"))
    }

    pub(super) fn incomplete(text: impl Into<String>) -> Failure {
        Failure::new(FailureClass::Incomplete, text)
    }

    pub(super) fn missing(text: impl Into<String>) -> Failure {
        Failure::new(FailureClass::Missing, text)
    }

    pub(super) fn crashed(how: &str) -> Failure {
        Failure::new(FailureClass::Crashed, format!("the import child is at fault: {how}"))
    }

    pub(super) fn io(operation: &str, error: &io::Error) -> Failure {
        Failure::new(io_class(error), format!("failed to {operation}: {error}"))
    }

    /// Returns what gitoxide's `error` means. Unless a limit or the disk is to blame, the data is, which is `damaged`.
    pub(super) fn of_gix(operation: &str, error: &gix::Error, damaged: FailureClass) -> Failure {
        let text = one_line(error);
        let class = match own_fault(error) {
            Some(class) => class,
            None if text.contains(COLLISION) => FailureClass::Collision,
            None => damaged,
        };
        Failure::new(class, format!("failed to {operation}: {text}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let class = match &error {
            StoreError::Corrupt { .. } => FailureClass::Corrupt,
            StoreError::Read { source, .. } => source.class,
            StoreError::Io { source, .. } => io_class(source),
            StoreError::Format { .. } => FailureClass::Incomplete,
            StoreError::Missing(_) => FailureClass::Missing,
            StoreError::Quarantine { .. } => FailureClass::Crashed,
        };
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Failure::new(class, format!("{error}{cause}"))
    }
}

/// Tells whether a limit or the operating system is to blame. A pack that is cut is an I/O error too, of our reader.
fn own_fault(error: &gix::Error) -> Option<FailureClass> {
    if error.is_resource_exhausted() {
        return Some(FailureClass::Limit);
    }
    let mut io = error.iter_errors().filter_map(|e| e.downcast_ref::<io::Error>());
    io.find(|io| of_the_system(io)).map(io_class)
}

/// A file that is missing is damage; every other number that the operating system gives is its own trouble. gitoxide
/// puts paths into some errors, which takes the number away and leaves the kind.
fn of_the_system(error: &io::Error) -> bool {
    use io::ErrorKind::{
        FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match error.kind() {
        NotFound => false,
        FileTooLarge | PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull => true,
        _ => error.raw_os_error().is_some(),
    }
}

fn io_class(error: &io::Error) -> FailureClass {
    match error.kind() {
        io::ErrorKind::FileTooLarge | io::ErrorKind::OutOfMemory => FailureClass::Limit,
        _ => FailureClass::Io,
    }
}

/// Returns an error and its causes on one line.
fn one_line(error: &gix::Error) -> String {
    let words: Vec<String> = error.iter_errors().map(ToString::to_string).collect();
    words.join(": ").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of the two colliding messages of "SHA-1 is a Shambles" (Leurent and Peyrin, 2020), published with the paper.
    /// No Git object that collides is public, so it is fed to the hasher that every object goes through.
    #[test]
    fn o10_a_sha1_collision_is_detected_and_named() {
        let message = include_bytes!("../../tests/fixtures/sha-mbles-1.bin");
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(message);
        let error = hasher.try_finalize().unwrap_err();
        let failure = Failure::of_gix("index the pack", &error, FailureClass::Incomplete);
        assert_eq!(failure.class, FailureClass::Collision, "{failure}");

        // The same bytes inside of an object are another message, and harmless: as Git does, only an attack is refused.
        let blob = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Blob, message);
        assert!(blob.is_ok(), "{blob:?}");
    }
}
