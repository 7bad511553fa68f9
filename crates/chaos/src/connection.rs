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
    conditions::{Conditions, Cut, Direction},
    pump::{Meter, Pump, PumpEnd},
};

/// How long the upstream may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the peers may take to close after an orderly end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection as the proxy sees it from outside.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) conditions: watch::Sender<Conditions>,
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

    /// Sets what holds; a cut once set stays, also when `cut` is `None`.
    pub(crate) fn set(&self, conditions: Conditions, cut: Option<Cut>) {
        self.conditions.send_if_modified(|current| {
            let cut = current.cut.or(cut).or(conditions.cut);
            let next = Conditions { cut, ..conditions };
            let modified = *current != next;
            *current = next;
            modified
        });
    }

    /// Serves an accepted client until either side or a fault ends it. A client whose upstream does
    /// not answer is reset.
    pub(crate) async fn serve(&self, mut client: TcpStream, upstream: SocketAddr) {
        let dialled = timeout(CONNECT_TIMEOUT, TcpStream::connect(upstream)).await;
        let Ok(Ok(mut server)) = dialled else {
            arm_reset(&client);
            return;
        };
        // Without delay, so that the proxy adds no waiting of its own; a failure costs only that.
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        match self.copy(&mut client, &mut server).await {
            PumpEnd::Finished => {}
            PumpEnd::Broken | PumpEnd::Cut(Cut::Reset) => {
                arm_reset(&client);
                arm_reset(&server);
            }
            PumpEnd::Cut(Cut::Close) => close(client, server).await,
        }
    }

    /// Runs both directions until both have finished or one has not ended well.
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

/// Makes the coming close of the socket a reset instead of an orderly end.
pub(crate) fn arm_reset(socket: &TcpStream) {
    // Fails only when the socket is dead already, and then there is nobody to reset.
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
}

/// Ends both sides in order. Closing a socket with unread bytes would be a reset, so what still comes
/// is read and thrown away until both peers have ended.
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
