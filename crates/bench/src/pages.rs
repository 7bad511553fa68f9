//! Synthetic pages of exporters, generated from a seed.
//!
//! The shares of constant and changing samples are those measured on real exporters: about one sample
//! in eight of a machine's page differs from the scrape before, and about half of a busy service's.

use std::fmt::Write as _;

/// A synthetic exporter.
#[derive(Clone, Debug)]
pub struct Exporter {
    metrics: Vec<Metric>,
    state: u64,
}

#[derive(Clone, Debug)]
struct Metric {
    /// The `HELP` and `TYPE` lines, for the first series of a family.
    metadata: String,
    /// The name and labels.
    series: String,
    value: f64,
    changes: Changes,
}

/// The change of a value from one scrape to the next.
#[derive(Clone, Copy, Debug)]
enum Changes {
    Never,
    /// Adds between one and `steps` steps, in `chance` percent of the scrapes.
    Counts {
        chance: u64,
        steps: u64,
        size: f64,
    },
    /// Adds a random double of about this size.
    Noise(f64),
}

const STILL: Changes = Changes::Never;

fn counts(chance: u64, steps: u64, size: f64) -> Changes {
    Changes::Counts {
        chance,
        steps,
        size,
    }
}

impl Exporter {
    /// Creates an exporter with about 2,000 series, like that of a machine.
    #[must_use]
    pub fn of_machine() -> Self {
        let words: Vec<&str> = WORDS.split(' ').collect();
        let mut page = Self::new(1);
        let devices: Vec<String> = (0..12).map(|n| format!("eth{n}")).collect();
        let disks: Vec<String> = (0..8).map(|n| format!("nvme{n}n1")).collect();
        let cpus: Vec<String> = (0..16).map(|n| n.to_string()).collect();
        for mode in "idle iowait irq nice softirq steal system user".split(' ') {
            let changes = match mode {
                "idle" | "user" => counts(90, 100, 0.01),
                "system" => counts(30, 9, 0.01),
                _ => STILL,
            };
            page.each("cpu_seconds_total", "counter", &cpus, |cpu| {
                (format!("cpu=\"{cpu}\",mode=\"{mode}\""), changes)
            });
        }
        for n in 0..18 {
            let changes = if n < 3 { counts(20, 40, 1.0) } else { STILL };
            let name = format!("disk_{}_total", words[n % words.len()]);
            page.each(&name, "counter", &disks, |disk| {
                (format!("device=\"{disk}\""), changes)
            });
        }
        for n in 0..34 {
            let changes = match n {
                0..4 => counts(40, 900, 1.0),
                _ => STILL,
            };
            let name = format!("network_{}_{}_total", words[n % words.len()], n);
            page.each(&name, "counter", &devices, |device| {
                (format!("device=\"{device}\""), changes)
            });
        }
        let mounts: Vec<String> = (0..20).map(|n| format!("/var/lib/volumes/{n}")).collect();
        let names = "avail_bytes device_error files files_free free_bytes readonly size_bytes";
        for name in names.split(' ') {
            let changes = if name.contains("free") {
                counts(10, 4096, 1.0)
            } else {
                STILL
            };
            page.each(&format!("filesystem_{name}"), "gauge", &mounts, |mount| {
                (
                    format!("device=\"/dev/mapper/data\",fstype=\"ext4\",mountpoint=\"{mount}\""),
                    changes,
                )
            });
        }
        let units: Vec<String> = (0..190)
            .map(|n| format!("{}-{n}.service", words[n % words.len()]))
            .collect();
        for state in ["activating", "active", "deactivating", "failed", "inactive"] {
            page.each("systemd_unit_state", "gauge", &units, |unit| {
                (
                    format!("name=\"{unit}\",state=\"{state}\",type=\"simple\""),
                    STILL,
                )
            });
        }
        for n in 0..190 {
            let name = format!(
                "{}_{}",
                ["memory", "vmstat", "netstat"][n % 3],
                words[n / 3 % words.len()]
            );
            let changes = if n % 5 == 0 {
                counts(70, 4096, 1.0)
            } else {
                STILL
            };
            page.each(&format!("{name}_{n}"), "gauge", &[String::new()], |_| {
                (String::new(), changes)
            });
        }
        let collectors: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        page.each(
            "scrape_collector_duration_seconds",
            "gauge",
            &collectors,
            |name| (format!("collector=\"{name}\""), Changes::Noise(0.0003)),
        );
        page
    }

