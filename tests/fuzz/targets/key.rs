//! libFuzzer on `bodies::key::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::key::check(data);
});
