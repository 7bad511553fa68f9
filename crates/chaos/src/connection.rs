//! One proxied connection: two sockets, two pumps, one end.

use std::{net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use crate::{
    conditions::{Conditions, Cut},
    fault::Direction,
    pump::{Pump, PumpEnd},
    stats::Meter,
};

/// The longest wait for the upstream to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for the peers to close after an orderly end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open connection, as the registry sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    conditions: watch::Sender<Conditions>,
    pub(crate) to_server: Meter,
    pub(crate) to_client: Meter,
}

impl Connection {
    pub(crate) fn new(number: u64, conditions: Conditions) -> Self {
        Self {
            number,
            conditions: watch::Sender::new(conditions),
            to_server: Meter::default(),
            to_client: Meter::default(),
        }
    }

    /// Changes the conditions. A cut is never cleared.
    pub(crate) fn set(&self, conditions: Conditions, cut: Option<Cut>) {
        self.conditions.send_if_modified(|current| {
            // The first cut wins: a connection ends in one way.
            let cut = current.cut.or(cut).or(conditions.cut);
            let next = Conditions { cut, ..conditions };
            let modified = *current != next;
            *current = next;
            modified
        });
    }

    /// Returns the number of bytes read from one side and not yet passed to the other.
    pub(crate) fn held(&self) -> u64 {
        self.to_server.held() + self.to_client.held()
    }

    /// Copies between an accepted client and the upstream until either side or a fault ends it. Resets
    /// the client if the upstream cannot be reached.
    pub(crate) async fn serve(&self, mut client: TcpStream, upstream: SocketAddr) {
        let dialled = timeout(CONNECT_TIMEOUT, TcpStream::connect(upstream)).await;
        let Ok(Ok(mut server)) = dialled else {
            arm_reset(&client);
            return;
        };
        // Nagle's algorithm would add delays of its own. A failure to disable it costs only those.
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        match self.copy(&mut client, &mut server).await {
            PumpEnd::Finished => {}
            // A close would pass a failure on as an orderly end.
            PumpEnd::Broken | PumpEnd::Cut(Cut::Reset) => {
                arm_reset(&client);
                arm_reset(&server);
            }
            PumpEnd::Cut(Cut::Close) => close(client, server).await,
        }
    }

    /// Runs both directions until both have finished or one has failed.
    async fn copy(&self, client: &mut TcpStream, server: &mut TcpStream) -> PumpEnd {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let pump = |direction, reader, writer, meter| {
            Pump::new(
                direction,
                reader,
                writer,
                self.conditions.subscribe(),
                meter,
            )
            .run()
        };
        let up = pump(
            Direction::ToServer,
            client_read,
            server_write,
            &self.to_server,
        );
        let down = pump(
            Direction::ToClient,
            server_read,
            client_write,
            &self.to_client,
        );
        // An error ends both directions at once; an orderly end leaves the other one open.
        let as_result = |end| match end {
            PumpEnd::Finished => Ok(()),
            PumpEnd::Broken | PumpEnd::Cut(_) => Err(end),
        };
        let both = tokio::try_join!(async { as_result(up.await) }, async {
            as_result(down.await)
        });
        both.err().unwrap_or(PumpEnd::Finished)
    }
}

/// Turns the next close of the socket from an orderly end into a reset.
pub(crate) fn arm_reset(socket: &TcpStream) {
    // Fails only if the socket is dead already.
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
}

/// Ends both sides in order. Closing a socket with unread bytes would reset it, so all bytes that still
/// arrive are discarded until both peers have ended.
async fn close(mut client: TcpStream, mut server: TcpStream) {
    client.shutdown().await.ok();
    server.shutdown().await.ok();
    let drained = async { tokio::join!(drain(&mut client), drain(&mut server)) };
    timeout(CLOSE_TIMEOUT, drained).await.ok();
}

async fn drain(socket: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(socket.read(&mut buffer).await, Ok(count) if count > 0) {}
}