    /// Creates an exporter with about 5,000 series, like that of a busy service with histograms.
    #[must_use]
    pub fn of_service() -> Self {
        let words: Vec<&str> = WORDS.split(' ').collect();
        let mut page = Self::new(2);
        let buckets = [
            "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf",
        ];
        let mut handlers = Vec::new();
        for route in 0..48 {
            for (method, status) in [("GET", 200), ("GET", 404), ("POST", 201), ("POST", 500)] {
                handlers.push(format!(
                    "handler=\"/api/v1/{}/{route}\",method=\"{method}\",status=\"{status}\"",
                    words[route % words.len()]
                ));
            }
        }
        for (n, labels) in handlers.iter().enumerate() {
            let chance = if n % 4 == 3 { 4 } else { 80 };
            for le in buckets {
                page.add(
                    "http_request_duration_seconds",
                    "_bucket",
                    "histogram",
                    &format!("{labels},le=\"{le}\""),
                    counts(chance, 12, 1.0),
                );
            }
            page.add(
                "http_request_duration_seconds",
                "_sum",
                "histogram",
                labels,
                if chance > 50 {
                    Changes::Noise(80.0)
                } else {
                    STILL
                },
            );
            page.add(
                "http_request_duration_seconds",
                "_count",
                "histogram",
                labels,
                counts(chance, 12, 1.0),
            );
        }
        for (n, labels) in handlers.iter().enumerate() {
            for name in SERVICE.split(' ') {
                let changes = if n % 2 == 0 {
                    counts(60, 2000, 1.0)
                } else {
                    STILL
                };
                page.add(
                    name,
                    "",
                    if name.ends_with("total") {
                        "counter"
                    } else {
                        "gauge"
                    },
                    labels,
                    changes,
                );
            }
        }
        page.group_families();
        page
    }

    fn new(seed: u64) -> Self {
        Self {
            metrics: Vec::new(),
            state: seed,
        }
    }

    fn each(
        &mut self,
        name: &str,
        kind: &str,
        of: &[String],
        labels: impl Fn(&str) -> (String, Changes),
    ) {
        for one in of {
            let (labels, changes) = labels(one);
            self.add(&format!("node_{name}"), "", kind, &labels, changes);
        }
    }

    fn add(&mut self, family: &str, suffix: &str, kind: &str, labels: &str, changes: Changes) {
        let metadata = format!(
            "# HELP {family} How much of {family} there was since the start of the process.\n# TYPE {family} {kind}\n"
        );
        let series = if labels.is_empty() {
            format!("{family}{suffix}")
        } else {
            format!("{family}{suffix}{{{labels}}}")
        };
        let size = match self.random(5) {
            0 => 0,
            1 => self.random(10),
            2 => self.random(10_000),
            3 => self.random(1 << 26),
            _ => self.random(1 << 40),
        };
        let value = match changes {
            Changes::Counts { size: step, .. } => (size as f64 * step * 100.0).round() / 100.0,
            Changes::Never => size as f64,
            Changes::Noise(size) => size,
        };
        let known = self
            .metrics
            .iter()
            .any(|metric| metric.metadata == metadata);
        self.metrics.push(Metric {
            metadata: if known { String::new() } else { metadata },
            series,
            value,
            changes,
        });
    }

    /// Makes the series of a family adjacent, as exporters do.
    fn group_families(&mut self) {
        let family = |metric: &Metric| {
            let name = metric.series.split('{').next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix));
            base.unwrap_or(name).to_owned()
        };
        self.metrics.sort_by_key(family);
    }

    /// Returns a random number below a bound.
    fn random(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        ((u128::from(self.state ^ self.state >> 29) * u128::from(bound)) >> 64) as u64
    }

    /// Returns the number of series.
    #[must_use]
    pub fn series(&self) -> usize {
        self.metrics.len()
    }

    /// Returns the page of the next scrape.
    pub fn scrape(&mut self) -> String {
        for index in 0..self.metrics.len() {
            let chance = self.random(100);
            let draw = self.random(1 << 53) as f64 / (1u64 << 53) as f64;
            let metric = &mut self.metrics[index];
            match metric.changes {
                Changes::Counts {
                    chance: of,
                    steps,
                    size,
                } if chance < of => {
                    // Rounding keeps a counter of hundredths from showing binary fractions.
                    let added = (draw * steps as f64).ceil() * size;
                    metric.value = ((metric.value + added) * 100.0).round() / 100.0;
                }
                Changes::Never | Changes::Counts { .. } => {}
                Changes::Noise(size) => metric.value += size * (draw + 0.1),
            }
        }
        let mut page = String::new();
        for metric in &self.metrics {
            page.push_str(&metric.metadata);
            page.push_str(&metric.series);
            page.push(' ');
            go_number(metric.value, &mut page);
            page.push('\n');
        }
        page
    }
}

/// Writes a number like Go's exporters: with an exponent from a million on and below a
/// ten-thousandth.
fn go_number(value: f64, to: &mut String) {
    let magnitude = value.abs();
    let infallible = "writing to a string cannot fail";
    if magnitude == 0.0 || (1e-4..1e6).contains(&magnitude) {
        write!(to, "{value}").expect(infallible);
        return;
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("this form has an exponent");
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    write!(to, "{digits}e{sign}{exponent:0>2}").expect(infallible);
}

const SERVICE: &str = "http_request_size_bytes_total http_response_size_bytes_total \
    http_requests_in_flight queue_depth pool_connections_idle pool_connections_busy \
    retries_total timeouts_total cache_hits_total cache_misses_total tokens_left workers";

const WORDS: &str = "arp bcache bonding conntrack entropy exe filefd hwmon infiniband ipvs loadavg mdadm \
    meminfo mounts nfsd nvme pressure rapl schedstat sockstat softnet stat textfile thermal \
    timex uname vmstat xfs zfs receive transmit orders payments search sessions users reads \
    writes";
