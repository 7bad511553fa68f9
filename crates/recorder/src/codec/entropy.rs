//! The second stage: pco, for chunks that stay large after the first.

use pco::{
    ChunkConfig,
    data_types::Number,
    wrapped::{FileCompressor, FileDecompressor},
};

use crate::bytes::Malformed;

/// pco's default. Each level above it, up to 12, saves less than 1 % here.
const LEVEL: usize = 8;

/// The count from which savings can exceed pco's own header.
pub(super) const NUMBERS_MIN: usize = 48;

/// Appends compressed `values`. Returns `None` if pco rejects them.
pub(super) fn put<T: Number>(out: &mut Vec<u8>, values: &[T]) -> Option<()> {
    let start = out.len();
    let config = ChunkConfig::default().with_compression_level(LEVEL);
    let file = FileCompressor::default();
    let written = file
        .chunk_compressor(values, &config)
        .and_then(|mut chunk| {
            file.write_header(&mut *out)?;
            chunk.write_meta(&mut *out)?;
            chunk.write_page(0, &mut *out)?;
            Ok(())
        });
    if written.is_err() {
        // A failed attempt may have written a part.
        out.truncate(start);
        return None;
    }
    Some(())
}

/// Decompresses all of `bytes`, which must be `count` numbers.
pub(super) fn read<T: Number>(bytes: &[u8], count: usize) -> Result<Vec<T>, Malformed> {
    let read = || -> pco::errors::PcoResult<Option<Vec<T>>> {
        let (file, rest) = FileDecompressor::new(bytes)?;
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest)?;
        let mut page = chunk.page_decompressor(rest, count)?;
        let mut values = vec![T::default(); count];
        let progress = page.read(&mut values)?;
        let whole =
            progress.finished && progress.n_processed == count && page.into_src().is_empty();
        Ok(whole.then_some(values))
    };
    read().ok().flatten().ok_or(Malformed)
}
