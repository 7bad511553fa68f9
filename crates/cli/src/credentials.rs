//! The credentials that the commands send to a server.

use steadfast::{BearerCommand, BearerFile, CallCredentials, Metadata, MetadataProblem};

use crate::settings::{Given, Setting, Settings, Several};

/// Arguments of the commands that connect to a server: what proves who they are.
#[derive(Clone, clap::Args)]
pub(crate) struct CredentialArgs {
    /// File with a bearer token to send; read again before every attempt
    #[arg(long, env, value_name = "FILE", hide_short_help = true)]
    token_file: Option<Given<String>>,
    /// Shell command that prints a bearer token to send; run again when the token was refused or is a
    /// minute old
    #[arg(long, env, value_name = "COMMAND", hide_short_help = true)]
    token_command: Option<Given<String>>,
    /// Metadata to send with every call; comma-separated or repeated
    #[arg(long, env, value_name = "NAME=VALUE", hide_short_help = true)]
    metadata: Vec<Given<Several<Entry>>>,
}

/// One entry of metadata. Its value may be a secret.
#[derive(Clone)]
struct Entry(String, String);

impl Setting for Entry {
    fn from_text(text: &str) -> Result<Self, String> {
        // Without the text: what stands there by mistake may be a secret.
        let Some((name, value)) = text.split_once('=') else {
            return Err("an entry is not NAME=VALUE".to_owned());
        };
        match Metadata::new().with(name, value) {
            Ok(_) => Ok(Self(name.to_owned(), value.to_owned())),
            Err(fault) if fault.problem == MetadataProblem::Name => {
                Err(format!("the text before `=` is {}", fault.problem))
            }
            Err(fault) => Err(fault.to_string()),
        }
    }
}

impl CredentialArgs {
    pub(crate) fn into_credentials(self, settings: &mut Settings) -> CallCredentials {
        let mut metadata = Metadata::new();
        for Entry(name, value) in settings.several(self.metadata).unwrap_or_default() {
            metadata.push(name, value).expect("an entry was checked");
        }
        let credentials = CallCredentials::from(metadata);
        let (file, command) = (
            settings.get(self.token_file),
            settings.get(self.token_command),
        );
        match (file, command) {
            (Some(file), None) => credentials.with_source(BearerFile::new(file)),
            (None, Some(line)) => credentials.with_source(BearerCommand::shell(line)),
            (None, None) => credentials,
            (Some(_), Some(_)) => {
                let what = "is given beside --token-file; give one of them";
                settings.unusable("token_command", what.to_owned());
                credentials
            }
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
        #[command(flatten)]
        credentials: CredentialArgs,
    }

    /// Parses a command line. Returns the credentials and the faults as they are shown.
    fn parsed(flags: &[&str]) -> (String, String) {
        let line: Vec<_> = ["steadfast"]
            .iter()
            .chain(flags)
            .map(ToString::to_string)
            .collect();
        let (cli, mut settings) = parse_line::<Cli>(&line, "");
        assert_eq!(cli.config, None);
        let credentials = cli.credentials.into_credentials(&mut settings);
        let faults = settings.finish().err();
        let faults = faults.map_or_else(String::new, |faults| faults.to_string());
        (format!("{credentials:?}"), faults)
    }

    #[test]
    fn credentials_are_read_and_their_faults_repeat_no_secret() {
        for (flags, fault) in [
            (
                &["--token-file", "secret", "--metadata", "tenant=secret"][..],
                "",
            ),
            (&["--token-command", "login secret"], ""),
            (
                &[
                    "--metadata",
                    "a=secret,b=secret",
                    "--metadata",
                    "c-bin=c2VjcmV0",
                ],
                "",
            ),
            (
                &["--metadata", "secret"],
                "--metadata: an entry is not NAME=VALUE",
            ),
            (
                &["--metadata", "my secret=x"],
                "--metadata: the text before `=` is not a name",
            ),
            (&["--metadata", "te=secret"], "metadata \"te\": reserved"),
            (
                &["--metadata", "a-bin=se-cret"],
                "metadata \"a-bin\": the value is not Base64",
            ),
            (
                &["--token-file", "secret", "--token-command", "secret"],
                "--token-command: is given beside --token-file",
            ),
        ] {
            let (credentials, faults) = parsed(flags);
            assert!(
                faults.contains(fault) && faults.is_empty() == fault.is_empty(),
                "{faults}"
            );
            assert!(
                !faults.contains("cret") && !credentials.contains("cret"),
                "{faults}"
            );
        }
    }
}
