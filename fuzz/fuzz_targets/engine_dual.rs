#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| margay_fuzz::bodies::run("engine_dual", input));
