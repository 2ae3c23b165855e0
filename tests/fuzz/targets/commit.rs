//! libFuzzer on `bodies::commit::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::commit::check(data);
});
