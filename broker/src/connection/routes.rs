//! Where messages went lately: a cache of routes, valid for one version of the topology.

use std::sync::Arc;

use leveret_topology::QueueInfo;
use rustc_hash::FxHashMap;

/// Routes kept by one connection at most.
const ROUTES_MAX: usize = 4096;
/// Queues of a route that is kept.
const QUEUES_MAX: usize = 1024;

/// The queues that a message goes to.
pub type Route = Arc<[Arc<QueueInfo>]>;

/// See the module. A key is the exchange's name, its length before it, and the routing key.
#[derive(Debug, Default)]
pub struct RouteCache {
    version: u64,
    last_key: Vec<u8>,
    last: Option<Route>,
    routes: FxHashMap<Box<[u8]>, Route>,
}

impl RouteCache {
    fn put_key(key: &mut Vec<u8>, exchange: &[u8], routing_key: &[u8]) {
        key.clear();
        key.push(exchange.len() as u8);
        key.extend_from_slice(exchange);
        key.extend_from_slice(routing_key);
    }

    fn is_last(&self, exchange: &[u8], routing_key: &[u8]) -> bool {
        let Some((&len, rest)) = self.last_key.split_first() else {
            return false;
        };
        rest.len() == exchange.len() + routing_key.len()
            && usize::from(len) == exchange.len()
            && rest.starts_with(exchange)
            && rest.ends_with(routing_key)
    }

    /// The route, if it is known and nothing has changed since.
    #[inline]
    pub fn get(&mut self, version: u64, exchange: &[u8], routing_key: &[u8]) -> Option<Route> {
        if version != self.version {
            self.clear();
            self.version = version;
            return None;
        }
        if self.is_last(exchange, routing_key) {
            return self.last.clone();
        }
        Self::put_key(&mut self.last_key, exchange, routing_key);
        self.last = self.routes.get(self.last_key.as_slice()).cloned();
        if self.last.is_none() {
            self.last_key.clear();
        }
        self.last.clone()
    }

    /// Keeps a route that was found under `version`.
    pub fn put(&mut self, version: u64, exchange: &[u8], routing_key: &[u8], route: Route) {
        if route.len() > QUEUES_MAX {
            return;
        }
        if version != self.version || self.routes.len() >= ROUTES_MAX {
            self.clear();
            self.version = version;
        }
        Self::put_key(&mut self.last_key, exchange, routing_key);
        self.routes
            .insert(self.last_key.as_slice().into(), route.clone());
        self.last = Some(route);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.last_key.clear();
        self.last = None;
        if self.routes.capacity() > 64 {
            self.routes = FxHashMap::default();
        } else {
            self.routes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Arc::from(Vec::new())
    }

    fn is(found: Option<Route>, route: &Route) -> bool {
        found.is_some_and(|found| Arc::ptr_eq(&found, route))
    }

    #[test]
    fn names_and_keys_do_not_run_into_each_other() {
        let mut cache = RouteCache::default();
        let (one, other, third) = (route(), route(), route());
        cache.put(1, b"ab", b"c", one.clone());
        cache.put(1, b"a", b"bc", other.clone());
        cache.put(1, b"", b"abc", third.clone());
        for _ in 0..2 {
            assert!(is(cache.get(1, b"ab", b"c"), &one));
            assert!(is(cache.get(1, b"a", b"bc"), &other));
            assert!(is(cache.get(1, b"", b"abc"), &third));
            assert!(cache.get(1, b"abc", b"").is_none());
            assert!(cache.get(1, b"", b"").is_none());
        }
    }

    #[test]
    fn a_change_of_the_topology_or_of_permissions_forgets_everything() {
        let mut cache = RouteCache::default();
        cache.put(1, b"x", b"k", route());
        assert!(cache.get(2, b"x", b"k").is_none());
        assert!(cache.get(2, b"x", b"k").is_none());
        let now = route();
        cache.put(2, b"x", b"k", now.clone());
        assert!(is(cache.get(2, b"x", b"k"), &now));
        // A route that was found before the change, and kept after it, is not served either.
        cache.put(1, b"x", b"k", route());
        assert!(cache.get(2, b"x", b"k").is_none());
    }

    #[test]
    fn it_stays_small() {
        let mut cache = RouteCache::default();
        for key in 0..3 * ROUTES_MAX as u32 {
            cache.put(1, b"x", &key.to_be_bytes(), route());
            assert!(cache.routes.len() <= ROUTES_MAX);
        }
    }
}
