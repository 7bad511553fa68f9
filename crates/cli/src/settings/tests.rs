use std::time::Duration;

use clap::CommandFactory as _;

use super::*;

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    part: Part,
}

#[derive(clap::Subcommand)]
enum Part {
    #[command(subcommand)]
    Fodc(Fodc),
}

#[derive(clap::Subcommand)]
enum Fodc {
    Agent {
        #[arg(long, env)]
        budget: Option<Given<Size>>,
        #[arg(long, env)]
        sync: Option<Given<Duration>>,
        #[arg(long, env)]
        urls: Vec<Given<Several<String>>>,
    },
}

type Values = (Option<Size>, Option<Duration>, Option<Vec<String>>);

/// Parses with a file of this text.
fn parsed(flags: &[&str], file: &str) -> (Values, Settings) {
    let args = ["steadfast", "fodc", "agent"].iter().chain(flags);
    let file = File::parse("s.toml", file);
    let (cli, mut settings): (Cli, _) = parse_with(Cli::command(), Some(file), |command| {
        command.get_matches_from(args.clone())
    });
    assert_eq!(cli.config, None);
    let Part::Fodc(Fodc::Agent { budget, sync, urls }) = cli.part;
    let values = (
        settings.get(budget),
        settings.get(sync),
        settings.several(urls),
    );
    (values, settings)
}

fn places(settings: Settings) -> Vec<String> {
    let faults = settings.finish().unwrap_err();
    faults.0.into_iter().map(|fault| fault.location).collect()
}

#[test]
fn a_flag_beats_the_file() {
    let file = "[agent]\nbudget = \"4KiB\"\nsync = \"3s\"\n";
    let ((budget, sync, urls), settings) = parsed(&["--budget", "8KiB"], file);
    assert_eq!(
        (budget, sync, urls),
        (Some(Size(8192)), Some(Duration::from_secs(3)), None)
    );
    assert_eq!(settings.finish(), Ok(()));
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let file = "log = \"info\"\n\n[agent]\nbudget = 1.5\nbugdet = \"1\"\n";
    let (_, mut settings) = parsed(&["--sync", "10"], file);
    settings.require::<Size>("urls", None);
    let text = Faults(settings.faults.clone()).to_string();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(
        text.contains("agent.bugdet is not a setting; there are agent.budget,"),
        "{text}"
    );
    assert!(
        text.contains("set STEADFAST_URLS, or write agent.urls"),
        "{text}"
    );
    assert_eq!(
        places(settings),
        [
            "s.toml:5",
            "s.toml:1",
            "s.toml:4 (agent.budget)",
            "--sync",
            "--urls"
        ]
    );
}

#[test]
fn a_value_that_turns_out_unusable_is_reported_at_its_place() {
    let location = |flags: &[&str], file| {
        let (_, mut settings) = parsed(flags, file);
        settings.unusable("budget", "too small".to_owned());
        places(settings)
    };
    assert_eq!(
        location(&[], "[agent]\nbudget = 1\n"),
        ["s.toml:2 (agent.budget)"]
    );
    assert_eq!(
        location(&["--budget", "1"], "[agent]\nbudget = 1\n"),
        ["--budget"]
    );
    assert_eq!(location(&[], ""), ["--budget"]);
}

#[test]
fn a_list_in_the_file_is_split_only_into_its_items() {
    let file = "[agent]\nurls = [\"http://a/?x=1,2\", \"http://b/\"]\nbudget = [65536]\n";
    let ((budget, _, urls), settings) = parsed(&[], file);
    assert_eq!(
        urls,
        Some(vec!["http://a/?x=1,2".to_owned(), "http://b/".to_owned()])
    );
    assert_eq!(budget, None);
    let faults = settings.finish().unwrap_err();
    assert_eq!(faults.0[0].location, "s.toml:3 (agent.budget)");
    assert!(faults.0[0].what.contains("write one value"), "{faults}");
}

#[test]
fn repeated_flags_and_commas_are_one_list() {
    let ((_, _, urls), _) = parsed(&["--urls", "a,b", "--urls", "c"], "");
    assert_eq!(urls, Some(["a", "b", "c"].map(str::to_owned).to_vec()));
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let faults = File::read("/dev/zero".as_ref()).faults(&[]);
    assert_eq!(faults[0].location, "/dev/zero");
    assert!(faults[0].what.contains("longer than 1 MiB"), "{faults:?}");
}

#[test]
fn a_file_that_is_not_toml_names_the_line() {
    let file = File::parse("s.toml", "log = \"info\"\n[server\n");
    assert_eq!(file.faults(&["log".to_owned()])[0].location, "s.toml:2");
}

#[test]
fn a_missing_file_is_a_fault() {
    assert_eq!(
        File::read("/nowhere/s.toml".as_ref()).faults(&[])[0].location,
        "/nowhere/s.toml"
    );
}

#[test]
fn every_setting_of_the_program_has_a_table() {
    let keys = keys(&crate::Args::command(), "");
    let outside: Vec<_> = keys.iter().filter(|key| !key.contains('.')).collect();
    assert_eq!(outside, ["log"]);
    assert_eq!(keys.len(), 174, "{keys:?}");
}

#[test]
fn byte_order_mark_of_a_file_is_passed_over() {
    let ((budget, _, _), settings) = parsed(&[], "\u{feff}[agent]\nbudget = \"4KiB\"\n");
    assert_eq!(budget, Some(Size(4096)));
    assert_eq!(settings.finish(), Ok(()));
    let file = File::parse("s.toml", "\u{feff}log = \"info\"\n[server\n");
    assert_eq!(file.faults(&["log".to_owned()])[0].location, "s.toml:2");
}
