//! Owns the keeper of a job where no systemd runs the host: a process of its own that runs the program, bounds it, and
//! writes down how it ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::{ExitRecord, JobError, JobResult, LOG_MAX, open_lock, try_lock, write_record};
use crate::host::command::{Command, CommandError, Ending};
use crate::host::files::{FileError, io_error};
use crate::host::{chain, clock, detach};

const STOP_POLL: Duration = Duration::from_millis(200);

/// The arguments of `pullagent record-exit`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordExit {
    /// The job's directory.
    pub dir: PathBuf,
    /// How long the program may run.
    pub limit: Duration,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

/// The role of a job's keeper: runs the program in a session of its own and records how it ended.
pub fn record_exit_main(args: &RecordExit) -> ExitCode {
    match take_charge(&args.dir) {
        Ok(lock) => {
            detach::say_ready();
            let kept = keep(args);
            drop(lock);
            if kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            detach::say_failed(&e);
            ExitCode::FAILURE
        }
    }
}

fn take_charge(dir: &Path) -> Result<File, JobError> {
    detach::leave().map_err(io_error("leave the session for", dir))?;
    let lock = open_lock(dir)?;
    let free = try_lock(&lock, dir, FlockOperation::NonBlockingLockExclusive)?;
    if !free || dir.join("lost").exists() || dir.join("exit.json").exists() {
        return Err(JobError::AlreadyStarted(dir.to_owned()));
    }
    Ok(lock)
}

fn keep(args: &RecordExit) -> Result<(), JobError> {
    let dir = &args.dir;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io_error("start a runtime for", dir))?;
    let mut log = Log::create(&dir.join("log"))?;
    let started_boottime_ms = clock::boottime_ms();
    let result = runtime.block_on(run(args, &mut log));
    let ended_boottime_ms = clock::boottime_ms();
    write_record(dir, &ExitRecord { schema: 1, result, started_boottime_ms, ended_boottime_ms })
}

async fn run(args: &RecordExit, log: &mut Log) -> JobResult {
    let Some((program, rest)) = args.argv.split_first() else {
        return JobResult::NotStarted { text: "no program was named".into() };
    };
    let command = Command::new(program).args(rest).whole_env().dir("/").time_limit(args.limit);
    let ended = command.run_logged(|piece| log.push(piece), stop_requested(&args.dir)).await;
    match ended {
        Ok(Ending::Code(code)) => JobResult::ExitCode { code },
        Ok(Ending::Signal(signal)) => JobResult::Signal { signal },
        Err(CommandError::TimedOut { .. }) => JobResult::Timeout,
        Err(CommandError::Stopped { .. }) => JobResult::Stopped,
        Err(
            e @ (CommandError::NotFound { .. }
            | CommandError::Io { .. }
            | CommandError::Failed { .. }
            | CommandError::TooMuchOutput { .. }),
        ) => JobResult::NotStarted { text: chain(&e) },
    }
}

async fn stop_requested(dir: &Path) {
    let stop = dir.join("stop");
    while !stop.exists() {
        tokio::time::sleep(STOP_POLL).await;
    }
}

/// A log file that keeps the end of what it was given, at most [`LOG_MAX`] bytes and a line.
struct Log {
    file: File,
    recent: Vec<u8>,
}

impl Log {
    fn create(path: &Path) -> Result<Log, FileError> {
        let file = File::create(path).map_err(io_error("create", path))?;
        Ok(Log { file, recent: Vec::new() })
    }

    /// Adds `piece`. A log that cannot be written (the disk is full) is no reason to end the program.
    fn push(&mut self, piece: &[u8]) {
        self.write(piece).ok();
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.recent.extend_from_slice(piece);
        if self.recent.len() <= LOG_MAX {
            return self.file.write_all(piece);
        }
        // Half of it goes at a time, so that a chatty program costs no quadratic copying.
        self.recent.drain(..self.recent.len() - LOG_MAX / 2);
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(b"(earlier output was dropped)\n")?;
        self.file.write_all(&self.recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_log_is_bounded_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(&path).unwrap();
        log.push(b"first\n");
        assert_eq!(fs::read(&path).unwrap(), b"first\n");
        for n in 0..200_000 {
            log.push(format!("{n}\n").as_bytes());
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= LOG_MAX + 40 && text.ends_with("199999\n"), "{}", text.len());
        assert!(text.starts_with("(earlier output was dropped)"));
    }
}
