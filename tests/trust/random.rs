//! Random tests that print their seed: `PULLAGENT_SEED` repeats a run, `PULLAGENT_TEST_LONG=1` asks for many more cases.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// How many cases there are.
pub struct Cases {
    pub short: u32,
    pub long: u32,
}

impl Cases {
    fn chosen(&self) -> u32 {
        let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|v| v == "1");
        if long { self.long } else { self.short }
    }
}

/// Holds `check`, which fails by panicking, against as many values of `strategy`; shrinks what fails.
pub fn check<S: Strategy>(what: &str, cases: Cases, strategy: S, check: impl Fn(S::Value)) {
    let cases = cases.chosen();
    let given = std::env::var("PULLAGENT_SEED").ok().map(|text| text.parse().unwrap());
    let seed: u64 = given.unwrap_or_else(|| fastrand::u64(..));
    println!("{what}: {cases} cases, PULLAGENT_SEED={seed}");
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
    let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{what}, PULLAGENT_SEED={seed}: {error}");
    }
}
