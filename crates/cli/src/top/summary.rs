//! The figures above the list of `steadfast top`.

use steadfast_gateway::GatewayStatus;
use steadfast_streamer::server::operations::Report;

use super::{model::Model, rates::Rates};
use crate::{
    output::shown,
    streamer::status::durations,
    units::{grouped, readable, seconds},
};

/// Returns the lines, each with its name.
pub(super) fn lines(model: &Model) -> Vec<(&'static str, String)> {
    let gateway = model.gateway.as_ref();
    let gateway = gateway.map(|it| ("gateway", gateway_line(it, &model.gateway_rates)));
    let Some(report) = &model.report else {
        let server = match gateway {
            Some(_) => "no figures of it yet".to_owned(),
            None => format!("{}, not reached yet", model.address),
        };
        return [("server", server)].into_iter().chain(gateway).collect();
    };
    let figures = Figures {
        report,
        rates: &model.rates,
    };
    let state = &report.state;
    let uptime = seconds(report.uptime_seconds);
    let version = shown(&report.version);
    let server = format!(
        "{}, {}, version {version}, up {uptime}",
        shown(&report.address),
        shown(state),
    );
    let mut lines = vec![("server", server)];
    lines.extend([
        ("rates", figures.rates_line()),
        ("streams", figures.streams()),
        ("lag", figures.lag()),
        ("gaps", figures.gaps()),
        ("recovery", figures.recovery()),
        ("log", figures.log()),
    ]);
    lines.extend(gateway);
    lines.extend(report.problems.iter().map(|it| ("problem", shown(it))));
    lines
}

fn gateway_line(gateway: &GatewayStatus, rates: &Rates) -> String {
    let count = |name| grouped(gateway.figures.get(name).copied().unwrap_or(0));
    format!(
        "{}, up {}: {} sockets with {} subscriptions; {} items, {} published",
        shown(&gateway.state),
        seconds(gateway.uptime_seconds),
        count("sockets"),
        count("subscriptions"),
        rate(rates, "items"),
        rate(rates, "published"),
    )
}

fn rate(rates: &Rates, name: &str) -> String {
    let rate = rates.per_second(name);
    rate.map_or("—".to_owned(), |rate| {
        format!("{}/s", grouped(rate.round() as u64))
    })
}

struct Figures<'a> {
    report: &'a Report,
    rates: &'a Rates,
}

impl Figures<'_> {
    fn value(&self, name: &str) -> u64 {
        self.report.figures.get(name).copied().unwrap_or(0)
    }

    fn count(&self, name: &str) -> String {
        grouped(self.value(name))
    }

    fn rate(&self, name: &str) -> String {
        rate(self.rates, name)
    }

    fn rates_line(&self) -> String {
        format!(
            "{} entries, {} events, {} deliveries to {} subscriptions",
            self.rate("entries_received"),
            self.rate("events"),
            self.rate("deliveries"),
            self.rate("delivered_subscriptions"),
        )
    }

    fn streams(&self) -> String {
        format!(
            "{} with {} subscriptions, {} publishers, {} connections of {}",
            self.count("streams"),
            self.count("subscriptions"),
            self.count("publishers"),
            self.count("connections"),
            self.count("connections_limit"),
        )
    }

    fn lag(&self) -> String {
        format!(
            "{} subscriptions behind, all lags {} events; {} bytes queued, {} events to match",
            self.count("subscriptions_behind"),
            self.count("stream_lag_events_sum"),
            self.count("queued_bytes"),
            self.count("unmatched_events"),
        )
    }

    /// Changes that subscribers missed.
    fn gaps(&self) -> String {
        let newest = match self.rates.increase("resyncs") {
            Some((increase, time)) if !time.is_zero() => {
                format!(", {} in the last {}", grouped(increase), readable(time))
            }
            _ => String::new(),
        };
        format!(
            "{} resyncs{newest}; {} changes lost to damage, {} streams evicted",
            self.count("resyncs"),
            self.count("log_lost_changes"),
            self.count("streams_evicted"),
        )
    }

    fn recovery(&self) -> String {
        format!(
            "subscriptions: {} taken over, {} fell behind, {} caught up; {} streams fenced, {} silent",
            self.count("subscriptions_taken_over"),
            self.count("subscriptions_fell_behind"),
            self.count("subscriptions_caught_up"),
            self.count("streams_fenced"),
            self.count("streams_silent"),
        )
    }

    fn log(&self) -> String {
        let log = &self.report.log;
        let mib = log.bytes as f64 / f64::from(1 << 20);
        format!(
            "events after {} up to {}, {mib:.1} MiB; commits {}",
            grouped(log.first),
            grouped(log.head),
            durations(&log.commits),
        )
    }
}
