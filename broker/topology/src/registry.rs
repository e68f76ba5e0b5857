//! `Registry`: named entries at small stable numbers, so that routing tables
//! hold four octets for a queue or exchange and a change of it is made once.

use std::ops::Index;

use rustc_hash::FxHashMap;

use crate::model::Name;

/// Number of an entry, its own until it is removed.
pub(crate) type Slot = u32;

/// Entries by name and by slot. The slot of an entry depends on the history of
/// the registry: it orders nothing that anyone can see.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    by_name: FxHashMap<Name, Slot>,
    entries: Vec<Option<T>>,
    free: Vec<Slot>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry {
            by_name: FxHashMap::default(),
            entries: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Registry<T> {
    /// The slot of a name.
    #[inline]
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.by_name.get(name).copied()
    }

    /// The entry at a slot.
    #[inline]
    pub fn at(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot as usize)?.as_ref()
    }

    /// The entry at a slot, to change it.
    pub fn at_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// The entry of a name.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.at(self.slot(name)?)
    }

    /// The entry of a name, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let slot = self.slot(name)?;
        self.at_mut(slot)
    }

    /// Adds an entry; replaces the one of the same name, in its slot.
    pub fn insert(&mut self, name: Name, entry: T) -> Slot {
        if let Some(slot) = self.slot(&name) {
            self.entries[slot as usize] = Some(entry);
            return slot;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.entries.push(Some(entry));
                (self.entries.len() - 1) as Slot
            }
        };
        self.by_name.insert(name, slot);
        slot
    }

    /// Removes an entry; its slot may be given to another.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let slot = self.by_name.remove(name)?;
        let entry = self.entries[slot as usize].take();
        self.free.push(slot);
        entry
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The entries, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }
}

impl<T> Index<Slot> for Registry<T> {
    type Output = T;
    /// # Panics
    /// When the slot is free: routing tables hold slots of live entries alone.
    #[inline]
    fn index(&self, slot: Slot) -> &T {
        self.at(slot)
            .expect("a routing table holds the slot of a removed entry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_stable_and_used_again() {
        let mut registry = Registry::default();
        let a = registry.insert(Name::from("a"), 1);
        let b = registry.insert(Name::from("b"), 2);
        assert_eq!(registry.insert(Name::from("a"), 3), a);
        assert_eq!(registry[a], 3);
        assert_eq!(registry.remove("a"), Some(3));
        assert_eq!(registry.get("a"), None);
        assert_eq!(registry.insert(Name::from("c"), 4), a);
        assert_eq!((registry[a], registry[b], registry.len()), (4, 2, 2));
        assert_eq!(registry.remove("a"), None);
    }
}
