//! A map in the order of its keys.
//!
//! Blocks of entries: what is found, put in or taken out costs a search by halves and
//! moves the entries of one block, whatever the keys are. The standard library's
//! ordered map does as much, and is several times as large.

use alloc::vec::Vec;

/// Entries of a block, at most; it splits in halves.
const BLOCK: usize = 16;

/// Values by their keys.
#[derive(Debug)]
pub(crate) struct Sorted<K, V> {
    /// None is empty but the only one; two side by side have half a block together.
    blocks: Vec<Vec<(K, V)>>,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { blocks: Vec::new() }
    }
}

impl<K: Ord, V: PartialEq> Sorted<K, V> {
    /// The block where this key is or would be, and where it is in there or would be.
    fn place(&self, key: &K) -> (usize, Result<usize, usize>) {
        let before = |block: &Vec<(K, V)>| block.last().is_some_and(|(last, _)| last < key);
        let block = self.blocks.partition_point(before).min(self.blocks.len().saturating_sub(1));
        let entries = self.blocks.get(block).map_or(&[][..], Vec::as_slice);
        (block, entries.binary_search_by(|(known, _)| known.cmp(key)))
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (block, place) = self.place(key);
        self.blocks.get(block)?.get(place.ok()?).map(|(_, value)| value)
    }

    /// What has this key, and all behind it.
    pub(crate) fn from(&self, key: &K) -> impl Iterator<Item = &(K, V)> {
        let (block, place) = self.place(key);
        let (Ok(place) | Err(place)) = place;
        let here = self.blocks.get(block).and_then(|entries| entries.get(place..));
        let behind = self.blocks.get(block + 1..);
        here.into_iter().flatten().chain(behind.into_iter().flatten().flatten())
    }

    /// The key gets this value, whatever it had.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let (block, place) = self.place(&key);
        let Some(entries) = self.blocks.get_mut(block) else {
            self.blocks.push(alloc::vec![(key, value)]);
            return;
        };
        match place {
            Ok(place) => {
                if let Some(entry) = entries.get_mut(place) {
                    entry.1 = value;
                }
            }
            Err(place) => {
                entries.insert(place, (key, value));
                if entries.len() > BLOCK {
                    let upper = entries.split_off(BLOCK / 2);
                    self.blocks.insert(block + 1, upper);
                }
            }
        }
    }

    /// Takes out what has this key, if its value is this one.
    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        let (block, place) = self.place(key);
        if let (Some(entries), Ok(place)) = (self.blocks.get_mut(block), place)
            && entries.get(place).is_some_and(|(_, known)| known == value)
        {
            entries.remove(place);
            self.merge(block);
            self.merge(block.wrapping_sub(1));
        }
    }

    /// Makes one of this block and the next where both have little, or one has nothing:
    /// so there are never many blocks.
    fn merge(&mut self, block: usize) {
        if let Some(pair) = self.blocks.get_mut(block..)
            && let Some([one, other]) = pair.first_chunk_mut()
            && (one.is_empty() || other.is_empty() || one.len() + other.len() <= BLOCK / 2)
        {
            one.append(other);
            self.blocks.remove(block + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    /// Whatever is put in and taken out, at either end, in the middle, or all of it.
    #[test]
    fn agrees_with_the_standard_librarys() {
        let mut sorted = Sorted::default();
        let mut known = BTreeMap::new();
        let mut state = 1_u64;
        for step in 0..60_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = (state >> 33) as u32;
            let key = match step / 10_000 {
                // Upwards, downwards, and anywhere.
                0 => step,
                1 => 20_000 - step,
                _ => random % 3_000,
            };
            if step / 10_000 == 5 || random.is_multiple_of(3) {
                sorted.remove(&key, &step);
                if let Some(value) = known.remove(&key) {
                    assert_eq!(sorted.get(&key), Some(&value), "it is another's");
                    sorted.remove(&key, &value);
                }
            } else {
                sorted.insert(key, step);
                known.insert(key, step);
            }
            assert_eq!(sorted.get(&key), known.get(&key));
            let thin = |pair: &[Vec<_>]| pair.iter().map(Vec::len).sum::<usize>() <= BLOCK / 2;
            assert!(step % 64 > 0 || !sorted.blocks.windows(2).any(thin), "{sorted:?}");
            let behind = sorted.from(&key).take(3).copied();
            assert!(behind.eq(known.range(key..).take(3).map(|(key, value)| (*key, *value))));
        }
        let entries: Vec<_> = sorted.blocks.iter().flatten().copied().collect();
        assert_eq!(entries, known.clone().into_iter().collect::<Vec<_>>());
        assert!(sorted.blocks.iter().all(|block| block.len() <= BLOCK));
        for (key, value) in known {
            sorted.remove(&key, &value);
        }
        assert_eq!((sorted.blocks.len(), sorted.from(&0).count()), (1, 0));
    }
}
