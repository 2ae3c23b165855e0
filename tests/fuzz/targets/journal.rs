//! libFuzzer on `bodies::journal::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::journal::check(data);
});
