//! Random numbers from a seed: splitmix64.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds begin far apart.
        let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5bd1_e995);
        random.draw();
        random
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Another stream that comes from this one.
    pub fn fork(&mut self) -> Random {
        Random::new(self.draw())
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Once in `of` times.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// `permille` times in 1000.
    pub fn permille(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// A number from `low` to `high`, small ones more often: as many between 1 and 10 as between 10 and 100.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let part = self.below(1 << 16) as f64 / f64::from(1 << 16);
        let (low, high) = (low.max(1) as f64, high.max(1) as f64);
        (low * (high / low).powf(part)) as u64
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        match of.len() {
            0 => None,
            len => of.get(self.below(len as u64) as usize),
        }
    }
}
