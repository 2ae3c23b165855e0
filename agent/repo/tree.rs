//! Walking the tree of one revision, and of the submodules below it, under the rules and limits of [`trust::tree`]. Must
//! not know whether the tree is only looked at or written to disk.

use std::collections::BTreeMap;

use super::closure::commit_links;
use super::failure::{Failure, FailureClass};
use super::objects::{Data, Kind, Objects, format_of, to_gix, to_oid};
use crate::model::Oid;
use crate::trust::tree::{Budget, Entry, Submodules, check_tree, join};
use crate::trust::{self, Code, ObjectFormat, Refusal};

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum TreeError {
    /// The tree breaks a rule or a limit.
    Refused(Refusal),
    /// An object could not be read, although the store it lies in counts as closed.
    Failed {
        /// The path of the submodule whose store it is; `None`: the revision's own.
        submodule: Option<String>,
        /// What happened.
        failure: Failure,
    },
}

/// What the walk meets, in Git's order.
pub(super) enum Step<'a> {
    /// A directory begins, or a submodule whose objects are at hand; what follows lies in it.
    Enter(&'a [u8]),
    /// A file or link in the current directory, and where it is read.
    Leaf(&'a Entry<'a>, &'a Place<'a>),
    /// The current directory ends.
    Leave,
    /// A submodule whose objects are not at hand: its path from the root, and its commit.
    Absent(&'a str, &'a Oid),
}

/// What is known of the submodules of a tree.
pub(super) struct Modules<'a> {
    /// Where there may be one.
    pub(super) allowed: &'a Submodules,
    /// The objects of those that are at hand, by their paths.
    pub(super) objects: BTreeMap<String, Objects>,
}

impl Modules<'_> {
    /// Submodules are allowed, and nobody looks into them.
    pub(super) fn unseen(allowed: &Submodules) -> Modules<'_> {
        Modules { allowed, objects: BTreeMap::new() }
    }
}

/// The repository that a part of a tree belongs to.
pub(super) struct Place<'a> {
    /// Its objects; the first that has one counts.
    layers: &'a [&'a Objects],
    /// The path of the submodule; `None`: the revision's own.
    submodule: Option<&'a str>,
}

impl Place<'_> {
    /// Reads the file `id`, re-hashed, into `buf`, which holds nothing else afterwards.
    pub(super) fn read_file(&self, id: &Oid, buf: &mut Vec<u8>) -> Result<(), TreeError> {
        for objects in self.layers {
            let found = objects.find(&to_gix(id), buf).map_err(|failure| self.failed(failure))?;
            match found.map(|object| (object.kind, object.data.len())) {
                Some((Kind::Blob, bytes)) => {
                    buf.truncate(bytes);
                    return Ok(());
                }
                Some((kind, _)) => {
                    return Err(self.damaged(format!("object '{id}' is a {kind} and not a file")));
                }
                None => {}
            }
        }
        Err(self.missing(id))
    }

    fn find<T>(&self, look: impl Fn(&Objects) -> Result<Option<T>, Failure>) -> Result<Option<T>, TreeError> {
        for objects in self.layers {
            if let Some(found) = look(objects).map_err(|failure| self.failed(failure))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn read(&self, id: &Oid) -> Result<Option<(Kind, Vec<u8>)>, TreeError> {
        self.find(|objects| {
            let mut buf = Vec::new();
            let found = objects.find(&to_gix(id), &mut buf)?;
            Ok(found.map(|Data { kind, data, .. }| (kind, data.to_vec())))
        })
    }

    fn missing(&self, id: &Oid) -> TreeError {
        self.damaged(format!("object '{id}' is missing"))
    }

    fn damaged(&self, text: String) -> TreeError {
        self.failed(Failure::new(FailureClass::Corrupt, text))
    }

    fn failed(&self, failure: Failure) -> TreeError {
        TreeError::Failed { submodule: self.submodule.map(str::to_owned), failure }
    }
}

/// Walks the tree `root`, and the submodules below it that are at hand. Trees are read from the first of `layers` that has
/// them, and re-hashed; of files only the kind and the size are read. All of it has one budget.
pub(super) fn walk<E: From<TreeError>>(
    layers: &[&Objects],
    root: &Oid,
    modules: &Modules<'_>,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let format =
        if format_of(root) == gix::hash::Kind::Sha256 { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 };
    let mut walk = Walk { format, modules, budget: Budget::new() };
    walk.directory(&Place { layers, submodule: None }, root, &mut Vec::new(), visit)
}

struct Walk<'a> {
    format: ObjectFormat,
    modules: &'a Modules<'a>,
    budget: Budget,
}

impl Walk<'_> {
    /// Goes into the directory with the path `dir`. Its depth is bounded by [`trust::tree::DEPTH_MAX`], through submodules
    /// too.
    fn directory<E: From<TreeError>>(
        &mut self,
        place: &Place<'_>,
        tree: &Oid,
        dir: &mut Vec<u8>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.spend(place, tree, Kind::Tree)?;
        let (_, raw) = place.read(tree)?.ok_or_else(|| place.missing(tree))?;
        let entries = check_tree(&raw, self.format, dir, self.modules.allowed);
        for entry in entries.map_err(TreeError::Refused)? {
            let parent = dir.len();
            match entry.kind {
                trust::tree::Kind::Directory => {
                    *dir = join(dir, entry.name);
                    visit(Step::Enter(entry.name))?;
                    self.directory(place, &entry.id, dir, visit)?;
                    visit(Step::Leave)?;
                }
                trust::tree::Kind::Submodule => {
                    *dir = join(dir, entry.name);
                    self.submodule(&entry, dir, visit)?;
                }
                trust::tree::Kind::File | trust::tree::Kind::Executable | trust::tree::Kind::Symlink => {
                    self.spend(place, &entry.id, Kind::Blob)?;
                    visit(Step::Leaf(&entry, place))?;
                }
            }
            dir.truncate(parent);
        }
        Ok(())
    }

    /// Goes into the submodule with the path `dir`, if its commit is at hand.
    fn submodule<E: From<TreeError>>(
        &mut self,
        entry: &Entry<'_>,
        dir: &mut Vec<u8>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.budget.spend(0).map_err(TreeError::Refused)?;
        let path = String::from_utf8_lossy(dir).into_owned();
        let Some(objects) = self.modules.objects.get(&path) else {
            return visit(Step::Absent(&path, &entry.id));
        };
        let place = Place { layers: &[objects], submodule: Some(&path) };
        let Some((kind, raw)) = place.read(&entry.id)? else {
            return visit(Step::Absent(&path, &entry.id));
        };
        if kind != Kind::Commit {
            let text = format!("the submodule '{path}' names object {}, which is a {kind}", entry.id.short());
            return Err(TreeError::Refused(Refusal::new(Code::BadTree, None, text)).into());
        }
        let (tree, _) =
            commit_links(&raw).ok_or_else(|| place.damaged("the commit is malformed".to_owned()))?;
        visit(Step::Enter(entry.name))?;
        self.directory(&place, &to_oid(&tree), dir, visit)?;
        visit(Step::Leave)
    }

    /// Counts an object before anything large is read or written for it.
    fn spend(&mut self, place: &Place<'_>, id: &Oid, kind: Kind) -> Result<(), TreeError> {
        match place.find(|objects| objects.header(&to_gix(id)))? {
            Some((there, bytes)) if there == kind => self.budget.spend(bytes).map_err(TreeError::Refused),
            Some((there, _)) => Err(place.damaged(format!("object '{id}' is a {there} and not a {kind}"))),
            None => Err(place.missing(id)),
        }
    }
}
