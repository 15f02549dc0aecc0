//! Maps and sets by id, on the write path: the standard ones with a faster hash. Each process has a seed of its own, so
//! that nobody who chooses ids can make them collide.

/// A hash map.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::quality::RandomState>;
/// A hash set.
pub type Set<T> = std::collections::HashSet<T, foldhash::quality::RandomState>;
