//! Whether new objects are closed: everything reachable from the tip is there, is what its id says, and is of the kind
//! that is expected of it; and nothing else came along. Knows nothing of signatures, and of trees only the links.
//!
//! Stopping at objects of the trusted store is sound because the store is closed itself. That is also why an object
//! that nothing asks for is refused: a commit planted today could be built upon, without its tree, tomorrow.

use std::path::Path;

use gix::objs::TreeRefIter;

use super::failure::{Failure, FailureClass};
use super::limits::Limits;
use super::objects::{Data, Format, Kind, ObjectId, Objects, oid};

/// The objects that arrived: one pack with its index.
pub(super) struct Fresh {
    /// For reading by id.
    pub(super) objects: Objects,
    index: gix_pack::index::File,
}

impl Fresh {
    /// Opens the object directory `dir`, whose only pack has the index `index`.
    pub(super) fn open(dir: &Path, index: &Path, format: Format, limits: &Limits) -> Result<Fresh, Failure> {
        let objects = Objects::open(dir, format, limits.object_bytes, FailureClass::Incomplete);
        let index = gix_pack::index::File::at(index, format);
        Ok(Fresh {
            objects: objects.map_err(|e| Failure::io("open the quarantine", &e))?,
            index: index.map_err(|e| Failure::of_gix("open the new index", &e, FailureClass::Incomplete))?,
        })
    }
}

/// Checks that `fresh` holds everything reachable from `tip` that is not trusted already, and nothing else.
pub(super) fn check(fresh: &Fresh, trusted: &Objects, tip: &oid, limits: &Limits) -> Result<(), Failure> {
    let expected = vec![None; fresh.index.num_objects() as usize];
    let mut walk = Walk { fresh, trusted, expected, todo: Vec::new(), bytes_left: limits.total_bytes };
    walk.expect(tip, Kind::Commit)?;
    let mut buf = Vec::new();
    while let Some(position) = walk.todo.pop() {
        let id = fresh.index.oid_at_index(position);
        let object = walk.read(id, &mut buf)?;
        walk.spend(object.data.len(), limits)?;
        match walk.expected[position as usize] {
            Some(kind) if kind == object.kind => walk.follow(id, &object)?,
            _ => {
                return Err(Failure::incomplete(format!(
                    "object '{id}' is a {}, which is not expected",
                    object.kind
                )));
            }
        }
    }
    walk.nothing_else()
}

struct Walk<'a> {
    fresh: &'a Fresh,
    trusted: &'a Objects,
    /// What each new object must be, by its position in the index; `None` until something asks for it.
    expected: Vec<Option<Kind>>,
    /// Positions of the objects that were asked for and not read yet.
    todo: Vec<u32>,
    bytes_left: u64,
}

impl Walk<'_> {
    fn expect(&mut self, id: &oid, kind: Kind) -> Result<(), Failure> {
        let Some(position) = self.fresh.index.lookup(id) else { return self.expect_trusted(id, kind) };
        match self.expected[position as usize].replace(kind) {
            None => self.todo.push(position),
            Some(before) if before == kind => {}
            Some(before) => {
                return Err(Failure::incomplete(format!(
                    "object '{id}' is expected to be a {before} and a {kind}"
                )));
            }
        }
        Ok(())
    }

    fn expect_trusted(&self, id: &oid, kind: Kind) -> Result<(), Failure> {
        match self.trusted.header(id)? {
            Some((there, _)) if there == kind => Ok(()),
            Some((there, _)) => {
                Err(Failure::incomplete(format!("object '{id}' is a {there} and not a {kind}")))
            }
            None => Err(Failure::missing(format!("the {kind} '{id}' was not sent"))),
        }
    }

    fn read<'b>(&self, id: &oid, buf: &'b mut Vec<u8>) -> Result<Data<'b>, Failure> {
        let found = self.fresh.objects.find(id, buf)?;
        found.ok_or_else(|| Failure::incomplete(format!("object '{id}' cannot be found again")))
    }

    fn spend(&mut self, bytes: usize, limits: &Limits) -> Result<(), Failure> {
        let left = self.bytes_left.checked_sub(bytes as u64);
        self.bytes_left = left.ok_or_else(|| {
            Failure::limit("the size of all new objects", format_args!("{} bytes", limits.total_bytes))
        })?;
        Ok(())
    }

    /// Asks for all that `object` names.
    fn follow(&mut self, id: &oid, object: &Data<'_>) -> Result<(), Failure> {
        let malformed = |kind| Failure::incomplete(format!("the {kind} '{id}' is malformed"));
        match object.kind {
            Kind::Commit => {
                let (tree, parents) = commit_links(object.data).ok_or_else(|| malformed(Kind::Commit))?;
                self.expect(&tree, Kind::Tree)?;
                parents.iter().try_for_each(|parent| self.expect(parent, Kind::Commit))
            }
            Kind::Tree => {
                for entry in TreeRefIter::from_bytes(object.data, id.kind()) {
                    let entry = entry.map_err(|_| malformed(Kind::Tree))?;
                    match entry.mode {
                        mode if mode.is_tree() => self.expect(entry.oid, Kind::Tree)?,
                        mode if mode.is_commit() => {} // A submodule lives in another repository.
                        _ => self.expect(entry.oid, Kind::Blob)?,
                    }
                }
                Ok(())
            }
            Kind::Blob | Kind::Tag => Ok(()),
        }
    }

    /// Refuses what nothing asked for, except copies of trusted objects: delta bases, and haves that were ignored.
    fn nothing_else(&self) -> Result<(), Failure> {
        for (position, expected) in self.expected.iter().enumerate() {
            let id = self.fresh.index.oid_at_index(position as u32);
            if expected.is_none() && self.trusted.header(id)?.is_none() {
                return Err(Failure::incomplete(format!("object '{id}' was not asked for")));
            }
        }
        Ok(())
    }
}

/// Returns the tree and the parents of a raw commit, read as Git does: one `tree` line, then any `parent` lines.
pub(super) fn commit_links(raw: &[u8]) -> Option<(ObjectId, Vec<ObjectId>)> {
    let mut lines = raw.split(|&b| b == b'\n');
    let tree = ObjectId::from_hex(lines.next()?.strip_prefix(b"tree ")?).ok()?;
    let parents = lines.map_while(|line| line.strip_prefix(b"parent "));
    let parents = parents.map(|hex| ObjectId::from_hex(hex).ok().filter(|id| id.kind() == tree.kind()));
    Some((tree, parents.collect::<Option<Vec<_>>>()?))
}
