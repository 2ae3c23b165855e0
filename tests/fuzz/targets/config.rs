//! libFuzzer on `bodies::files::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::files::config(data);
});
