//! `dump prometheus|openmetrics FILE…`: prints the parsed content of each file, one JSON line per file.
//!
//! Values are the bits of the double, in hexadecimal, so that they are compared exactly.

use std::{env, fs, process::ExitCode};

use serde_json::{Map, Value, json};
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Refused, SeriesRef, Sink,
};

#[derive(Default)]
struct Dump {
    series: Vec<Value>,
    samples: Vec<Value>,
    families: Map<String, Value>,
    faults: Vec<Value>,
}

impl Sink for Dump {
    type Id = usize;

    fn series(&mut self, series: &SeriesRef<'_>) -> Result<usize, Refused> {
        let labels: Map<String, Value> = series
            .labels
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        self.series.push(json!([series.name, labels]));
        Ok(self.series.len() - 1)
    }

    fn sample(&mut self, id: usize, value: f64, timestamp_ms: Option<i64>) {
        let bits = format!("{:016x}", value.to_bits());
        let series = &self.series[id];
        self.samples
            .push(json!([series[0], series[1], bits, timestamp_ms]));
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        self.faults
            .push(json!([fault.line, fault.column, fault.reason.word()]));
    }

    fn family(&mut self, family: &FamilyRef<'_>) {
        let kind = family.kind.map(steadfast_exposition::Kind::word);
        self.families.insert(
            family.name.to_owned(),
            json!([kind, family.help, family.unit]),
        );
    }
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let format = match arguments.next().as_deref() {
        Some("prometheus") => Format::Prometheus,
        Some("openmetrics") => Format::OpenMetrics,
        _ => {
            eprintln!("usage: dump prometheus|openmetrics FILE…");
            return ExitCode::FAILURE;
        }
    };
    for path in arguments {
        let page = match fs::read(&path) {
            Ok(page) => page,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let mut dump = Dump::default();
        let mut parser = Parser::new(Limits::default());
        parser.begin(format);
        // Pieces end within lines, as those from a socket do.
        for piece in page.chunks(113) {
            parser.push(piece, &mut dump);
        }
        let summary = parser.finish(&mut dump);
        let line = json!({
            "path": path,
            "samples": dump.samples,
            "families": dump.families,
            "faults": dump.faults,
            "eof_missing": summary.eof_missing,
        });
        println!("{line}");
    }
    ExitCode::SUCCESS
}
