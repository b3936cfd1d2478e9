#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| margay_fuzz::bodies::run("ipv6", input));
