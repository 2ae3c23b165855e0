//! The import child: one job, one report, then gone. Its memory, processor time and files are limited, because it is
//! the one place where bytes of a stranger are parsed. It writes into its quarantine only.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::closure::{self, Fresh};
use super::failure::{Failure, FailureClass};
use super::import::{Against, ImportTask, Job, Report, Task};
use super::limits::Limits;
use super::objects::{Kind, Objects, to_gix, to_oid};
use super::store::Store;
use super::tree::{Modules, TreeError, walk};
use super::{pack, repack};
use crate::model::Oid;
use crate::trust::{self, Accepted, Code, Context, Refusal};

/// How far below a tip the commit that names its submodule is looked for. Each step costs a verdict.
const STEPS_BACK_MAX: usize = 32;

/// The largest job file that is read.
const JOB_BYTES_MAX: u64 = 4 << 20;

/// Memory for the program itself and small things.
const MEMORY_BASE_BYTES: u64 = 128 << 20;

/// Memory for each object while a pack is indexed; measured 150.
const MEMORY_PER_OBJECT_BYTES: u64 = 200;

/// How many objects of the largest size are in memory at once: compressed, base, delta, result.
const LARGE_OBJECTS: u64 = 4;

/// Address space beyond memory and mapped packs: the program, its libraries, the allocator's reservations.
const ADDRESS_SPACE_BASE_BYTES: u64 = 1 << 30;

/// How many times a pack may be mapped at once.
const MAPS_OF_A_PACK: u64 = 3;

/// Room in a file beyond the pack and its bases: headers, and the index.
const FILE_SLACK_BYTES: u64 = 64 << 20;

/// How many files may be open at once.
const FILES_MAX: u64 = 256;

