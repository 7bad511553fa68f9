//! TLS of the listeners of a server.

use std::{net::SocketAddr, time::Duration};

use steadfast_net::{ClientAuth, Security, ServerTlsOptions, Tls};

use crate::settings::{Given, Setting, Settings, Several};

/// Arguments of the commands that listen.
#[derive(clap::Args)]
pub(crate) struct ListenTlsArgs {
    /// Certificate of the listeners, PEM, with its intermediate authorities; they then speak TLS.
    /// Requires --tls-key. Changed files are read again
    #[arg(long, env, value_name = "FILE")]
    tls_cert: Option<Given<String>>,
    /// Private key of --tls-cert, PEM
    #[arg(long, env, value_name = "FILE")]
    tls_key: Option<Given<String>>,
    /// CA certificates, PEM, that the certificates of clients must come from
    #[arg(long, env, value_name = "FILE")]
    tls_client_ca: Option<Given<String>>,
    /// Revocation lists of these authorities, PEM. Every certificate below the root must be covered by one
    /// that has not expired
    #[arg(long, env, value_name = "FILE", hide_short_help = true)]
    tls_client_crl: Option<Given<String>>,
    /// Certificates of clients: none, optional or required [default: required with --tls-client-ca,
    /// otherwise none]
    #[arg(long, env, value_name = "MODE", hide_short_help = true)]
    tls_client_auth: Option<Given<ClientAuth>>,
    /// Timeout of a TLS handshake [default: 10s]
    #[arg(long, env, hide_short_help = true)]
    tls_handshake_timeout: Option<Given<Duration>>,
    /// Listen without TLS also where other machines can connect: they can read and change everything
    #[arg(long, env)]
    insecure: Option<Given<bool>>,
    /// Host that requests for pages of a listener on loopback may name, beside localhost and its addresses;
    /// comma-separated or repeated. Ports are not compared
    #[arg(long, env, value_name = "HOST", hide_short_help = true)]
    allow_host: Vec<Given<Several<String>>>,
}

impl Setting for ClientAuth {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err(format!(
                "{text:?} is not a mode; write none, optional or required"
            )),
        }
    }
}

impl ListenTlsArgs {
    /// Loads the files. What is wrong is among the faults of the settings.
    pub(crate) fn security(self, settings: &mut Settings) -> Security {
        let insecure = settings.get_or(self.insecure, false);
        let allow_hosts = settings.several(self.allow_host).unwrap_or_default();
        let (cert, key) = (settings.get(self.tls_cert), settings.get(self.tls_key));
        let client_ca = settings.get(self.tls_client_ca);
        let client_crl = settings.get(self.tls_client_crl);
        let client_auth = settings.get(self.tls_client_auth);
        let timeout = settings.get_or(self.tls_handshake_timeout, Tls::HANDSHAKE_TIMEOUT);
        if timeout.is_zero() {
            let what = "it is 0, so that no client could connect; write a longer time";
            settings.unusable("tls_handshake_timeout", what.to_owned());
        }
        let usual = match client_ca {
            Some(_) => ClientAuth::Required,
            None => ClientAuth::None,
        };
        let auth = client_auth.unwrap_or(usual);
        // What asks for certificates of clients must not be ignored silently.
        for (id, is_given, is_used) in [
            (
                "tls_client_ca",
                client_ca.is_some(),
                auth != ClientAuth::None,
            ),
            (
                "tls_client_crl",
                client_crl.is_some(),
                auth != ClientAuth::None,
            ),
            (
                "tls_client_auth",
                auth != ClientAuth::None,
                client_ca.is_some(),
            ),
        ] {
            if is_given && !is_used {
                let what = "is given without its other half; --tls-client-ca names the authorities, and \
                            --tls-client-auth is optional or required";
                settings.unusable(id, what.to_owned());
            }
        }
        let (Some(cert_file), Some(key_file)) = (cert.as_ref(), key.as_ref()) else {
            if cert.is_some() != key.is_some() || client_ca.is_some() || auth != ClientAuth::None {
                let what = "a certificate and its key are missing; give --tls-cert and --tls-key";
                settings.fault("settings of TLS", what.to_owned());
            }
            // The fault above is enough: TLS was meant.
            let insecure = insecure || cert.is_some() || key.is_some() || client_ca.is_some();
            return Security {
                tls: None,
                insecure,
                allow_hosts,
            };
        };
        let options = ServerTlsOptions {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            client_ca_file: client_ca.map(Into::into),
            client_crl_file: client_crl.map(Into::into),
            client_auth: auth,
        };
        let tls = Tls::load(&options, timeout).map_err(|error| {
            // The fault of a pair without a file is noted above.
            if options.client_auth == ClientAuth::None || options.client_ca_file.is_some() {
                settings.fault("settings of TLS", error.to_string());
            }
        });
        Security {
            // Here as well, TLS was meant.
            insecure: insecure || tls.is_err(),
            tls: tls.ok(),
            allow_hosts,
        }
    }
}

