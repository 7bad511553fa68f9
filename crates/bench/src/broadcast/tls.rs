//! The cost of TLS for the shipped server, beside the same server without: CPU time per delivery and per
//! connection, and the resident memory of idle connections.

use anyhow::{Context as _, Result, ensure};
use rustls::HandshakeKind;
use steadfast_bench::{
    figure::Figures,
    measure::{load_average, median},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{BURSTS, CASES, Loaded, PAIRS, SETTLE, compare, load::TIMEOUT, memory};
use crate::target::{Endpoint, HOST, Target, load_runtime};

/// The goal: the CPU time per delivery, of that without TLS.
const PER_DELIVERY: f64 = 1.3;

/// Connections that are opened one after another and measured together.
const CONNECTIONS: u32 = 200;

/// The least that a client of HTTP/2 begins with: the preface and a frame SETTINGS without settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What a connection begins with.
#[derive(Clone, Copy)]
enum Opening {
    Plaintext,
    FullHandshake,
    ResumedHandshake,
}

pub(crate) fn run() -> Result<Figures> {
    load_runtime()?.block_on(async {
        let mut figures = Figures::new();
        measure_deliveries(&mut figures).await?;
        measure_handshakes(&mut figures).await?;
        measure_memory(&mut figures).await?;
        figures.put("tls_load_average", "tasks", load_average()?);
        Ok(figures)
    })
}

async fn measure_deliveries(figures: &mut Figures) -> Result<()> {
    let case = &CASES[0];
    let mut tls = Loaded::start(Target::product_with_tls()?, case).await?;
    let mut plaintext = Loaded::start(Target::product()?, case).await?;
    for (burst, bursts) in BURSTS {
        let mut taken = Vec::new();
        for pair in 0..=PAIRS {
            let with = tls.measure(case, burst, bursts).await?;
            let without = plaintext.measure(case, burst, bursts).await?;
            // The first round is a warm-up.
            if pair > 0 {
                taken.push((with.delivery, without.delivery));
            }
        }
        let name = format!("tls_{}_burst_{burst:02}", case.name);
        let factor = median(taken.iter().map(|(with, without)| with / without));
        figures.put_less(format!("{name}_factor"), "of plain", factor, PER_DELIVERY);
        compare(format!("{name}_and_plaintext"), taken.into_iter(), figures);
    }
    Ok(())
}

/// Measures connections that end after the handshakes of TLS and HTTP/2.
async fn measure_handshakes(figures: &mut Figures) -> Result<()> {
    let (tls, plaintext) = (Target::product_with_tls()?, Target::product()?);
    let (mut full, mut resumed) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let least = open(&plaintext, Opening::Plaintext).await?;
        let whole = open(&tls, Opening::FullHandshake).await?;
        let short = open(&tls, Opening::ResumedHandshake).await?;
        if pair > 0 {
            full.push((whole, least));
            resumed.push((short, least));
        }
    }
    for (name, taken) in [("full", full), ("resumed", resumed)] {
        let each = median(taken.iter().map(|(with, _)| *with));
        // Of whole connections: the accept and the end are part of it.
        figures.put(format!("tls_{name}_handshakes_per_core"), "/s", 1e9 / each);
        let name = format!("tls_connection_with_{name}_handshake_and_plaintext");
        compare(name, taken.into_iter(), figures);
    }
    Ok(())
}

/// Returns the CPU time of the server per connection in nanoseconds.
async fn open(server: &Target, opening: Opening) -> Result<f64> {
    let remembering = server.endpoint()?;
    if matches!(opening, Opening::ResumedHandshake) {
        // The session that the others resume.
        open_one(&remembering, Opening::FullHandshake).await?;
    }
    let before = server.cpu_time()?;
    for _ in 0..CONNECTIONS {
        let opened = match opening {
            // New settings remember no session.
            Opening::FullHandshake => open_one(&server.endpoint()?, opening).await,
            Opening::Plaintext | Opening::ResumedHandshake => open_one(&remembering, opening).await,
        };
        opened?;
    }
    sleep(SETTLE).await;
    let spent = server.cpu_time()?.delivery - before.delivery;
    Ok(spent / f64::from(CONNECTIONS) * 1e9)
}

async fn open_one(server: &Endpoint, opening: Opening) -> Result<()> {
    let opened = async {
        let socket = TcpStream::connect(server.address).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = &server.tls else {
            return exchange_settings(socket).await;
        };
        let stream = tls.connect(HOST, socket).await?;
        let kind = stream.get_ref().1.handshake_kind();
        let is_resumed = kind == Some(HandshakeKind::Resumed);
        let wanted = matches!(opening, Opening::ResumedHandshake);
        ensure!(is_resumed == wanted, "a handshake was {kind:?}");
        exchange_settings(stream).await
    };
    let opened = timeout(TIMEOUT, opened).await;
    opened.context("the server does not begin to speak")?
}

/// Waits for the settings of the server. What it tells about resuming sessions arrives before.
async fn exchange_settings(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    stream.write_all(PREFACE).await?;
    stream.flush().await?;
    stream.read_exact(&mut [0; 9]).await?;
    Ok(stream.shutdown().await?)
}

async fn measure_memory(figures: &mut Figures) -> Result<()> {
    let with = per_idle_connection(&Target::product_with_tls()?).await?;
    let without = per_idle_connection(&Target::product()?).await?;
    figures.put_less("tls_resident_per_idle_connection", "bytes", with, without);
    Ok(())
}

/// Returns the resident bytes of a connection with a stream and a subscription.
async fn per_idle_connection(server: &Target) -> Result<f64> {
    // One connection first: a server allocates something once.
    let _first = memory::connect(server, 1, 1).await?;
    let start = server.resident()?;
    let _clients = memory::connect(server, memory::CONNECTIONS, 1).await?;
    Ok((server.resident()? - start) / memory::CONNECTIONS as f64)
}
