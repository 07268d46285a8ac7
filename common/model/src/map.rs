//! An ordered map whose versions share what they have in common: a copy costs nothing, a change of one entry costs a hundred entries,
//! and the difference of two versions costs what differs.
//!
//! Entries lie in order in chunks, and chunks in a list. A version that changes an entry makes that chunk and the list anew, and has
//! all other chunks with the version before it; whoever compares the two passes over a chunk that is the very same.

use std::{borrow::Borrow, collections::BTreeMap, fmt, ops::Index, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most entries of a chunk: a change copies one of these, and the list of as many chunks as there are. Both are some ten
/// microseconds at 100,000 entries.
const CHUNK: usize = 128;
/// A chunk this small is joined with the one after it.
const SMALL: usize = CHUNK / 4;

type Chunk<K, V> = Vec<(K, V)>;
/// None is empty, and each ends before the next begins.
type Chunks<K, V> = Vec<Arc<Chunk<K, V>>>;

/// An ordered map that is cheap to copy.
pub struct Map<K, V> {
    chunks: Arc<Chunks<K, V>>,
    len: usize,
}

impl<K, V> Map<K, V> {
    /// The empty map.
    pub fn new() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), entries: [].iter(), left: self.len }
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// The first entry.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// Removes all.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// True where both are one version, told without a look at an entry. False says nothing.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }
}

impl<K: Ord, V> Map<K, V> {
    /// Of these entries, which are in order and have no key twice.
    fn ordered(entries: impl Iterator<Item = (K, V)>) -> Self {
        let (mut chunks, mut chunk, mut len) = (Vec::new(), Vec::new(), 0);
        for entry in entries {
            len += 1;
            chunk.push(entry);
            // Half full: room for what comes between.
            if chunk.len() == CHUNK / 2 {
                chunks.push(Arc::new(std::mem::take(&mut chunk)));
            }
        }
        if !chunk.is_empty() {
            chunks.push(Arc::new(chunk));
        }
        Self { chunks: Arc::new(chunks), len }
    }

    /// The chunk that a key is in, if it is in any: the last that does not begin after it.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_by = |chunk: &Arc<Chunk<K, V>>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        self.chunks.partition_point(begins_by).saturating_sub(1)
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = chunk.binary_search_by(|(one, _)| one.borrow().cmp(key)).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entries from this key on, in order.
    pub fn starting_at<'m, Q: Ord + ?Sized>(
        &'m self,
        key: &Q,
    ) -> impl Iterator<Item = (&'m K, &'m V)> + use<'m, Q, K, V>
    where
        K: Borrow<Q>,
    {
        let first = self.chunk_of(key);
        let at = self.chunks.get(first).map_or(0, |chunk| chunk.partition_point(|(one, _)| one.borrow() < key));
        let chunks = self.chunks.get(first..).unwrap_or_default();
        let chunks = chunks.iter().enumerate();
        let skipped = move |index: usize| if index == 0 { at } else { 0 };
        let entries = chunks.flat_map(move |(index, chunk)| chunk.get(skipped(index)..).unwrap_or_default());
        entries.map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let place = self.chunks.get(at)?.binary_search_by(|(one, _)| one.borrow().cmp(key)).ok()?;
        let chunk = Arc::make_mut(Arc::make_mut(&mut self.chunks).get_mut(at)?);
        chunk.get_mut(place).map(|(_, value)| value)
    }

    /// Puts an entry in; the value that its key had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|(one, _)| one.cmp(&key)) {
            Ok(place) => chunk.get_mut(place).map(|(_, before)| std::mem::replace(before, value)),
            Err(place) => {
                chunk.insert(place, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK {
                    let rest = chunk.split_off(CHUNK / 2);
                    chunks.insert(at + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes an entry out; the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let place = self.chunks.get(at)?.binary_search_by(|(one, _)| one.borrow().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.get_mut(at)?);
        let (_, value) = chunk.remove(place);
        let left = chunk.len();
        self.len -= 1;
        if left == 0 {
            chunks.remove(at);
        } else if left < SMALL
            && let Some(next) = chunks.get(at + 1).filter(|next| next.len() + left <= CHUNK).cloned()
        {
            chunks.remove(at + 1);
            if let Some(chunk) = chunks.get_mut(at) {
                Arc::make_mut(chunk).extend(next.iter().cloned());
            }
        }
        Some(value)
    }

    /// Keeps the entries of which this is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let gone: Vec<K> = self.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
    }
}

/// How one key differs between two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs<'m, K, V> {
    /// The key.
    pub key: &'m K,
    /// What it had; None where it was not there.
    pub before: Option<&'m V>,
    /// What it has; None where it is gone.
    pub now: Option<&'m V>,
}

