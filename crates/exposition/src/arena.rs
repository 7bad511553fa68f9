//! Many short texts in few pieces of memory.
//!
//! A text is copied into a chunk and stays where it is, so that growing never holds anything twice.
//! What is no longer used is found by asking for everything that is: chunks without any use are
//! given back, and what is left in sparse ones is moved together.

/// Where a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The chunk, and the byte in it.
    at: u32,
    len: u32,
}

impl Place {
    pub(crate) fn len(self) -> usize {
        self.len as usize
    }

    fn chunk(self) -> usize {
        (self.at >> CHUNK_BITS) as usize
    }

    fn range(self) -> std::ops::Range<usize> {
        let start = self.at as usize & (CHUNK - 1);
        start..start + self.len as usize
    }
}

const CHUNK_BITS: u32 = 15;

/// Bytes of a chunk, but for those of a small arena, and those of long texts.
const CHUNK: usize = 1 << CHUNK_BITS;

const CHUNK_MIN: usize = 256;

/// A longer text has a chunk of its own, so that little of the others' ends is left unused.
const LONG: usize = CHUNK / 4;

const CHUNKS_MAX: usize = 1 << (u32::BITS - CHUNK_BITS);

#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<Chunk>,
    /// Places among the chunks that hold nothing.
    free: Vec<usize>,
    /// The chunk that is being filled.
    open: usize,
    /// Bytes of all chunks.
    bytes: usize,
}

/// A piece of memory that never grows. One without memory is free.
#[derive(Debug, Default)]
struct Chunk {
    text: Vec<u8>,
    /// Bytes in use, when that was last asked.
    used: usize,
    /// Whether its texts are being moved away.
    leaving: bool,
}

impl Arena {
    /// Whether there is room for so many bytes without more memory.
    fn fits(&self, len: usize) -> bool {
        let open = self.chunks.get(self.open);
        open.is_some_and(|open| open.text.capacity() - open.text.len() >= len)
    }

    /// Keeps a text, if there is room for it without more memory.
    #[inline]
    pub(crate) fn push_if_it_fits(&mut self, text: &[u8]) -> Option<Place> {
        if text.is_empty() {
            return Some(Place::default());
        }
        let open = self.open;
        let to = &mut self.chunks.get_mut(open)?.text;
        if to.capacity() - to.len() < text.len() {
            return None;
        }
        let place = Place {
            at: (open << CHUNK_BITS | to.len()) as u32,
            len: text.len() as u32,
        };
        to.extend_from_slice(text);
        Some(place)
    }

    /// Keeps a text, if it fits or `room` bytes of memory are enough to make it fit.
    pub(crate) fn push(&mut self, text: &[u8], room: usize) -> Option<Place> {
        if let Some(place) = self.push_if_it_fits(text) {
            return Some(place);
        }
        let chunk = self.add(text.len(), room)?;
        let to = &mut self.chunks[chunk].text;
        to.extend_from_slice(text);
        Some(Place {
            at: (chunk << CHUNK_BITS) as u32,
            len: text.len() as u32,
        })
    }

    /// A new chunk that has room for so many bytes.
    fn add(&mut self, len: usize, room: usize) -> Option<usize> {
        let alone = len > LONG;
        let wanted = if alone {
            len
        } else {
            self.bytes.clamp(CHUNK_MIN, CHUNK).max(len)
        };
        let bytes = wanted.min(room);
        let full = self.free.is_empty() && self.chunks.len() == CHUNKS_MAX;
        if bytes < len || full || u32::try_from(len).is_err() {
            return None;
        }
        let chunk = Chunk {
            text: Vec::with_capacity(bytes),
            ..Chunk::default()
        };
        self.bytes += chunk.text.capacity();
        let place = if let Some(free) = self.free.pop() {
            self.chunks[free] = chunk;
            free
        } else {
            self.chunks.push(chunk);
            self.chunks.len() - 1
        };
        if !alone {
            self.open = place;
        }
        Some(place)
    }

    #[inline]
    pub(crate) fn bytes(&self, place: Place) -> &[u8] {
        match self.chunks.get(place.chunk()) {
            Some(chunk) => &chunk.text[place.range()],
            // An empty text is nowhere.
            None => b"",
        }
    }

    /// Nothing is in use until [`uses`](Self::uses) says so.
    pub(crate) fn begin_count(&mut self) {
        for chunk in &mut self.chunks {
            chunk.used = 0;
        }
    }

    pub(crate) fn uses(&mut self, place: Place) {
        if place.len > 0 {
            self.chunks[place.chunk()].used += place.len();
        }
    }

