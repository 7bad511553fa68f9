//! The measured servers.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use steadfast_bench::{
    child::{Child, wait_for_end},
    measure::memory_mib,
};
use steadfast_streamer::{
    log::{DocumentKey, Log, MemoryLog, SegmentLog, StoreOptions, Submission},
    server::{Server, ServerOptions},
};
use tokio::{net::TcpListener, runtime};

use super::{COLLECTION, DATABASE, EPOCH, data, raw};

/// The number of documents that the events change, unless a log is written with another.
pub(crate) const DOCUMENTS: u64 = 1_000;

/// The number of events in one commit.
const BATCH: u64 = 1_000;

/// The kind of server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    /// Ours, with a log in memory.
    Memory,
    /// Ours, with a log in this directory.
    Disk(&'a Path),
    /// Tonic alone.
    Raw,
}

/// Serves until the parent ends the process. The arguments are the kind, the address, the number of
/// events, and the directory of the log.
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    let [kind, address, events, directory] = arguments else {
        bail!("four arguments are needed, not {arguments:?}");
    };
    let (address, events): (SocketAddr, u64) = (address.parse()?, events.parse()?);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // `Server::start` spawns its tasks from this thread, which is none of the runtime's.
    let _context = runtime.enter();
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let address = listener.local_addr()?.to_string();
    if kind == "raw" {
        runtime.spawn(raw::serve(listener, events));
        return wait_for_end(&address);
    }
    let mut log: Box<dyn Log> = if kind == "disk" {
        Box::new(SegmentLog::open(directory, &StoreOptions::new(EPOCH))?)
    } else {
        Box::new(MemoryLog::with_epoch(EPOCH))
    };
    fill(&mut *log, events, DOCUMENTS)?;
    let _server = Server::start(listener, log, ServerOptions::default())?;
    wait_for_end(&address)
}

/// Appends events, which change so many documents, until the log has this many.
fn fill(log: &mut dyn Log, events: u64, documents: u64) -> Result<()> {
    let mut head = log.reader().bounds().head;
    while head < events {
        let upto = (head + BATCH).min(events);
        let batch = (head + 1..=upto).map(|offset| submission(offset, documents));
        log.append(batch.collect(), 0)?;
        head = upto;
    }
    Ok(())
}

fn submission(offset: u64, documents: u64) -> Submission {
    let id = format!("order-{:05}", offset % documents);
    let document = DocumentKey::new(DATABASE, COLLECTION, id.as_str());
    Submission::new("bench", offset, document, data(offset))
}

/// Writes a log on disk whose events change so many documents, and returns the seconds that it takes to read
/// all of them.
pub(crate) fn log_events(directory: &Path, events: u64, documents: u64) -> Result<f64> {
    let mut log = SegmentLog::open(directory, &StoreOptions::new(EPOCH))?;
    fill(&mut log, events, documents)?;
    let reader = log.reader();
    let began = std::time::Instant::now();
    let mut after = 0;
    while after < events {
        let page = reader.read(after, 1_000, 1 << 20)?;
        after = page.last().context("the log ends early")?.offset;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The parent's handle of a server.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts a server with this many events, on a port of its choice if the port is 0.
    pub(crate) fn start(kind: Kind<'_>, address: SocketAddr, events: u64) -> Result<Self> {
        let (name, directory) = match kind {
            Kind::Memory => ("memory", Path::new("")),
            Kind::Disk(directory) => ("disk", directory),
            Kind::Raw => ("raw", Path::new("")),
        };
        let directory = directory.to_str().context("a directory that is no text")?;
        let (address, events) = (address.to_string(), events.to_string());
        let arguments = ["streamer-process", "--", name, &address, &events, directory];
        let child = Child::start_own(arguments)?;
        let address = child.ready_line().parse().context("no address")?;
        Ok(Self { child, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.child.cpu_seconds()
    }

    /// Returns a field of its memory in MiB, as [`memory_mib`] does.
    pub(crate) fn memory_mib(&self, field: &str) -> Result<f64> {
        memory_mib(self.child.id(), field)
    }

    /// Returns how often its threads have waited for something: each time one had to be woken.
    pub(crate) fn waits(&self) -> Result<u64> {
        let mut waits = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let count: u64 = count.context("no count of waits")?.trim().parse()?;
            waits += count;
        }
        Ok(waits)
    }

    pub(crate) fn kill(self) -> Result<()> {
        self.child.kill()
    }
}
