//! Direct exchanges (AMQP 0-9-1 section 3.1.3.1).

use rustc_hash::FxHashMap;

use super::Target;
use super::targets::Targets;

/// Targets by key.
#[derive(Debug, Default)]
pub(crate) struct Direct(FxHashMap<Box<[u8]>, Targets>);

impl Direct {
    pub fn add(&mut self, key: &[u8], target: Target) {
        match self.0.get_mut(key) {
            Some(targets) => targets.add(target),
            None => {
                let mut targets = Targets::default();
                targets.add(target);
                self.0.insert(key.into(), targets);
            }
        }
    }

    pub fn remove(&mut self, key: &[u8], target: Target) {
        if let Some(targets) = self.0.get_mut(key) {
            targets.remove(target);
            if targets.is_empty() {
                self.0.remove(key);
            }
        }
    }

    #[inline]
    pub fn route(&self, key: &[u8], found: &mut impl FnMut(Target)) {
        if let Some(targets) = self.0.get(key) {
            targets.iter().for_each(found);
        }
    }
}
