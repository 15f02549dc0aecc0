//! Maps and sets by id, on the write path: the standard ones with a faster hash. It is seeded anew in each process, so
//! that nobody who chooses ids can make them collide.

/// A hash map.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::quality::RandomState>;
/// A hash set.
pub type Set<T> = std::collections::HashSet<T, foldhash::quality::RandomState>;
