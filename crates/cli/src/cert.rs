//! `steadfast cert`: certificates for trying TLS out.

mod files;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use jiff::{Span, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use self::files::File;
use crate::output;

/// Arguments of `cert`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a throw-away authority, a certificate for servers and one for clients
    Dev(DevArgs),
}

/// Arguments of `cert dev`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
struct DevArgs {
    /// Directory of the files; created if missing
    #[arg(long, value_name = "DIR", default_value = "steadfast-dev-certs")]
    out: String,
    /// Name or IP address of the server, beside those of this machine; may be repeated
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

const EXAMPLES: &str =
    "The key of the authority is not kept: nobody can sign more with it. For anything but
trying out, use certificates of an authority of yours.

Examples:
  steadfast cert dev
  steadfast cert dev --out ./certs --name db-1.example --name 192.0.2.1";

/// The names by which a server on this machine is reached.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The name of the client, which a server with a policy may know it by.
const CLIENT: &str = "dev-client";
/// The days for which the certificates are valid.
const DAYS: i64 = 365;

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Dev(args) = args.command;
    let (directory, valid) = (Path::new(&args.out), Validity::from_now()?);
    files::write(directory, &pairs(&args.name, &valid)?, args.force)?;
    output::text(&next_commands(&args.out, &valid))?;
    Ok(ExitCode::SUCCESS)
}

/// The first and the last day of a certificate, each as year, month and day.
struct Validity {
    from: (i32, u8, u8),
    to: (i32, u8, u8),
}

impl Validity {
    fn from_now() -> anyhow::Result<Self> {
        let day = |span: Span| -> anyhow::Result<_> {
            let date = Zoned::now().date().checked_add(span)?;
            let (month, day) = (date.month().try_into()?, date.day().try_into()?);
            Ok((i32::from(date.year()), month, day))
        };
        Ok(Self {
            // Clocks differ, and a certificate that is not valid yet is a riddle.
            from: day(Span::new().days(-1))?,
            to: day(Span::new().days(DAYS))?,
        })
    }

    fn apply(&self, params: &mut CertificateParams) {
        let date = |(year, month, day)| date_time_ymd(year, month, day);
        params.not_before = date(self.from);
        params.not_after = date(self.to);
    }
}

/// Makes the certificate of an authority, and two pairs that it has signed.
fn pairs(names: &[String], valid: &Validity) -> anyhow::Result<Vec<File>> {
    let authority_key = KeyPair::generate()?;
    let mut authority = params(Vec::new(), "steadfast dev CA", valid)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let mut files = vec![File::new("ca.pem", ca)];
    let server_names = LOCAL_NAMES.into_iter().map(str::to_owned);
    let server_names = server_names.chain(names.iter().cloned()).collect();
    for (name, common_name, names, usage) in [
        (
            "server",
            "steadfast dev server",
            server_names,
            ExtendedKeyUsagePurpose::ServerAuth,
        ),
        (
            "client",
            CLIENT,
            Vec::new(),
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
    ] {
        let mut params = params(names, common_name, valid)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        files.push(File::new(&format!("{name}.pem"), certificate.pem()));
        files.push(File::new(&format!("{name}.key"), key.serialize_pem()));
    }
    Ok(files)
}

fn params(
    names: Vec<String>,
    common_name: &str,
    valid: &Validity,
) -> anyhow::Result<CertificateParams> {
    let shown = names.join(", ");
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("{shown}: not all are DNS names or IP addresses"))?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    valid.apply(&mut params);
    Ok(params)
}

/// Returns what was made, and the commands that use it.
fn next_commands(directory: &str, valid: &Validity) -> String {
    let file = |name: &str| quoted(&format!("{}/{name}", directory.trim_end_matches('/')));
    let (ca, (year, month, day)) = (file("ca.pem"), valid.to);
    let (server, server_key) = (file("server.pem"), file("server.key"));
    let (client, client_key) = (file("client.pem"), file("client.key"));
    format!(
        "wrote {ca}, {server}, {server_key}, {client} and {client_key}, valid until \
         {year}-{month:02}-{day:02}

a server with TLS:
  steadfast streamer serve --data ./data --tls-cert {server} --tls-key {server_key}
its clients:
  steadfast streamer subscribe --ca {ca} --database db --collection c
  echo '{{\"id\":\"1\"}}' | steadfast streamer publish --ca {ca} --database db --collection c
  steadfast streamer status --ca {ca}
clients with certificates only: add to the server
  --tls-client-ca {ca}
and to each client
  --cert {client} --key {client_key}
"
    )
}

/// Returns a path as a shell takes it.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(is_plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}
