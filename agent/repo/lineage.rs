//! How one commit of the trusted store stands to another: ancestor, descendant or neither. It reads parent lines only; what
//! is in the store was verified, or vouched for by root, when it came there.

use std::collections::HashSet;

use super::closure::commit_links;
use super::limits::Limits;
use super::objects::{Kind, ObjectId, Objects, to_gix};
use super::store::{Store, StoreError};
use crate::model::{Kin, Oid};
use crate::trust::HISTORY_MAX;

/// Says how `revision` stands to `to`. The two differ.
///
/// # Errors
/// The store can't be read, is damaged, or holds a longer history than any that is verified.
pub fn kin(store: &Store, revision: &Oid, to: &Oid) -> Result<Kin, StoreError> {
    let has_to = store.has(to)?;
    if has_to && is_ancestor(store, revision, to)? {
        return Ok(Kin::Older);
    }
    if !store.has(revision)? {
        return Ok(Kin::Unknown);
    }
    if is_ancestor(store, to, revision)? {
        return Ok(Kin::Newer);
    }
    Ok(if has_to { Kin::Apart } else { Kin::Unknown })
}

/// Tells whether `old` is in the history of `new`, which is stored.
fn is_ancestor(store: &Store, old: &Oid, new: &Oid) -> Result<bool, StoreError> {
    let objects = store.objects(Limits::OBJECT_BYTES)?;
    let (old, new) = (to_gix(old), to_gix(new));
    let mut seen = HashSet::from([new]);
    let mut pending = vec![new];
    let mut buf = Vec::new();
    while let Some(id) = pending.pop() {
        for parent in parents(store, &objects, &id, &mut buf)? {
            if parent == old {
                return Ok(true);
            }
            if seen.insert(parent) {
                pending.push(parent);
            }
        }
        if seen.len() > HISTORY_MAX {
            return Err(store.damaged("its history is longer than any that is verified"));
        }
    }
    Ok(false)
}

fn parents(
    store: &Store,
    objects: &Objects,
    id: &ObjectId,
    buf: &mut Vec<u8>,
) -> Result<Vec<ObjectId>, StoreError> {
    let found = objects.find(id, buf).map_err(|f| store.failed(f))?;
    let raw = found.filter(|object| object.kind == Kind::Commit);
    let links = raw.and_then(|object| commit_links(object.data));
    links.map(|(_, parents)| parents).ok_or_else(|| store.damaged("a commit is missing or malformed"))
}
