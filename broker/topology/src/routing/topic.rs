//! Topic exchanges (AMQP 0-9-1 section 3.1.3.3): a trie over the words of the
//! binding keys. `*` stands for one word, `#` for any number of them, none too.
//!
//! Words are what dots separate, empty ones too; the empty key has no words.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Target;
use super::targets::Targets;

type NodeId = u32;
const ROOT: NodeId = 0;
const ONE_WORD: &[u8] = b"*";
const ANY_WORDS: &[u8] = b"#";

/// The trie. Nodes are removed with the last binding below them.
#[derive(Debug)]
pub(crate) struct Topic {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
}

#[derive(Debug, Default)]
struct Node {
    /// Children by word, the wildcards not among them.
    words: FxHashMap<Box<[u8]>, NodeId>,
    one_word: Option<NodeId>,
    any_words: Option<NodeId>,
    /// Whether a `#` is on the way from the root to here, this node included.
    below_any_words: bool,
    targets: Targets,
}

impl Node {
    fn child(&self, word: &[u8]) -> Option<NodeId> {
        match word {
            ONE_WORD => self.one_word,
            ANY_WORDS => self.any_words,
            word => self.words.get(word).copied(),
        }
    }

    fn is_unused(&self) -> bool {
        self.targets.is_empty()
            && self.words.is_empty()
            && self.one_word.is_none()
            && self.any_words.is_none()
    }
}

impl Default for Topic {
    fn default() -> Self {
        Topic {
            nodes: vec![Node::default()],
            free: Vec::new(),
        }
    }
}

/// The words of a key that are left; None when there are none.
type Rest<'a> = Option<&'a [u8]>;

fn words(key: &[u8]) -> Rest<'_> {
    (!key.is_empty()).then_some(key)
}

/// The first word and what is left after it.
#[inline]
fn split(rest: &[u8]) -> (&[u8], Rest<'_>) {
    match rest.iter().position(|octet| *octet == b'.') {
        Some(dot) => (&rest[..dot], Some(&rest[dot + 1..])),
        None => (rest, None),
    }
}

/// The `#` nodes below another `#` where the walk has been. A node has one way to
/// it, and the `#` above it leaves words out one by one: so the first visit is
/// the one with most of the key left, and a later one would find nothing new.
/// Without this a key could be walked in exponentially many ways.
type Visited = FxHashSet<NodeId>;

impl Topic {
    pub fn add(&mut self, key: &[u8], target: Target) {
        let mut node = ROOT;
        let mut rest = words(key);
        while let Some(remaining) = rest {
            let (word, after) = split(remaining);
            node = match self.nodes[node as usize].child(word) {
                Some(child) => child,
                None => self.add_child(node, word),
            };
            rest = after;
        }
        self.nodes[node as usize].targets.add(target);
    }

    fn add_child(&mut self, parent: NodeId, word: &[u8]) -> NodeId {
        let below_any_words = word == ANY_WORDS || self.nodes[parent as usize].below_any_words;
        let node = Node {
            below_any_words,
            ..Node::default()
        };
        let child = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        let parent = &mut self.nodes[parent as usize];
        match word {
            ONE_WORD => parent.one_word = Some(child),
            ANY_WORDS => parent.any_words = Some(child),
            word => {
                parent.words.insert(word.into(), child);
            }
        }
        child
    }

    pub fn remove(&mut self, key: &[u8], target: Target) {
        let mut path: Vec<(NodeId, &[u8])> = Vec::new();
        let mut node = ROOT;
        let mut rest = words(key);
        while let Some(remaining) = rest {
            let (word, after) = split(remaining);
            let Some(child) = self.nodes[node as usize].child(word) else {
                return;
            };
            path.push((node, word));
            node = child;
            rest = after;
        }
        self.nodes[node as usize].targets.remove(target);
        while let Some((parent, word)) = path.pop() {
            if !self.nodes[node as usize].is_unused() {
                return;
            }
            self.free.push(node);
            let parent_node = &mut self.nodes[parent as usize];
            match word {
                ONE_WORD => parent_node.one_word = None,
                ANY_WORDS => parent_node.any_words = None,
                word => {
                    parent_node.words.remove(word);
                }
            }
            node = parent;
        }
    }

    /// Gives the targets of a key to `found`.
    pub fn route(&self, key: &[u8], found: &mut impl FnMut(Target)) {
        self.walk(ROOT, words(key), &mut Visited::default(), found);
    }

