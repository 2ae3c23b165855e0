//! libFuzzer on `bodies::sse::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::sse::check(data);
});
