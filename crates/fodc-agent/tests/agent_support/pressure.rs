//! A process under memory pressure, and its profiles.

use std::{path::Path, sync::Arc};

use steadfast_fodc_agent::PressureProfiler;

use super::exporter::{Exporter, respond};

/// Serves a page on which a process uses this share of its memory.
pub(crate) fn memory_page(rss: u64) -> Exporter {
    Exporter::page(format!(
        "process_resident_memory_bytes {rss}\n\
         banyandb_memory_protector_cgroup_limit_bytes 1000\n"
    ))
}

/// Serves profiles of three mebibytes, or a status.
pub(crate) fn pprof(status: &'static str) -> Exporter {
    Exporter::new(Arc::new(move |request, stream| {
        let byte = if request.head.starts_with("GET /debug/pprof/heap ") {
            b'h'
        } else {
            assert!(
                request
                    .head
                    .starts_with("GET /debug/pprof/goroutine?debug=0 ")
            );
            b'g'
        };
        respond(stream, status, "", &vec![byte; 3 << 20])
    }))
}

pub(crate) fn profiler(pprof: &Exporter, directory: &Path) -> PressureProfiler {
    let mut profiler = PressureProfiler::new(pprof.address().port());
    directory.clone_into(&mut profiler.directory);
    profiler
}
