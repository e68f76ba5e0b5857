//! `Targets`: the targets behind one key, each with the number of bindings that
//! lead to it.

use super::Target;

/// A small sorted list. Several bindings may differ in their arguments alone.
#[derive(Debug, Default)]
pub(super) struct Targets(Vec<(Target, u32)>);

impl Targets {
    pub fn add(&mut self, target: Target) {
        match self.0.binary_search_by_key(&target, |entry| entry.0) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (target, 1)),
        }
    }

    pub fn remove(&mut self, target: Target) {
        if let Ok(at) = self.0.binary_search_by_key(&target, |entry| entry.0) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Target> + '_ {
        self.0.iter().map(|entry| entry.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_until_its_last_binding_goes() {
        let mut targets = Targets::default();
        targets.add(Target::Queue(2));
        targets.add(Target::Exchange(1));
        targets.add(Target::Queue(2));
        targets.remove(Target::Queue(2));
        let all: Vec<Target> = targets.iter().collect();
        assert_eq!(all, [Target::Queue(2), Target::Exchange(1)]);
        targets.remove(Target::Queue(2));
        targets.remove(Target::Exchange(1));
        targets.remove(Target::Exchange(1));
        assert!(targets.is_empty());
    }
}
