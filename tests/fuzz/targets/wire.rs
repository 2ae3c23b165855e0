//! libFuzzer on `bodies::wire::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::wire::check(data);
});
