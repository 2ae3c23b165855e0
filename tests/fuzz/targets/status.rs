//! libFuzzer on `bodies::files::status`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::files::status(data);
});
