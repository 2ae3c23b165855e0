//! libFuzzer on `bodies::pack::check`: the import child's main function in this process, with its standard input and
//! output in memory.
#![no_main]

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::pack::check(data, &run);
});

fn run(job: &Path, pack: &[u8]) -> Vec<u8> {
    let mut input = memory();
    input.write_all(pack).unwrap();
    input.rewind().unwrap();
    let mut output = memory();
    rustix::stdio::dup2_stdin(&input).unwrap();
    rustix::stdio::dup2_stdout(&output).unwrap();
    pullagent::repo::import::run_child(job);
    // What it left unread is in the buffer of standard input, where the next run would find it.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    output.rewind().unwrap();
    let mut printed = Vec::new();
    output.read_to_end(&mut printed).unwrap();
    printed
}

fn memory() -> File {
    rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}
