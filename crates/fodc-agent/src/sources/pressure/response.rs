//! Responses to the proxy's queries for profiles.

use std::{
    fs::File,
    io::{self, Read as _},
    iter,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use steadfast_wire::fodc::{
    FetchPressureProfile, ListComplete, ListProfiles, PressureProfileChunk,
    StreamPressureProfilesRequest, StreamPressureProfilesResponse,
    stream_pressure_profiles_request::Payload, stream_pressure_profiles_response::Command,
};

use super::store::{PathRefused, ProfileStore};
use crate::{
    sources::send_all,
    uplink::source::{self, Responses, Source},
};

/// The messages of one response. Each `next` blocks on the disk.
type Messages = Box<dyn Iterator<Item = StreamPressureProfilesRequest> + Send>;

/// The data of one chunk, as from the original. Every proxy accepts messages of 4 MiB.
const CHUNK_BYTES: u64 = 1 << 20;

impl Source<source::Profiles> for ProfileStore {
    fn respond(
        &self,
        query: StreamPressureProfilesResponse,
        responses: Responses<source::Profiles>,
    ) -> BoxFuture<'_, ()> {
        let store = self.clone();
        send_all(move || store.messages(query), responses).boxed()
    }
}

impl ProfileStore {
    /// Returns the response to a query, which to an unknown command is empty.
    fn messages(&self, query: StreamPressureProfilesResponse) -> Messages {
        match query.command {
            Some(Command::ListProfiles(query)) => self.list_messages(query),
            Some(Command::FetchProfile(query)) => self.fetch_messages(query),
            None => Box::new(iter::empty()),
        }
    }

    fn list_messages(&self, ListProfiles { request_id }: ListProfiles) -> Messages {
        let records = self.list().into_iter().map(Payload::Record);
        let complete = Payload::ListComplete(ListComplete { request_id });
        Box::new(records.chain([complete]).map(message))
    }

