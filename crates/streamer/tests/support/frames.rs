//! A plain peer on HTTP/2 frames. It sends each message in a DATA frame of its own, as a Go peer
//! does. It reads, and gives back the flow control window, only when the test calls
//! [`Frames::next`].

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use prost::Message as _;
use steadfast_wire::streamer::{
    GatewayMessage, StreamerMessage, gateway_message::Payload as Request,
    streamer_message::Payload as Response,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::Status;

use super::soon;

pub struct Frames {
    requests: SendStream<Bytes>,
    body: RecvStream,
    read: BytesMut,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Frames {
    pub async fn open(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self::over(socket, server).await.unwrap()
    }

    /// Opens a stream on a connection, and returns its status if the server refuses it.
    pub async fn over(
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        server: SocketAddr,
    ) -> Result<Self, Status> {
        let handshake = client::Builder::new()
            .initial_window_size(64 << 10)
            .initial_connection_window_size(8 << 20)
            .handshake::<_, Bytes>(socket);
        let (client, connection) = soon(handshake).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut client = soon(client.ready()).await.unwrap();
        let request = http::Request::post(format!(
            "http://{server}/syntrix.streamer.v1.StreamerService/Stream"
        ));
        let request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (response, requests) = client
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let (head, body) = soon(response).await.unwrap().into_parts();
        match Status::from_header_map(&head.headers) {
            Some(refused) => Err(refused),
            None => Ok(Self {
                requests,
                body,
                read: BytesMut::new(),
                connection,
            }),
        }
    }

    /// Queues a message as one frame.
    pub fn send(&mut self, payload: Request) {
        let payload = Some(payload);
        let message = GatewayMessage { payload }.encode_to_vec();
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap());
        frame.put_slice(&message);
        self.requests.send_data(frame.freeze(), false).unwrap();
    }

    /// Reads the next message.
    pub async fn next(&mut self) -> Response {
        loop {
            if self.read.len() >= 5 {
                let length = u32::from_be_bytes(self.read[1..5].try_into().unwrap());
                let end = 5 + usize::try_from(length).unwrap();
                if self.read.len() >= end {
                    let message = self.read.split_to(end).split_off(5);
                    let message = StreamerMessage::decode(message).unwrap();
                    return message.payload.expect("a payload");
                }
            }
            let data = soon(self.body.data()).await;
            let data = data.expect("the stream goes on").unwrap();
            let flow = self.body.flow_control();
            flow.release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
    }

    /// Reads to the end of the stream, and returns its status.
    pub async fn end(mut self) -> Status {
        while let Some(data) = soon(self.body.data()).await {
            let length = data.unwrap().len();
            self.body.flow_control().release_capacity(length).unwrap();
        }
        let trailers = soon(self.body.trailers()).await.unwrap().unwrap();
        Status::from_header_map(&trailers).unwrap()
    }

    pub fn is_connected(&self) -> bool {
        !self.connection.is_finished()
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
