//! A client of the subprotocol `steadfast.v1`.

use std::{collections::VecDeque, net::SocketAddr};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{Client, soon};

/// A socket, and the messages of the frames that were received.
pub struct V1 {
    pub client: Client,
    pub welcome: Value,
    received: VecDeque<Value>,
}

impl V1 {
    /// Connects and is welcomed.
    pub async fn open(gateway: SocketAddr) -> Self {
        let tcp = TcpStream::connect(gateway).await.unwrap();
        let mut request = format!("ws://{gateway}/realtime/ws")
            .into_client_request()
            .unwrap();
        let protocol = "steadfast.v1".parse().unwrap();
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", protocol);
        let (socket, response) = soon(client_async(request, tcp)).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "steadfast.v1");
        let mut client = Self {
            client: Client(socket),
            welcome: Value::Null,
            received: VecDeque::new(),
        };
        client.welcome = client.next().await;
        assert_eq!(client.welcome["type"], "welcome");
        client
    }

    pub async fn send(&mut self, message: Value) {
        self.client.send(message).await;
    }

    /// Returns the next message, except for progress.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(message) = self.received.pop_front() {
                if message["type"] != "progress" {
                    return message;
                }
                continue;
            }
            match soon(self.client.0.next()).await {
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text).unwrap() {
                    Value::Array(messages) => self.received.extend(messages),
                    message => self.received.push_back(message),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the next item.
    pub async fn next_item(&mut self) -> Value {
        let message = self.next().await;
        assert!(message.get("sub").is_some(), "{message} is no item");
        message
    }
}