    fn walk(
        &self,
        node: NodeId,
        rest: Rest<'_>,
        visited: &mut Visited,
        found: &mut impl FnMut(Target),
    ) {
        let node = &self.nodes[node as usize];
        if let Some(child) = node.any_words {
            self.walk_any_words(node, child, rest, visited, found);
        }
        let Some(remaining) = rest else {
            node.targets.iter().for_each(found);
            return;
        };
        let (word, after) = split(remaining);
        if let Some(child) = node.one_word {
            self.walk(child, after, visited, found);
        }
        // A routing key may have `*` and `#` as words; they are no wildcards there.
        if let Some(child) = node.words.get(word) {
            self.walk(*child, after, visited, found);
        }
    }

    /// Goes on from a `#` with every number of words left out.
    fn walk_any_words(
        &self,
        parent: &Node,
        node: NodeId,
        mut rest: Rest<'_>,
        visited: &mut Visited,
        found: &mut impl FnMut(Target),
    ) {
        if self.nodes[node as usize].is_leaf() {
            // Whatever is left of the key, all ways end here.
            return self.nodes[node as usize].targets.iter().for_each(found);
        }
        if parent.below_any_words && !visited.insert(node) {
            return;
        }
        loop {
            self.walk(node, rest, visited, found);
            match rest {
                Some(remaining) => rest = split(remaining).1,
                None => return,
            }
        }
    }
}

impl Node {
    fn is_leaf(&self) -> bool {
        self.words.is_empty() && self.one_word.is_none() && self.any_words.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(topic: &Topic, key: &str) -> Vec<u32> {
        let mut found = Vec::new();
        topic.route(key.as_bytes(), &mut |target| {
            if let Target::Queue(slot) = target {
                found.push(slot);
            }
        });
        found.sort_unstable();
        found.dedup();
        found
    }

    fn topic(keys: &[&str]) -> Topic {
        let mut topic = Topic::default();
        for (slot, key) in keys.iter().enumerate() {
            topic.add(key.as_bytes(), Target::Queue(slot as u32));
        }
        topic
    }

    #[test]
    fn wildcards_match_words() {
        let keys = [
            "a.b", "a.*", "a.#", "#", "*.b", "#.b", "a.#.b", "", "*", "a..b", "*.*.*",
        ];
        let topic = topic(&keys);
        let check = |key: &str, expected: &[&str]| {
            let found: Vec<&str> = matches(&topic, key)
                .iter()
                .map(|n| keys[*n as usize])
                .collect();
            assert_eq!(found, expected, "{key}");
        };
        check("a.b", &["a.b", "a.*", "a.#", "#", "*.b", "#.b", "a.#.b"]);
        check("", &["#", ""]);
        check("a", &["a.#", "#", "*"]);
        check("b", &["#", "#.b", "*"]);
        check("a.x.y.b", &["a.#", "#", "#.b", "a.#.b"]);
        check("a..b", &["a.#", "#", "#.b", "a.#.b", "a..b", "*.*.*"]);
        check(".", &["#"]);
        check("..", &["#", "*.*.*"]);
    }

    #[test]
    fn wildcards_in_a_routing_key_are_plain_words() {
        let topic = topic(&["a.b", "a.*", "a.#"]);
        assert_eq!(matches(&topic, "a.*"), [1, 2]);
        assert_eq!(matches(&topic, "a.#"), [1, 2]);
    }

    #[test]
    fn removal_leaves_no_nodes_behind() {
        let keys = ["a.b.c", "a.#.c", "a.*", "#", "", "x.y.z.#"];
        let mut topic = topic(&keys);
        for (slot, key) in keys.iter().enumerate() {
            topic.remove(key.as_bytes(), Target::Queue(slot as u32));
            assert!(!matches(&topic, "a.b.c").contains(&(slot as u32)));
        }
        assert_eq!(topic.free.len(), topic.nodes.len() - 1);
        assert!(topic.nodes[ROOT as usize].is_unused());
        topic.remove(b"not.there", Target::Queue(1));
    }

    #[test]
    fn many_wildcards_do_not_explode() {
        // Without the memory of visited nodes this takes longer than anyone waits.
        let topic = topic(&[
            "#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.a.#.b",
            "#.#.#.#.#.#.#.#.#.#.b",
        ]);
        let key = "a.".repeat(120) + "c";
        assert_eq!(matches(&topic, &key), [] as [u32; 0]);
        assert_eq!(matches(&topic, &("a.".repeat(120) + "b")), [0, 1]);
    }
}
