//! Files that are read and never written: what is written stays in memory.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;
use steadfast_files::private;

use super::disk::{Directory, Disk, DiskFile};

/// Size of the parts of a file that are kept in memory once they are written.
const PART: usize = 4_096;

/// An index that is opened to be read. redb repairs an index that was not closed, and the log begins a
/// term in it; both stay in memory.
#[derive(Debug)]
pub(super) struct Overlay {
    /// `None` if there is no file.
    file: Option<File>,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// The length up to which the file counts: a part that was cut off reads as zeros.
    file_length: u64,
    parts: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Returns an overlay of a file, or of nothing.
    pub(super) fn new(file: Option<File>) -> io::Result<Self> {
        let length = file.as_ref().map_or(Ok(0), DiskFile::length)?;
        Ok(Self {
            file,
            written: Mutex::new(Written {
                length,
                file_length: length,
                parts: BTreeMap::new(),
            }),
        })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the part with this number as the file has it.
    fn load(&self, number: u64, file_length: u64) -> io::Result<Vec<u8>> {
        let mut part = vec![0; PART];
        let begin = number * PART as u64;
        let held = file_length.saturating_sub(begin).min(PART as u64) as usize;
        if let Some(file) = self.file.as_ref().filter(|_| held > 0) {
            DiskFile::read(file, begin, &mut part[..held])?;
        }
        Ok(part)
    }
}

/// Calls `each` with the number of each part, and with the range in the part and in the buffer.
fn for_each_part(
    at: u64,
    length: usize,
    mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        let place = at + done as u64;
        let from = (place % PART as u64) as usize;
        let count = (PART - from).min(length - done);
        each(place / PART as u64, from..from + count, done..done + count)?;
        done += count;
    }
    Ok(())
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().length)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if at + out.len() as u64 > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for_each_part(at, out.len(), |number, inner, outer| {
            if let Some(part) = written.parts.get(&number) {
                out[outer].copy_from_slice(&part[inner]);
            } else {
                let part = self.load(number, written.file_length)?;
                out[outer].copy_from_slice(&part[inner]);
            }
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written();
        written.length = length;
        written.file_length = written.file_length.min(length);
        let boundary = length / PART as u64;
        written.parts.split_off(&(boundary + 1));
        if let Some(part) = written.parts.get_mut(&boundary) {
            part[(length % PART as u64) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let end = at + data.len() as u64;
        written.length = written.length.max(end);
        let file_length = written.file_length;
        for_each_part(at, data.len(), |number, inner, outer| {
            let part = match written.parts.entry(number) {
                std::collections::btree_map::Entry::Occupied(part) => part.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(self.load(number, file_length)?)
                }
            };
            part[inner].copy_from_slice(&data[outer]);
            Ok(())
        })
    }
}

/// A directory of segments that are only read.
#[derive(Debug)]
pub(super) struct ReadOnlyDirectory(pub(super) PathBuf);

#[derive(Debug)]
struct ReadOnlyFile(File);

fn read_only() -> io::Error {
    let why = "the log was opened to be read";
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, why)
}

impl Disk for ReadOnlyDirectory {
    fn names(&self) -> io::Result<Vec<String>> {
        Directory(self.0.clone()).names()
    }

    fn create(&self, _name: &str, _length: u64, _head: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
        Err(read_only())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = private().read(true).open(self.0.join(name))?;
        Ok(Arc::new(ReadOnlyFile(file)))
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

impl DiskFile for ReadOnlyFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(at, out)
    }

    fn write(&self, _at: u64, _data: &[u8]) -> io::Result<()> {
        // Opening cuts the rest of an interrupted commit, which no reader looks at.
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn linked_length(&self) -> io::Result<Option<u64>> {
        self.0.linked_length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_parts_cover_the_file_and_leave_it_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 10_000]).unwrap();
        let overlay = Overlay::new(Some(file.reopen().unwrap())).unwrap();
        let content = || {
            let mut content = vec![0; overlay.len().unwrap() as usize];
            overlay.read(0, &mut content).unwrap();
            content
        };
        assert_eq!(content(), [7; 10_000]);
        overlay.write(4_000, &[1; 200]).unwrap();
        overlay.write(9_990, &[2; 20]).unwrap();
        let mut expected = vec![7; 10_010];
        expected[4_000..4_200].fill(1);
        expected[9_990..].fill(2);
        assert_eq!(content(), expected);
        // What was cut off does not come back, neither from the file nor from memory.
        overlay.set_len(4_100).unwrap();
        overlay.set_len(9_000).unwrap();
        expected.truncate(4_100);
        expected.resize(9_000, 0);
        assert_eq!(content(), expected);
        assert!(overlay.read(8_999, &mut [0; 2]).is_err());
        assert_eq!(std::fs::read(file.path()).unwrap(), [7; 10_000]);
    }
}
