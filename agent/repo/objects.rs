//! Reading objects by id from one object directory, re-hashed on every read. Follows no alternates, replace refs,
//! grafts, commit-graphs or multi-pack indices: an id means the bytes that hash to it and nothing else.

use std::path::Path;

use gix_odb::Header as _;
use gix_odb::store::init::Options;

pub(super) use gix::hash::Kind as Format;
pub(super) use gix::hash::{ObjectId, oid};
pub(super) use gix::objs::{Data, Kind};

use gix::objs::Find as _;

use super::failure::{Failure, FailureClass};
use crate::model::Oid;

/// Objects of one directory. Opened anew for each use: a handle that is kept goes blind after 32 more packs.
pub(super) struct Objects {
    odb: gix_odb::Handle,
    if_damaged: FailureClass,
}

impl Objects {
    /// Opens the object directory `dir`; no object larger than `object_bytes` will be read from it. What cannot be
    /// read is `if_damaged`.
    pub(super) fn open(
        dir: &Path,
        format: Format,
        object_bytes: u64,
        if_damaged: FailureClass,
    ) -> std::io::Result<Objects> {
        if dir.join("info/alternates").exists() {
            return Err(std::io::Error::other("it has an 'info/alternates' file, which is never followed"));
        }
        let alloc_limit_bytes = Some(usize::try_from(object_bytes).unwrap_or(usize::MAX));
        let options = Options { alloc_limit_bytes, use_multi_pack_index: false, ..Options::default() };
        let mut odb = gix_odb::at_opts(dir, format, None, options)?;
        odb.refresh_never();
        Ok(Objects { odb, if_damaged })
    }

    /// Returns object `id` if it is there, after comparing its bytes with its id.
    pub(super) fn find<'b>(&self, id: &oid, buf: &'b mut Vec<u8>) -> Result<Option<Data<'b>>, Failure> {
        let damaged = |e| Failure::of_gix(&format!("read object '{id}'"), &e, self.if_damaged);
        let Some(object) = self.odb.try_find(id, buf).map_err(damaged)? else { return Ok(None) };
        object.verify_checksum(id).map_err(damaged)?;
        Ok(Some(object))
    }

    /// Returns what `id` is and its size in bytes, without reading it whole. The bytes are not compared with the id.
    pub(super) fn header(&self, id: &oid) -> Result<Option<(Kind, u64)>, Failure> {
        let found = self.odb.try_header(id).map(|found| found.map(|header| (header.kind(), header.size())));
        found.map_err(|e| Failure::of_gix(&format!("look up object '{id}'"), &e, self.if_damaged))
    }

    /// Returns the object database itself, for gitoxide's own algorithms.
    pub(super) fn into_odb(self) -> gix_odb::Handle {
        self.odb
    }
}

/// Returns the object format that `oid` belongs to.
pub(super) fn format_of(oid: &Oid) -> Format {
    if oid.as_str().len() == Format::Sha256.len_in_hex() { Format::Sha256 } else { Format::Sha1 }
}

/// Returns gitoxide's form of `oid`.
pub(super) fn to_gix(oid: &Oid) -> ObjectId {
    ObjectId::from_hex(oid.as_str().as_bytes()).expect("an Oid is 40 or 64 lower-case hexadecimal digits")
}

/// Returns our form of `id`.
pub(super) fn to_oid(id: &oid) -> Oid {
    id.to_string().parse().expect("gitoxide prints 40 or 64 lower-case hexadecimal digits")
}
