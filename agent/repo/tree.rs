//! Walking the tree of one revision under the rules and limits of [`trust::tree`]. Must not know whether the tree is
//! only looked at or written to disk.

use super::failure::{Failure, FailureClass};
use super::objects::{Kind, Objects, format_of, to_gix};
use crate::model::Oid;
use crate::trust::tree::{Budget, Entry, check_tree};
use crate::trust::{self, ObjectFormat, Refusal};

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum TreeError {
    /// The tree breaks a rule or a limit.
    Refused(Refusal),
    /// An object could not be read, although the store it lies in counts as closed.
    Failed(Failure),
}

/// What the walk meets, in Git's order.
pub(super) enum Step<'a> {
    /// A directory begins; what follows lies in it.
    Enter(&'a [u8]),
    /// A file or link in the current directory.
    Leaf(&'a Entry<'a>),
    /// The current directory ends.
    Leave,
}

/// Walks the tree `root`. Trees are read from the first of `layers` that has them, and re-hashed; of files only the
/// kind and the size are read.
pub(super) fn walk<E: From<TreeError>>(
    layers: &[&Objects],
    root: &Oid,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let format =
        if format_of(root) == gix::hash::Kind::Sha256 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 };
    Walk { layers, format, budget: Budget::new() }.directory(root, &mut Vec::new(), visit)
}

struct Walk<'a> {
    layers: &'a [&'a Objects],
    format: ObjectFormat,
    budget: Budget,
}

impl Walk<'_> {
    /// Goes into the directory with the path `dir`. Its depth is bounded by [`trust::tree::DEPTH_MAX`].
    fn directory<E: From<TreeError>>(
        &mut self,
        tree: &Oid,
        dir: &mut Vec<u8>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.spend(tree, Kind::Tree)?;
        let raw = self.read(tree)?;
        for entry in check_tree(&raw, self.format, dir).map_err(TreeError::Refused)? {
            if entry.kind != trust::tree::Kind::Directory {
                self.spend(&entry.id, Kind::Blob)?;
                visit(Step::Leaf(&entry))?;
                continue;
            }
            let parent = dir.len();
            if parent > 0 {
                dir.push(b'/');
            }
            dir.extend_from_slice(entry.name);
            visit(Step::Enter(entry.name))?;
            self.directory(&entry.id, dir, visit)?;
            visit(Step::Leave)?;
            dir.truncate(parent);
        }
        Ok(())
    }

    /// Counts an object before anything large is read or written for it.
    fn spend(&mut self, id: &Oid, kind: Kind) -> Result<(), TreeError> {
        match self.find(id, |objects| objects.header(&to_gix(id)))? {
            (there, bytes) if there == kind => self.budget.spend(bytes).map_err(TreeError::Refused),
            (there, _) => Err(damaged(format!("object '{id}' is a {there} and not a {kind}"))),
        }
    }

    fn read(&self, id: &Oid) -> Result<Vec<u8>, TreeError> {
        self.find(id, |objects| {
            let mut buf = Vec::new();
            Ok(objects.find(&to_gix(id), &mut buf)?.map(|object| object.data.to_vec()))
        })
    }

    fn find<T>(
        &self,
        id: &Oid,
        look: impl Fn(&Objects) -> Result<Option<T>, Failure>,
    ) -> Result<T, TreeError> {
        for objects in self.layers {
            if let Some(found) = look(objects).map_err(TreeError::Failed)? {
                return Ok(found);
            }
        }
        Err(damaged(format!("object '{id}' is missing")))
    }
}

fn damaged(text: String) -> TreeError {
    TreeError::Failed(Failure::new(FailureClass::Corrupt, text))
}