/// Serves the job in the file `job` and prints the report: the main function of the import child.
///
/// A pack, if the job announces one, comes on standard input. Exit code 0 means that a report was printed.
pub fn run_child(job: &Path) -> ExitCode {
    let report = serve(job).unwrap_or_else(Report::Failed);
    let mut line = match serde_json::to_vec(&report) {
        Ok(line) => line,
        Err(_) => return ExitCode::FAILURE,
    };
    line.push(b'\n');
    match io::stdout().write_all(&line).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(job: &Path) -> Result<Report, Failure> {
    let job = read_job(job).map_err(|e| Failure::io("read the import's job", &e))?;
    let store = Store::open(&job.state_directory)?;
    let store = store.ok_or_else(|| Failure::new(FailureClass::Io, "there is no trusted store"))?;
    let limits = match job.task {
        Task::Repack => repack::limits(&store, &job.limits)?,
        Task::Import(_) | Task::Look(_) | Task::Pin(_) => job.limits,
    };
    limit_self(&limits, store.size()?).map_err(|e| Failure::io("limit the import child", &e.into()))?;
    match job.task {
        Task::Repack => repack::run(&store, &job.quarantine, &limits).map(|pack| Report::Repacked { pack }),
        Task::Import(task) => {
            let mut stdin = io::stdin().lock();
            Ok(import(&store, *task, &mut stdin, &job.quarantine, &limits))
        }
        Task::Pin(oid) => {
            let report = pin(&store, &oid, &mut io::stdin().lock(), &job.quarantine, &limits);
            blame_store(&store, report.unwrap_or_else(Report::Failed))
        }
        Task::Look(oid) => look(&store, &oid, &mut io::stdin().lock(), &job.quarantine, &limits),
    }
}

fn read_job(path: &Path) -> io::Result<Job> {
    let mut json = Vec::new();
    File::open(path)?.take(JOB_BYTES_MAX).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Takes from this process what no honest import needs. The limits hold for the rest of its life.
fn limit_self(limits: &Limits, store_bytes: u64) -> rustix::io::Result<()> {
    let sum = |parts: &[u64]| parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
    let file = sum(&[limits.pack_bytes, limits.bases_bytes, FILE_SLACK_BYTES]);
    let all_objects = MEMORY_PER_OBJECT_BYTES.saturating_mul(limits.objects.into());
    let data = sum(&[MEMORY_BASE_BYTES, all_objects, LARGE_OBJECTS.saturating_mul(limits.object_bytes)]);
    let maps = MAPS_OF_A_PACK.saturating_mul(file);
    let address_space = sum(&[ADDRESS_SPACE_BASE_BYTES, data, store_bytes, maps]);
    let bounds = [
        (Resource::Core, 0),
        (Resource::Cpu, u64::from(limits.cpu_secs)),
        (Resource::Fsize, file),
        (Resource::Data, data),
        (Resource::As, address_space),
        (Resource::Nofile, FILES_MAX),
    ];
    for (resource, bound) in bounds {
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    rustix::thread::set_no_new_privs(true)
}

/// Verifies the tip, and that all it needs is in the store or comes from `stream`, and nothing else does.
pub(super) fn import(
    store: &Store,
    task: ImportTask,
    stream: &mut dyn Read,
    quarantine: &Path,
    limits: &Limits,
) -> Report {
    let report = verify(store, task, stream, quarantine, limits).unwrap_or_else(Report::Failed);
    blame_store(store, report).unwrap_or_else(Report::Failed)
}

fn verify(
    store: &Store,
    task: ImportTask,
    stream: &mut dyn Read,
    quarantine: &Path,
    limits: &Limits,
) -> Result<Report, Failure> {
    store.verify_indices()?;
    let trusted = store.objects(limits.object_bytes)?;
    let (fresh, pack) = match task.pack {
        true => receive(store, stream, &trusted, quarantine, limits)
            .map(|(fresh, pack)| (Some(fresh), Some(pack)))?,
        false => (None, None),
    };
    let layers: Vec<&Objects> = fresh.iter().map(|fresh| &fresh.objects).chain([&trusted]).collect();
    let tip = task.tip.clone();
    let accepted = match judge(&layers, &task)? {
        Ok(accepted) => accepted,
        Err(refusal) => return Ok(Report::Refused(refusal)),
    };
    if let Some(fresh) = &fresh {
        closure::check(fresh, &trusted, &to_gix(&tip), limits)?;
    }
    let Some(refusal) = refused_tree(&layers, &accepted.tree, &task)? else {
        return Ok(Report::Accepted { accepted: Box::new(accepted), pack });
    };
    let stepping_stone = match refusal.code {
        Code::Submodule => named_before(&layers, task)?,
        _ => None,
    };
    Ok(Report::Refused(Refusal { commit: Some(tip), stepping_stone, ..refusal }))
}

/// Returns what is wrong with a tree as it would be exported.
fn refused_tree(layers: &[&Objects], tree: &Oid, task: &ImportTask) -> Result<Option<Refusal>, Failure> {
    match walk(layers, tree, &Modules::unseen(&task.submodules), &mut |_| Ok::<_, TreeError>(())) {
        Ok(()) => Ok(None),
        Err(TreeError::Refused(refusal)) => Ok(Some(refusal)),
        Err(TreeError::Failed { failure, submodule: _ }) => Err(failure),
    }
}

/// Returns the newest commit below a tip that has a submodule which the configuration does not name, on the line of first
/// parents, that would be accepted as a tip: the configuration that names it may come from there. A host that was away
/// when that commit was the tip needs it, as one needs the commit that lists a key (see `trust/stone.rs`).
fn named_before(layers: &[&Objects], mut task: ImportTask) -> Result<Option<Oid>, Failure> {
    let Against::Main { anchor } = task.against.clone() else { return Ok(None) };
    for _ in 0..STEPS_BACK_MAX {
        let raw = read_commit(layers, &task.tip)?.ok();
        let parent = raw
            .as_deref()
            .and_then(closure::commit_links)
            .and_then(|(_, parents)| parents.into_iter().next());
        match parent.map(|id| to_oid(&id)) {
            Some(parent) if parent != anchor.revision => task.tip = parent,
            Some(_) | None => return Ok(None),
        }
        let judged = judge(layers, &task)?;
        if let Ok(accepted) = judged
            && refused_tree(layers, &accepted.tree, &task)?.is_none()
        {
            return Ok(Some(task.tip));
        }
    }
    Ok(None)
}

/// Takes in commit `oid`, which a verified tree names, and all it needs; nothing else may come along.
fn pin(
    store: &Store,
    oid: &Oid,
    stream: &mut dyn Read,
    quarantine: &Path,
    limits: &Limits,
) -> Result<Report, Failure> {
    store.verify_indices()?;
    let trusted = store.objects(limits.object_bytes)?;
    let (fresh, pack) = receive(store, stream, &trusted, quarantine, limits)?;
    closure::check(&fresh, &trusted, &to_gix(oid), limits)?;
    Ok(Report::Pinned { pack })
}

/// Finds commit `oid` in the pack that `stream` brings. That it is in the store already proves nothing here.
fn look(
    store: &Store,
    oid: &Oid,
    stream: &mut dyn Read,
    quarantine: &Path,
    limits: &Limits,
) -> Result<Report, Failure> {
    let trusted = store.objects(limits.object_bytes)?;
    let (fresh, _) = receive(store, stream, &trusted, quarantine, limits)?;
    match fresh.objects.find(&to_gix(oid), &mut Vec::new())? {
        Some(object) if object.kind == Kind::Commit => Ok(Report::Found),
        Some(_) | None => Err(Failure::incomplete(format!("the pack does not bring commit {}", oid.short()))),
    }
}

/// Reads the pack from `stream` into the quarantine; returns its objects and its name.
fn receive(
    store: &Store,
    stream: &mut dyn Read,
    trusted: &Objects,
    quarantine: &Path,
    limits: &Limits,
) -> Result<(Fresh, String), Failure> {
    let objects = quarantine.join("objects");
    let index = pack::write(stream, &objects.join("pack"), trusted, store.format(), limits)?;
    Ok((Fresh::open(&objects, &index, store.format(), limits)?, pack::name(&index)))
}

/// Asks for the verdict over the history. What goes wrong while reading is no verdict.
fn judge(layers: &[&Objects], task: &ImportTask) -> Result<Result<Accepted, Refusal>, Failure> {
    let ImportTask { tip, against, policy, host, branch, now, submodules: _, pack: _ } = task;
    let context = Context { host, branch, now: *now };
    let policy = policy.clone().parse()?;
    let failure = RefCell::new(None);
    let mut read = |oid: &Oid| {
        read_commit(layers, oid).unwrap_or_else(|failed| {
            let refusal = Refusal::new(Code::HashMismatch, Some(oid), failed.text.clone());
            failure.replace(Some(failed));
            Err(refusal)
        })
    };
    let verdict = match against {
        Against::Main { anchor } => trust::verify_main(&mut read, tip, anchor, &policy, &context),
        Against::Test { main, previous } => {
            let previous = previous.as_ref().map(|(revision, committer_time)| (revision, *committer_time));
            trust::verify_test(&mut read, tip, main, previous, &policy, &context)
        }
    };
    failure.into_inner().map_or(Ok(verdict), Err)
}

/// Returns the re-hashed bytes of a commit, or why it cannot be one.
fn read_commit(layers: &[&Objects], oid: &Oid) -> Result<Result<Vec<u8>, Refusal>, Failure> {
    let mut buf = Vec::new();
    for objects in layers {
        match objects.find(&to_gix(oid), &mut buf)? {
            Some(object) if object.kind == Kind::Commit => return Ok(Ok(object.data.to_vec())),
            Some(object) => {
                let text = format!("object {} is a {}, not a commit", oid.short(), object.kind);
                return Ok(Err(Refusal::new(Code::NotACommit, Some(oid), text)));
            }
            None => {}
        }
    }
    let text = format!("commit {} was not sent", oid.short());
    Ok(Err(Refusal::new(Code::MissingObject, Some(oid), text)))
}

/// Looks for damage in the packs of the store when something is missing that they might have held.
fn blame_store(store: &Store, report: Report) -> Result<Report, Failure> {
    let missing = match &report {
        Report::Failed(failure) => {
            matches!(failure.class, FailureClass::Incomplete | FailureClass::Missing)
        }
        Report::Refused(refusal) => matches!(refusal.code, Code::MissingObject | Code::AnchorMissing),
        Report::Accepted { .. } | Report::Repacked { .. } | Report::Found | Report::Pinned { .. } => false,
    };
    if missing {
        store.verify_packs()?;
    }
    Ok(report)
}