impl<K: Ord, V: PartialEq> Map<K, V> {
    /// The keys whose values differ between `self` and what it became, in order. Costs what is not shared.
    pub fn differences<'m>(&'m self, now: &'m Self) -> Vec<Differs<'m, K, V>> {
        let mut found = Vec::new();
        if self.is(now) {
            return found;
        }
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(now));
        loop {
            old.skip_shared(&mut new);
            match (old.entry(), new.entry()) {
                (None, None) => return found,
                (Some((key, before)), None) => {
                    found.push(Differs { key, before: Some(before), now: None });
                    old.step();
                }
                (None, Some((key, now))) => {
                    found.push(Differs { key, before: None, now: Some(now) });
                    new.step();
                }
                (Some((key, before)), Some((other, now))) => match key.cmp(other) {
                    std::cmp::Ordering::Less => {
                        found.push(Differs { key, before: Some(before), now: None });
                        old.step();
                    }
                    std::cmp::Ordering::Greater => {
                        found.push(Differs { key: other, before: None, now: Some(now) });
                        new.step();
                    }
                    std::cmp::Ordering::Equal => {
                        if before != now {
                            found.push(Differs { key, before: Some(before), now: Some(now) });
                        }
                        old.step();
                        new.step();
                    }
                },
            }
        }
    }
}

/// A place in a map.
struct Cursor<'m, K, V> {
    chunks: &'m [Arc<Chunk<K, V>>],
    at: usize,
}

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m Map<K, V>) -> Self {
        Self { chunks: &map.chunks, at: 0 }
    }

    /// The chunk, where it stands at its beginning.
    fn chunk_begun(&self) -> Option<&'m Arc<Chunk<K, V>>> {
        if self.at == 0 { self.chunks.first() } else { None }
    }

    fn entry(&self) -> Option<&'m (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    /// Passes over the chunks that the very same stand in both.
    fn skip_shared(&mut self, other: &mut Self) {
        while let (Some(one), Some(two)) = (self.chunk_begun(), other.chunk_begun())
            && Arc::ptr_eq(one, two)
        {
            self.skip_chunk();
            other.skip_chunk();
        }
    }

    fn skip_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }

    fn step(&mut self) {
        self.at += 1;
        if self.chunks.first().is_none_or(|chunk| self.at >= chunk.len()) {
            self.skip_chunk();
        }
    }
}

/// The entries of a [`Map`], in order.
pub struct Iter<'m, K, V> {
    chunks: std::slice::Iter<'m, Arc<Chunk<K, V>>>,
    entries: std::slice::Iter<'m, (K, V)>,
    left: usize,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), entries: self.entries.clone(), left: self.left }
    }
}

impl<K, V> fmt::Debug for Iter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<'m, K, V> Iterator for Iter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                self.left -= 1;
                return Some((key, value));
            }
            self.entries = self.chunks.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<'m, K, V> IntoIterator for &'m Map<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = Iter<'m, K, V>;

    fn into_iter(self) -> Iter<'m, K, V> {
        self.iter()
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        let (mut one, mut two) = (Cursor::new(self), Cursor::new(other));
        loop {
            one.skip_shared(&mut two);
            match (one.entry(), two.entry()) {
                (None, None) => return true,
                (a, b) if a == b => {
                    one.step();
                    two.step();
                }
                _ => return false,
            }
        }
    }
}

impl<K: Eq, V: Eq> Eq for Map<K, V> {}

impl<K: Ord, V> FromIterator<(K, V)> for Map<K, V> {
    /// Of two entries of one key the later counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        BTreeMap::from_iter(entries).into()
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for Map<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        Self::ordered(map.into_iter())
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Map<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        if self.is_empty() {
            *self = entries.into_iter().collect();
            return;
        }
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for Map<K, V> {
    type Output = V;

    #[expect(clippy::expect_used, reason = "as other maps do: who indexes says that the key is there")]
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the key is in the map")
    }
}

impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Ord + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Map<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<K, V>::deserialize(deserializer).map_err(de::Error::custom)?.into())
    }
}

#[cfg(test)]
mod tests;
