//! libFuzzer on `bodies::tree::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::tree::check(data);
});
