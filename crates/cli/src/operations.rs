//! The pages of a server's listener for operations, as commands read them.

use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Bytes;
use steadfast::{CallCredentials, dial::Dialer};
use steadfast_gateway::Status;
use steadfast_streamer::server::operations::Report;

use crate::{
    clients::{ServerAddress, TlsArgs},
    credentials::CredentialArgs,
    http,
    settings::{Given, Setting, Settings},
};

const HELP: &str = "Address of the server's listener for operations. One on another machine is reached \
                    through the proxy of HTTPS_PROXY or ALL_PROXY, unless NO_PROXY has it or --direct is \
                    given [default: 127.0.0.1:9080]";

/// Arguments of the commands that read the status of a server.
#[derive(clap::Args)]
pub(crate) struct OperationsArgs {
    #[arg(long, env, help = HELP, value_name = "HOST:PORT")]
    operations: Option<Given<HttpAddress>>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// The address of a listener for pages: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpAddress(String);

/// The address of a listener for pages, or `off` for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpAddressOrOff(pub(crate) Option<HttpAddress>);

impl Setting for HttpAddressOrOff {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        HttpAddress::from_text(text).map(|address| Self(Some(address)))
    }
}

impl Setting for HttpAddress {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Err(
                "off is for a server, and one without this listener has no figures to read; write \
                 its HOST:PORT, like 127.0.0.1:9080"
                    .to_owned(),
            );
        }
        let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        match parts.map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(_)) if text.parse::<Dialer>().is_ok() => Ok(Self(text.to_owned())),
            Some(_) | None if text.matches(':').nth(1).is_some() => Err(format!(
                "{text:?} is not an address; write HOST:PORT, an IPv6 address in brackets, like \
                 [::1]:9080"
            )),
            Some(_) | None => Err(format!(
                "{text:?} is not an address; write HOST:PORT, like 127.0.0.1:9080"
            )),
        }
    }
}

/// A listener for operations, and the credentials for it.
pub(crate) struct Operations {
    pub(crate) address: String,
    dialer: Dialer,
    credentials: CallCredentials,
}

impl OperationsArgs {
    pub(crate) fn resolve(self, settings: &mut Settings) -> Operations {
        let here = HttpAddress("127.0.0.1:9080".to_owned());
        let address = settings.get_or(self.operations, here);
        let credentials = self.credentials.into_credentials(settings);
        Operations::new(address, "operations", self.tls, credentials, settings)
    }

    /// Returns the gateway at this address in place of the listener for operations.
    pub(crate) fn resolve_gateway(
        self,
        gateway: HttpAddress,
        settings: &mut Settings,
    ) -> Operations {
        let credentials = self.credentials.into_credentials(settings);
        Operations::new(gateway, "gateway", self.tls, credentials, settings)
    }
}

impl Operations {
    /// Returns the way to an address, which the setting `id` has.
    pub(crate) fn new(
        HttpAddress(address): HttpAddress,
        id: &str,
        tls: TlsArgs,
        credentials: CallCredentials,
        settings: &mut Settings,
    ) -> Self {
        let server = ServerAddress::local(&address);
        let dialer = tls.apply(server, b"http/1.1", id, &credentials, settings);
        Self {
            address,
            dialer,
            credentials,
        }
    }

    /// Returns the figures of a gateway.
    pub(crate) async fn gateway_status(&self, limit: Duration) -> anyhow::Result<Status> {
        let address = &self.address;
        let body = http::fetch(&self.dialer, address, "/v1/status", &self.credentials, limit)
            .await
            .with_context(|| {
                format!(
                    "cannot read the status; {address} must be a gateway (--gateway); if it has a \
                     policy (--access), the status needs the token of an administrator (--token-file)"
                )
            })?;
        serde_json::from_slice(&body)
            .with_context(|| format!("{address}/v1/status is not the status of a gateway"))
    }

    /// Returns the status as the server sent it, and its content.
    pub(crate) async fn status(&self, limit: Duration) -> anyhow::Result<(Bytes, Report)> {
        let address = &self.address;
        let body = http::fetch(&self.dialer, address, "/status", &self.credentials, limit)
            .await
            .with_context(|| {
                format!(
                    "cannot read the status; {address} must be the listener for operations \
                     (--operations) of a server that has opened its log; if it has a policy \
                     (--access), the status needs the token of an administrator (--token-file)"
                )
            })?;
        let report = serde_json::from_slice(&body)
            .with_context(|| format!("{address}/status is not the status of a server"))?;
        Ok((body, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_without_its_brackets_says_so() {
        for text in ["::1:9080", "::1", "fe80::1:2:9080"] {
            let fault = HttpAddress::from_text(text).err().unwrap();
            assert!(fault.contains("an IPv6 address in brackets"), "{fault}");
        }
        assert!(HttpAddress::from_text("[::1]:9080").is_ok());
        let fault = HttpAddress::from_text("localhost").err().unwrap();
        assert!(
            fault.ends_with("write HOST:PORT, like 127.0.0.1:9080"),
            "{fault}"
        );
    }
}
