//! A public key infrastructure for tests: authorities, certificates, and the files of a client.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses its part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use steadfast::tls::TlsOptions;
use tempfile::TempDir;

/// An authority that signs certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
    serial: SerialNumber,
}

/// The years between which a certificate is valid.
pub(crate) type Years = (i32, i32);

pub(crate) const VALID: Years = (2020, 2090);

/// The number of the next certificate.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Signs a certificate for a server.
    pub(crate) fn server(&self, name: &str) -> Certificate {
        self.sign(name, VALID, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Signs a certificate for a client.
    pub(crate) fn client(&self, name: &str) -> Certificate {
        self.sign(name, VALID, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Signs a certificate for a client that is valid until a time.
    pub(crate) fn client_until(&self, name: &str, until: SystemTime) -> Certificate {
        self.sign_until(name, VALID.0, until, ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub(crate) fn sign(
        &self,
        name: &str,
        (from, to): Years,
        usage: ExtendedKeyUsagePurpose,
    ) -> Certificate {
        self.sign_until(name, from, date_time_ymd(to, 1, 1).into(), usage)
    }

    fn sign_until(
        &self,
        name: &str,
        from: i32,
        until: SystemTime,
        usage: ExtendedKeyUsagePurpose,
    ) -> Certificate {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = until.into();
        params.extended_key_usages = vec![usage];
        let serial = SerialNumber::from(NEXT_SERIAL.fetch_add(1, Ordering::Relaxed));
        params.serial_number = Some(serial.clone());
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Certificate {
            pem,
            key: key.serialize_pem(),
            serial,
        }
    }

    /// Signs the list of these revoked certificates.
    pub(crate) fn revocation_list(&self, years: Years, revoked: &[&Certificate]) -> String {
        self.sign_list(&list(years, revoked))
    }

    /// Signs a list of no certificates, which expires at `end`.
    pub(crate) fn revocation_list_until(&self, end: SystemTime) -> String {
        let mut list = list(VALID, &[]);
        list.next_update = end.into();
        self.sign_list(&list)
    }

    fn sign_list(&self, list: &CertificateRevocationListParams) -> String {
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
            .unwrap();
        Arc::new(roots)
    }
}

fn list((from, to): Years, revoked: &[&Certificate]) -> CertificateRevocationListParams {
    let revoked = revoked.iter().map(|certificate| RevokedCertParams {
        serial_number: certificate.serial.clone(),
        revocation_time: date_time_ymd(from, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    CertificateRevocationListParams {
        this_update: date_time_ymd(from, 1, 1),
        next_update: date_time_ymd(to, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// Returns the configuration of a server that offers HTTP/2. With `clients` it requires certificates
/// of that authority.
pub(crate) fn server_config(
    certificate: &Certificate,
    clients: Option<&Authority>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(authority.roots(), provider)
                .build()
                .unwrap(),
        ),
        None => builder.with_no_client_auth(),
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The files of a client, in a directory of their own.
pub(crate) struct Files {
    directory: TempDir,
}

impl Files {
    pub(crate) fn new(authority: &Authority) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        files.write_ca(&authority.pem);
        files
    }

    pub(crate) fn write_ca(&self, pem: &str) {
        std::fs::write(self.path("ca.pem"), pem).unwrap();
    }

    pub(crate) fn write_crl(&self, pem: &str) {
        std::fs::write(self.path("crl.pem"), pem).unwrap();
    }

    pub(crate) fn write_identity(&self, certificate: &Certificate) {
        std::fs::write(self.path("client.pem"), &certificate.pem).unwrap();
        std::fs::write(self.path("client.key"), &certificate.key).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    /// Returns options with the CA file.
    pub(crate) fn options(&self) -> TlsOptions {
        let mut options = TlsOptions::default();
        options.ca_file = Some(self.path("ca.pem"));
        options
    }

    /// Returns options with the CA file and the file of revocation lists.
    pub(crate) fn options_with_crl(&self) -> TlsOptions {
        let mut options = self.options();
        options.crl_file = Some(self.path("crl.pem"));
        options
    }

    /// Returns options with the CA file and the client's certificate.
    pub(crate) fn options_with_identity(&self) -> TlsOptions {
        let mut options = self.options();
        options.cert_file = Some(self.path("client.pem"));
        options.key_file = Some(self.path("client.key"));
        options
    }
}
