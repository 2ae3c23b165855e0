//! libFuzzer on `bodies::sshsig::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::sshsig::check(data);
});
