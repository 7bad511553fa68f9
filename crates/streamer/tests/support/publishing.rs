//! A publisher's stream, message by message.

use std::net::SocketAddr;

use steadfast_wire::publisher::{
    Authenticate, Entry, PublishRequest, PublishResponse, PublisherHello,
    publish_request::Payload as Request, publish_response::Payload as Response,
    publisher_service_client::PublisherServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::{DATABASE, channel, soon};

pub struct Publishing {
    requests: mpsc::UnboundedSender<PublishRequest>,
    responses: Streaming<PublishResponse>,
    /// The newest sequence.
    pub last: u64,
    pub expires_in_ms: u64,
}

impl Publishing {
    /// Opens a stream and waits for its welcome.
    pub async fn open(
        server: SocketAddr,
        authorization: &str,
        producer: &str,
    ) -> Result<Self, Status> {
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut call = tonic::Request::new(UnboundedReceiverStream::new(outbound));
        call.metadata_mut()
            .insert("authorization", authorization.parse().unwrap());
        let mut client = PublisherServiceClient::new(channel(server).await);
        let responses = soon(client.publish(call)).await?.into_inner();
        let mut publishing = Self {
            requests,
            responses,
            last: 0,
            expires_in_ms: 0,
        };
        publishing.send(Request::Hello(PublisherHello {
            producer_id: producer.to_owned(),
        }));
        match publishing.next().await? {
            Response::Welcome(welcome) => {
                publishing.last = welcome.last_sequence;
                publishing.expires_in_ms = welcome.expires_in_ms;
            }
            other => panic!("{other:?}"),
        }
        Ok(publishing)
    }

    fn send(&self, payload: Request) {
        let payload = Some(payload);
        self.requests.send(PublishRequest { payload }).ok();
    }

    pub async fn next(&mut self) -> Result<Response, Status> {
        let response = soon(self.responses.message()).await?;
        Ok(response.expect("a response").payload.unwrap())
    }

    pub fn authenticate(&self, authorization: &str) {
        let authorization = authorization.to_owned();
        self.send(Request::Authenticate(Authenticate { authorization }));
    }

    pub fn enqueue(&mut self, collection: &str, document: &str, data: &str) {
        self.last += 1;
        self.send(Request::Entry(Entry {
            sequence: self.last,
            database: DATABASE.to_owned(),
            collection: collection.to_owned(),
            document_id: document.to_owned(),
            data: data.to_owned().into(),
            ..Entry::default()
        }));
    }

    pub async fn publish(
        &mut self,
        collection: &str,
        document: &str,
        data: &str,
    ) -> Result<(), Status> {
        self.enqueue(collection, document, data);
        match self.next().await? {
            Response::Ack(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }
}
