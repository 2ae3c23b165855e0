//! libFuzzer on `bodies::remote::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pullagent_fuzz::remote::check(data);
});
