//! Fanout exchanges (AMQP 0-9-1 section 3.1.3.2).

use super::Target;
use super::targets::Targets;

/// Every target.
#[derive(Debug, Default)]
pub(crate) struct Fanout(Targets);

impl Fanout {
    pub fn add(&mut self, target: Target) {
        self.0.add(target);
    }

    pub fn remove(&mut self, target: Target) {
        self.0.remove(target);
    }

    #[inline]
    pub fn route(&self, found: &mut impl FnMut(Target)) {
        self.0.iter().for_each(found);
    }
}