    fn fetch_messages(&self, query: FetchPressureProfile) -> Messages {
        let opened = if query.filepath.is_empty() {
            self.open(&format!("{}/{}.pprof", query.profile_id, query.r#type))
        } else {
            self.open(&query.filepath)
        };
        let first = opened.and_then(|file| {
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        });
        let mut reading = Some(first);
        // The state is taken with the last chunk, so that nothing follows it.
        Box::new(iter::from_fn(move || {
            let chunk = read_chunk(reading.take()?, &mut reading);
            Some(message(Payload::Chunk(PressureProfileChunk {
                request_id: query.request_id.clone(),
                profile_id: query.profile_id.clone(),
                r#type: query.r#type.clone(),
                ..chunk
            })))
        }))
    }
}

/// A file that is being sent, with the bytes that are left of it.
type Reading = Result<(File, u64), PathRefused>;

/// Returns the next chunk. Unless it is the last one, the rest is put back into `rest`.
fn read_chunk(reading: Reading, rest: &mut Option<Reading>) -> PressureProfileChunk {
    let read = reading.and_then(|(mut file, left)| {
        let mut data = Vec::new();
        let wanted = left.min(CHUNK_BYTES);
        file.by_ref().take(wanted).read_to_end(&mut data)?;
        if data.len() as u64 != wanted {
            return Err(io::Error::other("the file became shorter").into());
        }
        Ok((data, file, left - wanted))
    });
    match read {
        // The last chunk is empty: the original ends every download like that.
        Ok((data, _, _)) if data.is_empty() => PressureProfileChunk {
            last: true,
            ..Default::default()
        },
        Ok((data, file, left)) => {
            *rest = Some(Ok((file, left)));
            PressureProfileChunk {
                data: data.into(),
                ..Default::default()
            }
        }
        Err(error) => PressureProfileChunk {
            last: true,
            error: error.to_string(),
            ..Default::default()
        },
    }
}

fn message(payload: Payload) -> StreamPressureProfilesRequest {
    StreamPressureProfilesRequest {
        payload: Some(payload),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::pressure::{PressureProfiler, store::Meta};

    fn store(directory: &std::path::Path, size: usize) -> (ProfileStore, String) {
        let mut settings = PressureProfiler::new(6060);
        settings.directory = directory.to_owned();
        let store = ProfileStore::new(&settings);
        let meta = Meta {
            profile_id: "20260301T080000.000000000Z".to_owned(),
            captured_at: jiff::Timestamp::UNIX_EPOCH,
            source_endpoint: String::new(),
            rss_bytes: 9,
            cgroup_limit_bytes: 10,
            trigger_percent: 75,
            threshold_bytes: 7,
        };
        let folder = store.begin(&meta.profile_id).unwrap();
        let contents: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        fs::write(folder.join("heap.pprof"), contents).unwrap();
        store.commit(&meta).unwrap();
        (store, folder.join("heap.pprof").display().to_string())
    }

    fn chunks(store: &ProfileStore, filepath: &str) -> Vec<PressureProfileChunk> {
        let messages = store.messages(StreamPressureProfilesResponse {
            command: Some(Command::FetchProfile(FetchPressureProfile {
                request_id: "r".to_owned(),
                profile_id: "20260301T080000.000000000Z".to_owned(),
                r#type: "heap".to_owned(),
                filepath: filepath.to_owned(),
            })),
        });
        let chunks = messages.map(|message| match message.payload {
            Some(Payload::Chunk(chunk)) => chunk,
            other => panic!("{other:?}"),
        });
        chunks.collect()
    }

    #[test]
    fn list_ends_with_its_request_id() {
        let temp = tempfile::tempdir().unwrap();
        let (store, _) = store(temp.path(), 1);
        let list = |request_id: &str| {
            let list = ListProfiles {
                request_id: request_id.to_owned(),
            };
            let command = Some(Command::ListProfiles(list));
            let response = store.messages(StreamPressureProfilesResponse { command });
            response
                .map(|message| message.payload.unwrap())
                .collect::<Vec<_>>()
        };
        let [Payload::Record(record), Payload::ListComplete(complete)] = &list("7")[..] else {
            panic!("{:?}", list("7"));
        };
        assert_eq!((record.rss_bytes, &*complete.request_id), (9, "7"));
        fs::remove_dir_all(temp.path()).unwrap();
        assert_eq!(list("8").len(), 1);
        let unknown = StreamPressureProfilesResponse { command: None };
        assert_eq!(store.messages(unknown).count(), 0);
    }

    #[test]
    fn download_is_chunks_of_a_mebibyte_and_an_empty_last_one() {
        const MIB: usize = 1 << 20;
        for (size, lengths) in [
            (0, vec![0]),
            (5, vec![5, 0]),
            (MIB, vec![MIB, 0]),
            (2 * MIB + 1, vec![MIB, MIB, 1, 0]),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let (store, filepath) = store(temp.path(), size);
            // A path is optional: id and type say the same.
            for path in [&*filepath, ""] {
                let chunks = chunks(&store, path);
                let seen: Vec<_> = chunks.iter().map(|chunk| chunk.data.len()).collect();
                assert_eq!(seen, lengths);
                let last: Vec<_> = chunks.iter().map(|chunk| chunk.last).collect();
                let end = last.len() - 1;
                assert!(last[end] && !last[..end].contains(&true), "{last:?}");
                assert!(
                    chunks
                        .iter()
                        .all(|chunk| chunk.request_id == "r" && chunk.error.is_empty())
                );
                let sent: Vec<_> = chunks
                    .iter()
                    .flat_map(|chunk| chunk.data.to_vec())
                    .collect();
                assert_eq!(sent, fs::read(&filepath).unwrap());
            }
        }
    }

    #[test]
    fn refused_or_shortened_file_is_an_error_chunk() {
        let temp = tempfile::tempdir().unwrap();
        let (store, filepath) = store(temp.path(), 3 << 20);
        for (path, text) in [
            ("../../etc/passwd", "escapes pressure-profiler dir"),
            (
                "20260301T080000.000000000Z/goroutine.pprof",
                "no such profile",
            ),
        ] {
            let chunks = chunks(&store, path);
            assert_eq!(chunks.len(), 1);
            assert!(
                chunks[0].last && chunks[0].error.contains(text),
                "{chunks:?}"
            );
        }
        let query = FetchPressureProfile {
            filepath: filepath.clone(),
            ..Default::default()
        };
        let mut messages = store.fetch_messages(query);
        messages.next().unwrap();
        let file = File::options().write(true).open(&filepath).unwrap();
        file.set_len(1 << 20).unwrap();
        let Some(Payload::Chunk(chunk)) = messages.next().unwrap().payload else {
            panic!("a chunk is expected");
        };
        assert!(
            chunk.last && chunk.error.contains("shorter"),
            "{}",
            chunk.error
        );
        assert!(messages.next().is_none());
    }
}