    /// Gives back what is not in use. Returns how many bytes are to be moved for the rest to lie
    /// close enough; zero if they do.
    pub(crate) fn end_count(&mut self) -> usize {
        let mut used = 0;
        for number in 0..self.chunks.len() {
            used += self.chunks[number].used;
            if self.chunks[number].used == 0 {
                self.give_back(number);
            }
        }
        self.trim();
        if self.bytes <= used + used / 4 + 2 * CHUNK.min(self.bytes / 2) {
            return 0;
        }
        let mut moved = 0;
        for chunk in &mut self.chunks {
            let capacity = chunk.text.capacity();
            chunk.leaving = chunk.used > 0 && chunk.used < capacity / 4 * 3;
            moved += if chunk.leaving { chunk.used } else { 0 };
        }
        if self.chunks.get(self.open).is_some_and(|open| open.leaving) {
            self.open = usize::MAX;
        }
        moved
    }

    /// Moves a text, if its chunk is to be given back.
    pub(crate) fn move_out(&mut self, place: &mut Place) {
        let from = place.chunk();
        if place.len == 0 || !self.chunks[from].leaving {
            return;
        }
        let to = if self.fits(place.len()) {
            Some(self.open)
        } else {
            self.add(place.len(), usize::MAX)
        };
        let Some(to) = to else {
            // As many chunks as there can be: it stays, and so does its chunk.
            self.chunks[from].leaving = false;
            return;
        };
        let Ok([from, to_chunk]) = self.chunks.get_disjoint_mut([from, to]) else {
            return;
        };
        let at = to << CHUNK_BITS | to_chunk.text.len();
        to_chunk.text.extend_from_slice(&from.text[place.range()]);
        to_chunk.used += place.len();
        place.at = at as u32;
    }

    /// Gives back the chunks that were moved out of.
    pub(crate) fn end_move(&mut self) {
        for number in 0..self.chunks.len() {
            if self.chunks[number].leaving {
                self.give_back(number);
            }
        }
        self.trim();
    }

    fn give_back(&mut self, chunk: usize) {
        let bytes = std::mem::take(&mut self.chunks[chunk]).text.capacity();
        if bytes > 0 {
            self.bytes -= bytes;
            self.free.push(chunk);
        }
    }

    /// Drops free chunks at the end, and gives back what a longer list took.
    fn trim(&mut self) {
        let kept = self
            .chunks
            .iter()
            .rposition(|chunk| chunk.text.capacity() > 0)
            .map_or(0, |last| last + 1);
        if kept < self.chunks.len() {
            self.chunks.truncate(kept);
            self.free.retain(|free| *free < kept);
        }
        self.chunks.shrink_to(2 * kept);
        self.free.shrink_to(kept);
    }

    /// Bytes of texts, used or not, and of what could be added without more memory.
    pub(crate) fn chunk_bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.free.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps of the texts what a rule says.
    fn keep(arena: &mut Arena, places: &mut Vec<Place>, mut kept: impl FnMut(usize) -> bool) {
        let mut number = 0;
        places.retain(|_| {
            number += 1;
            kept(number - 1)
        });
        arena.begin_count();
        for place in &*places {
            arena.uses(*place);
        }
        if arena.end_count() > 0 {
            for place in &mut *places {
                arena.move_out(place);
            }
            arena.end_move();
        }
    }

    fn text(number: usize) -> String {
        let length = [0, 3, 50, 700, 40_000][number % 5];
        format!("{number}{}", "é".repeat(length))
    }

    #[test]
    fn texts_are_what_they_were_wherever_they_are_moved() {
        let mut arena = Arena::default();
        let mut places = Vec::new();
        let mut texts = Vec::new();
        for round in 0..4 {
            for number in 0..400 {
                let text = text(number + round);
                places.push(arena.push(text.as_bytes(), usize::MAX).unwrap());
                texts.push(text);
            }
            let rule = |number: usize| number * 7 % 11 < 3;
            keep(&mut arena, &mut places, rule);
            let mut number = 0;
            texts.retain(|_| {
                number += 1;
                rule(number - 1)
            });
            for (place, text) in places.iter().zip(&texts) {
                assert_eq!(arena.bytes(*place), text.as_bytes());
            }
            let used: usize = texts.iter().map(String::len).sum();
            assert!(arena.held_bytes() < used + used / 2 + 3 * CHUNK);
        }
        keep(&mut arena, &mut places, |_| false);
        assert_eq!(arena.held_bytes(), 0);
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for() {
        let mut arena = Arena::default();
        let mut kept = 0;
        while let Some(place) = arena.push(b"some text", 1_000 - arena.chunk_bytes()) {
            assert_eq!(arena.bytes(place), b"some text");
            kept += "some text".len();
        }
        assert!((950..=1_000).contains(&kept), "{kept}");
        assert!(arena.chunk_bytes() <= 1_000);
        assert!(arena.push(b"", 0).is_some());
    }
}
