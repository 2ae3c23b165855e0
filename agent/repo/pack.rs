//! From a stream of bytes to a pack with an index in a quarantine; and whether a stored pair of them is still what it
//! was. Knows nothing of commits or trust.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gix::error::ResultExt as _;
use gix::objs::Find;
use gix::progress::Discard;
use gix_pack::bundle::write::Options;

use super::failure::{Failure, FailureClass};
use super::files;
use super::limits::Limits;
use super::objects::{Data, Format, Objects, oid};

/// The size of a pack's header: signature, version, number of objects.
const HEADER_BYTES: usize = 12;

/// How much of one list gitoxide allocates for each object while it indexes; two such lists for a half each.
const INDEXED_OBJECT_BYTES: u64 = 128;

/// Writes the pack that `stream` brings, and an index for it, into the pack directory `dir`; returns the index.
///
/// Every object's id is computed from its bytes; bases that a thin pack leaves out are taken from `trusted`.
pub(super) fn write(
    stream: impl Read,
    dir: &Path,
    trusted: &Objects,
    format: Format,
    limits: &Limits,
) -> Result<PathBuf, Failure> {
    let exceeded = Cell::new(None);
    let budget = |what, limit| Budget { what, limit, left: Cell::new(limit), exceeded: &exceeded };
    let mut stream = Bounded { inner: stream, budget: budget("the size of the pack", limits.pack_bytes) };
    let header = read_header(&mut stream, limits);
    let (header, objects) = header.map_err(|failure| exceeded.take().unwrap_or(failure))?;
    let bases = Bases { trusted, budget: budget("the size of the pack's delta bases", limits.bases_bytes) };
    // Without a look-up gitoxide would copy bytes behind the trailer into the stored pack; so it always gets one.
    let outcome = gix_pack::Bundle::write_to_directory(
        &mut BufReader::new(Cursor::new(header).chain(stream)),
        Some(dir),
        &mut Discard,
        &AtomicBool::new(false),
        Some(bases),
        format,
        options(objects, limits),
    );
    let outcome = outcome.map_err(|e| {
        let failure = Failure::of_gix("index the pack", &e, FailureClass::Incomplete);
        exceeded.take().unwrap_or(failure)
    })?;
    if let Some(keep) = outcome.keep_path {
        files::remove(&keep).map_err(|e| Failure::io("delete the pack's '.keep' file", &e))?;
    }
    outcome.index_path.ok_or_else(|| Failure::incomplete("the pack holds no object"))
}

fn options(objects: u32, limits: &Limits) -> Options {
    // One limit serves for each object and for the list of all.
    let alloc_limit = limits.object_bytes.max(u64::from(objects) * INDEXED_OBJECT_BYTES);
    let alloc_limit_bytes = Some(usize::try_from(alloc_limit).unwrap_or(usize::MAX));
    Options { thread_limit: Some(1), alloc_limit_bytes, ..Options::default() }
}

/// Returns the name that a pack and its index have in common, such as `pack-<hash>`.
pub(super) fn name(index: &Path) -> String {
    index.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Compares a stored pack with its index as far as their ends tell: cheap enough for every start.
pub(super) fn check_pair(index: &Path, format: Format) -> Result<(), Failure> {
    let bundle = open(index, format)?;
    if bundle.index.pack_checksum() == bundle.pack.checksum() {
        return Ok(());
    }
    let text = format!("'{}' does not end as its index says", index.with_extension("pack").display());
    Err(Failure::new(FailureClass::Corrupt, text))
}

/// Reads a stored index whole and compares its checksum.
pub(super) fn verify_index(index: &Path, format: Format) -> Result<(), Failure> {
    let checked = open(index, format)?.index.verify_checksum(&mut Discard, &AtomicBool::new(false));
    checked.map(drop).map_err(|e| damaged(index, &e))
}

/// Reads a stored pack whole and compares its checksum.
pub(super) fn verify_pack(index: &Path, format: Format) -> Result<(), Failure> {
    let checked = open(index, format)?.pack.verify_checksum(&mut Discard, &AtomicBool::new(false));
    checked.map(drop).map_err(|e| damaged(index, &e))
}

fn open(index: &Path, format: Format) -> Result<gix_pack::Bundle, Failure> {
    gix_pack::Bundle::at(index, format).map_err(|e| damaged(index, &e))
}

fn damaged(index: &Path, error: &gix::Error) -> Failure {
    Failure::of_gix(&format!("read '{}' and its pack", index.display()), error, FailureClass::Corrupt)
}

fn read_header(stream: &mut impl Read, limits: &Limits) -> Result<([u8; HEADER_BYTES], u32), Failure> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Failure::incomplete("the pack ends within its header"),
        _ => Failure::io("read the pack", &e),
    })?;
    let (_, objects) = gix_pack::data::header::decode(&header)
        .map_err(|e| Failure::of_gix("read the pack's header", &e, FailureClass::Incomplete))?;
    match objects {
        // An empty pack would leave its trailer unread and yield no index.
        0 => Err(Failure::incomplete("the pack holds no object")),
        n if n > limits.objects => Err(Failure::limit(&format!("a pack of {n} objects"), limits.objects)),
        n => Ok((header, n)),
    }
}

/// So many bytes and not one more. What was exceeded is left in `exceeded`, since gitoxide's errors carry no types.
struct Budget<'a> {
    what: &'static str,
    limit: u64,
    left: Cell<u64>,
    exceeded: &'a Cell<Option<Failure>>,
}

impl Budget<'_> {
    fn spend(&self, bytes: usize) -> io::Result<()> {
        match self.left.get().checked_sub(bytes as u64) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.exceeded.set(Some(Failure::limit(self.what, format_args!("{} bytes", self.limit))));
                Err(io::Error::other(self.what))
            }
        }
    }
}

/// The stream of a pack, counted.
struct Bounded<'a, R> {
    inner: R,
    budget: Budget<'a>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buf)?;
        self.budget.spend(bytes).map(|()| bytes)
    }
}

/// The trusted objects as delta bases, counted: each one named is stored again in full.
struct Bases<'a> {
    trusted: &'a Objects,
    budget: Budget<'a>,
}

impl Find for Bases<'_> {
    fn try_find<'b>(&self, id: &oid, buf: &'b mut Vec<u8>) -> gix::Result<Option<Data<'b>>> {
        let found = self.trusted.find(id, buf).map_err(|failure| {
            let error = io::Error::other(failure.text.clone());
            self.budget.exceeded.set(Some(failure));
            error
        });
        let found = found.or_error()?;
        self.budget.spend(found.as_ref().map_or(0, |object| object.data.len())).or_error()?;
        Ok(found)
    }
}
