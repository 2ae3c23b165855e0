//! libFuzzer on `bodies::webhook::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::webhook::check(data);
});
