//! Putting all packs of the store into one, in the import child. Copies objects and deltas as they are and makes no new
//! deltas. Must not know which objects are still needed: that would take a walk, and what was verified does no harm.

use std::fs::File;
use std::io::{BufWriter, Seek as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix::parallel::InOrderIter;
use gix::progress::Discard;
use gix_pack::data::Version;
use gix_pack::data::output::bytes::FromEntriesIter;
use gix_pack::data::output::count::objects::ObjectExpansion;
use gix_pack::data::output::count::objects_unthreaded;
use gix_pack::data::output::entry::iter_from_counts;
use gix_pack::data::output::entry::iter_from_counts::Options;

use super::failure::{Failure, FailureClass};
use super::limits::Limits;
use super::objects::ObjectId;
use super::pack;
use super::store::Store;

/// How many entries are in memory at once.
const CHUNK: usize = 10;

/// Returns limits that the store as it is keeps within: it was held to them pack by pack.
pub(super) fn limits(store: &Store, limits: &Limits) -> Result<Limits, Failure> {
    let bytes = store.size()?;
    let objects = u32::try_from(ids(store)?.len()).unwrap_or(u32::MAX);
    // What was a delta on a copy of its base is stored in full, so the one pack may be larger than all.
    Ok(Limits { objects, pack_bytes: bytes.saturating_mul(2).max(limits.pack_bytes), ..*limits })
}

/// Writes one pack with all objects of `store` into `quarantine`; returns its name.
pub(super) fn run(store: &Store, quarantine: &Path, limits: &Limits) -> Result<String, Failure> {
    let all = ids(store)?;
    let temp = quarantine.join("repacked");
    let copied = File::options().read(true).write(true).create_new(true).open(&temp);
    let mut file = copied.map_err(|e| Failure::io("create the new pack", &e))?;
    copy(store, &all, &file, limits)
        .map_err(|e| Failure::of_gix("repack the trusted store", &e, FailureClass::Corrupt))?;
    file.rewind().map_err(|e| Failure::io("read the new pack", &e))?;

    let trusted = store.objects(limits.object_bytes)?;
    let index = pack::write(file, &quarantine.join("objects/pack"), &trusted, store.format(), limits)?;
    let written = open(&index, store)?;
    // The new ids were computed from the bytes, so nothing got lost or altered if all old ones are among them.
    match all.iter().find(|id| written.lookup(id).is_none()) {
        None => Ok(pack::name(&index)),
        Some(id) => {
            Err(Failure::new(FailureClass::Corrupt, format!("object '{id}' got lost while repacking")))
        }
    }
}

/// Returns the ids of all objects, sorted and each once.
fn ids(store: &Store) -> Result<Vec<ObjectId>, Failure> {
    let mut ids = Vec::new();
    for index in store.packs()? {
        ids.extend(open(&index, store)?.iter().map(|entry| entry.oid));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn open(index: &Path, store: &Store) -> Result<gix_pack::index::File, Failure> {
    gix_pack::index::File::at(index, store.format())
        .map_err(|e| Failure::of_gix("open an index", &e, FailureClass::Corrupt))
}

fn copy(store: &Store, ids: &[ObjectId], to: &File, limits: &Limits) -> gix::Result<()> {
    use gix::error::ResultExt as _;
    let mut odb = store.objects(limits.object_bytes).or_error()?.into_odb();
    odb.prevent_pack_unload(); // Entries are copied by the numbers of their packs.
    let (counts, _) = objects_unthreaded(
        &odb,
        &mut ids.iter().map(|id| Ok(*id)),
        &Discard,
        &AtomicBool::new(false),
        ObjectExpansion::AsIs,
    )?;
    let number = u32::try_from(counts.len()).or_error()?;
    let options = Options { thread_limit: Some(1), chunk_size: CHUNK, ..Options::default() };
    let entries = iter_from_counts(counts, odb, Box::new(Discard), options)?;
    let output = FromEntriesIter::new(
        InOrderIter::from(entries),
        BufWriter::new(to),
        number,
        Version::V2,
        store.format(),
    );
    for written in output {
        written?;
    }
    Ok(())
}
