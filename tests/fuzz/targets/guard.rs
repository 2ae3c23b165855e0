//! libFuzzer on `bodies::files::guard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::files::guard(data);
});
