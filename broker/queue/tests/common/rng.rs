//! Random numbers from a seed (splitmix64): the same on every machine.

#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Runs `case` for each seed from `SEED` (one, if it is set) or for `CASES` seeds, and names the seed that fails.
pub fn seeds(cases: u64, case: impl Fn(u64) -> Result<(), String>) {
    let named = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match named("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..named("CASES").unwrap_or(cases),
    };
    println!("seeds {seeds:?}");
    for seed in seeds {
        if let Err(error) = case(seed) {
            panic!("SEED={seed}: {error}");
        }
    }
}
