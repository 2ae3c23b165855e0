//! libFuzzer on `bodies::control::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::control::check(data);
});