/// Notes a fault for each listener that other machines could connect to without TLS.
pub(crate) fn check(
    security: &Security,
    listeners: &[(&str, SocketAddr)],
    settings: &mut Settings,
) {
    for (id, address) in listeners {
        if let Err(exposed) = security.check(*address) {
            settings.unusable(id, exposed.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::parse_line;

    #[derive(clap::Parser)]
    struct Cli {
        #[arg(long)]
        config: Option<std::path::PathBuf>,
        #[arg(long, env)]
        listen: Option<Given<crate::settings::Listen>>,
        #[command(flatten)]
        tls: ListenTlsArgs,
    }

    fn faults(line: &str) -> String {
        let line = ["steadfast"].into_iter().chain(line.split_whitespace());
        let line: Vec<_> = line.map(str::to_owned).collect();
        let (cli, mut settings) = parse_line::<Cli>(&line, "");
        assert_eq!(cli.config, None);
        let listen = settings.get(cli.listen).expect("an address").0;
        let security = cli.tls.security(&mut settings);
        check(&security, &[("listen", listen)], &mut settings);
        settings
            .finish()
            .err()
            .map_or_else(String::new, |faults| faults.to_string())
    }

    #[test]
    fn plaintext_beyond_loopback_is_refused_unless_asked_for() {
        for (line, fault) in [
            ("--listen 127.0.0.1:0", ""),
            ("--listen 127.8.9.1:0", ""),
            ("--listen [::1]:0", ""),
            ("--listen [::ffff:127.0.0.1]:0", ""),
            ("--listen localhost:0", ""),
            ("--listen 0.0.0.0:0 --insecure", ""),
            ("--listen 192.0.2.1:0 --insecure=true", ""),
            (
                "--listen 0.0.0.0:9000",
                "--listen: other machines can connect to 0.0.0.0:9000",
            ),
            ("--listen 0.0.0.0:9000", "--tls-cert and --tls-key"),
            (
                "--listen 0.0.0.0:9000",
                "a loopback address such as 127.0.0.1:9000",
            ),
            ("--listen 0.0.0.0:9000", "accept that with --insecure"),
            ("--listen :9000", "0.0.0.0:9000"),
            ("--listen [::]:9000", "[::]:9000"),
            ("--listen 192.0.2.1:9000", "192.0.2.1:9000"),
            (
                "--listen [::ffff:192.0.2.1]:9000",
                "other machines can connect",
            ),
            (
                "--listen 0.0.0.0:9000 --insecure=false",
                "other machines can connect",
            ),
        ] {
            let faults = faults(line);
            assert!(faults.contains(fault), "{line}: {faults}");
            assert_eq!(faults.is_empty(), fault.is_empty(), "{line}: {faults}");
        }
    }

    #[test]
    fn halves_of_settings_of_tls_are_faults() {
        for (flags, fault) in [
            ("--tls-cert a.pem", "give --tls-cert and --tls-key"),
            ("--tls-key a.key", "give --tls-cert and --tls-key"),
            ("--tls-client-ca ca.pem", "give --tls-cert and --tls-key"),
            (
                "--tls-client-auth required",
                "--tls-client-auth: is given without",
            ),
            (
                "--tls-client-crl a.crl",
                "--tls-client-crl: is given without",
            ),
            (
                "--tls-client-ca ca.pem --tls-client-auth none",
                "--tls-client-ca: is given without",
            ),
            (
                "--tls-client-auth maybe",
                "write none, optional or required",
            ),
            ("--tls-handshake-timeout 0s", "write a longer time"),
            (
                "--tls-cert /no/a.pem --tls-key /no/a.key",
                "cannot read /no/a.pem",
            ),
        ] {
            let faults = faults(&format!("--listen 127.0.0.1:0 {flags}"));
            assert!(faults.contains(fault), "{flags}: {faults}");
        }
    }

    #[test]
    fn unreadable_certificate_is_the_only_fault_of_its_listener() {
        let faults = faults("--listen 0.0.0.0:9000 --tls-cert /no/a.pem --tls-key /no/a.key");
        assert_eq!(faults.lines().count(), 1, "{faults}");
        assert!(faults.contains("cannot read /no/a.pem"), "{faults}");
    }
}
