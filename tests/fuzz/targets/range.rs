//! libFuzzer on `bodies::range::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::range::check(data);
});
