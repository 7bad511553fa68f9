//! The kinds of streams on which agents report crashes, profiles and schemas.

use std::time::Duration;

use steadfast_wire::fodc::{
    stream_pressure_profiles_request::Payload, stream_pressure_profiles_response::Command,
};

use super::{Crashes, LaneKind, Lanes, Part, Profiles, SchemaRegistry, Wire};

impl LaneKind for Crashes {
    // A crash is the same whichever query asked for it.
    const OWED_FOR: Duration = Duration::ZERO;

    fn place(_: &Self::Query, message: &Self::Response) -> Part {
        if message.complete {
            Part::Last
        } else {
            Part::More
        }
    }

    fn wire(lanes: &mut Lanes) -> &mut Wire<Self> {
        &mut lanes.crashes
    }
}

impl LaneKind for Profiles {
    // Ids tell late messages from those of the next query, all but records, which say the same.
    const OWED_FOR: Duration = Duration::ZERO;

    fn place(query: &Self::Query, message: &Self::Response) -> Part {
        match (&query.command, &message.payload) {
            (Some(Command::ListProfiles(_)), Some(Payload::Record(_))) => Part::More,
            (Some(Command::ListProfiles(list)), Some(Payload::ListComplete(end)))
                if end.request_id == list.request_id =>
            {
                Part::Last
            }
            (Some(Command::FetchProfile(fetch)), Some(Payload::Chunk(chunk)))
                if chunk.request_id == fetch.request_id =>
            {
                if chunk.last {
                    Part::Last
                } else {
                    Part::More
                }
            }
            _ => Part::Foreign,
        }
    }

    fn wire(lanes: &mut Lanes) -> &mut Wire<Self> {
        &mut lanes.profiles
    }
}

impl LaneKind for SchemaRegistry {
    // Chunks have no id: those of an abandoned response must not become part of the next one.
    const OWED_FOR: Duration = Duration::from_secs(60);

    fn place(_: &Self::Query, message: &Self::Response) -> Part {
        if message.done { Part::Last } else { Part::More }
    }

    fn wire(lanes: &mut Lanes) -> &mut Wire<Self> {
        &mut lanes.schema
    }
}

#[cfg(test)]
mod tests {
    use steadfast_wire::fodc::{
        FetchPressureProfile, ListComplete, ListProfiles, PressureProfileChunk,
        PressureProfileRecord, StreamPressureProfilesRequest, StreamPressureProfilesResponse,
    };

    use super::*;

    #[test]
    fn profile_messages_belong_to_the_query_with_their_id() {
        let list = Command::ListProfiles(ListProfiles {
            request_id: "1".to_owned(),
        });
        let fetch = Command::FetchProfile(FetchPressureProfile {
            request_id: "1".to_owned(),
            ..Default::default()
        });
        let record = Payload::Record(PressureProfileRecord::default());
        let complete = |id: &str| {
            Payload::ListComplete(ListComplete {
                request_id: id.to_owned(),
            })
        };
        let chunk = |id: &str, last| {
            Payload::Chunk(PressureProfileChunk {
                request_id: id.to_owned(),
                last,
                ..Default::default()
            })
        };
        for (command, payload, part) in [
            (Some(&list), Some(record.clone()), Part::More),
            (Some(&list), Some(complete("1")), Part::Last),
            (Some(&list), Some(complete("0")), Part::Foreign),
            (Some(&list), Some(chunk("1", true)), Part::Foreign),
            (Some(&fetch), Some(chunk("1", false)), Part::More),
            (Some(&fetch), Some(chunk("1", true)), Part::Last),
            (Some(&fetch), Some(chunk("0", true)), Part::Foreign),
            (Some(&fetch), Some(record), Part::Foreign),
            (Some(&fetch), Some(complete("1")), Part::Foreign),
            (Some(&list), None, Part::Foreign),
            (None, Some(complete("")), Part::Foreign),
        ] {
            let query = StreamPressureProfilesResponse {
                command: command.cloned(),
            };
            let message = StreamPressureProfilesRequest { payload };
            assert_eq!(
                Profiles::place(&query, &message),
                part,
                "{query:?} {message:?}"
            );
        }
    }
}
