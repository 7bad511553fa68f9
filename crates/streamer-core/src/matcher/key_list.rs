//! Subscriptions in the order of their keys, for output in one piece.

use std::iter::Peekable;

use super::SubscriptionKey;

/// A sorted list of subscriptions in chunks, 8 bytes each. Copying it takes a nanosecond for each
/// subscription; a tree takes five, and finding each through its group thirty.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    chunks: Vec<Vec<SubscriptionKey>>,
    len: usize,
}

/// Inserting moves at most 4 KiB. In tests a dozen subscriptions have several chunks.
const CHUNK_MAX: usize = if cfg!(test) { 4 } else { 512 };

impl KeyList {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, key: SubscriptionKey) {
        let at = self.chunk_of(key);
        match self.chunks.get_mut(at) {
            // Keys mostly rise, so that full chunks stay full.
            Some(chunk) if chunk.len() == CHUNK_MAX && chunk.last() < Some(&key) => {
                self.chunks.insert(at + 1, vec![key]);
            }
            Some(chunk) => {
                let Err(within) = chunk.binary_search(&key) else {
                    return;
                };
                chunk.insert(within, key);
                if chunk.len() > CHUNK_MAX {
                    let upper = chunk.split_off(CHUNK_MAX / 2);
                    self.chunks.insert(at + 1, upper);
                }
            }
            None => self.chunks.push(vec![key]),
        }
        self.len += 1;
    }

    pub(super) fn remove(&mut self, key: SubscriptionKey) {
        let at = self.chunk_of(key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            return;
        };
        if let Ok(within) = chunk.binary_search(&key) {
            chunk.remove(within);
            self.len -= 1;
            if chunk.is_empty() {
                self.chunks.remove(at);
            }
        }
    }

    /// Looks at the next subscriptions from `from` on, at most `left` of them, and appends those that are
    /// not in `except`, which is in order. Reduces `left`, and returns the subscription to go on from,
    /// `None` after the last one.
    pub(super) fn copy(
        &self,
        from: SubscriptionKey,
        except: impl Iterator<Item = SubscriptionKey>,
        left: &mut usize,
        out: &mut Vec<SubscriptionKey>,
    ) -> Option<SubscriptionKey> {
        // A slice may have begun in the middle of the list.
        let mut except = except.skip_while(|key| *key < from).peekable();
        // By key and not by index, since the list may have changed between two slices.
        for chunk in &self.chunks[self.chunk_of(from)..] {
            let keys = &chunk[chunk.partition_point(|key| *key < from)..];
            let (now, later) = keys.split_at(keys.len().min(*left));
            append_without(now, &mut except, out);
            *left -= now.len();
            if let Some(next) = later.first() {
                return Some(*next);
            }
        }
        None
    }

    /// Returns the index of the last chunk that may hold the key.
    fn chunk_of(&self, key: SubscriptionKey) -> usize {
        self.chunks
            .partition_point(|chunk| chunk[0] <= key)
            .saturating_sub(1)
    }
}

fn append_without(
    mut keys: &[SubscriptionKey],
    except: &mut Peekable<impl Iterator<Item = SubscriptionKey>>,
    out: &mut Vec<SubscriptionKey>,
) {
    while let Some(next) = except.peek() {
        match keys.binary_search(next) {
            Ok(at) => {
                out.extend_from_slice(&keys[..at]);
                keys = &keys[at + 1..];
            }
            // The next chunk may hold it, so that it must stay in `except`.
            Err(at) if at == keys.len() => break,
            Err(_) => {}
        }
        except.next();
    }
    out.extend_from_slice(keys);
}
