//! Spans of attempts and outages, and the trace context that the peer gets.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    Context, KeyValue,
    global::BoxedTracer,
    trace::{SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use steadfast_session::{End, Generation, Reason};

use crate::{metadata::Metadata, outage::Outage};

/// The spans of one link.
///
/// The span of an attempt lasts from its start until its stream is live or it has failed: the span of
/// a stream that is held for weeks would be exported weeks later. The attempts after a loss are children
/// of the outage's span.
pub(crate) struct Spans {
    tracer: BoxedTracer,
    /// The context in which the link was spawned.
    parent: Context,
    outage: Option<Context>,
    attempt: Option<Context>,
}

impl Spans {
    pub(crate) fn new(tracer: BoxedTracer) -> Self {
        Self {
            tracer,
            parent: Context::current(),
            outage: None,
            attempt: None,
        }
    }

    /// Starts the span of an attempt. Returns the metadata that makes the peer's spans its children.
    pub(crate) fn on_attempt(&mut self, link: &str, Generation(attempt): Generation) -> Metadata {
        let builder = self
            .tracer
            .span_builder("steadfast.attempt")
            .with_kind(SpanKind::Client)
            .with_attributes([
                KeyValue::new("link", link.to_owned()),
                KeyValue::new("attempt", i64::try_from(attempt).unwrap_or(i64::MAX)),
            ]);
        let parent = self.outage.as_ref().unwrap_or(&self.parent);
        let span = self.tracer.build_with_context(builder, parent);
        let context = parent.with_span(span);
        let metadata = trace_context(context.span().span_context());
        self.attempt = Some(context);
        metadata
    }

    pub(crate) fn on_live(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.span().set_status(Status::Ok);
            attempt.span().end();
        }
    }

    /// Ends the span of an attempt that failed. `silent_for` is the time since the last sign of life if
    /// an outage begins with this end.
    pub(crate) fn on_down(&mut self, link: &str, end: &End, silent_for: Option<Duration>) {
        let reason = || KeyValue::new("reason", end.reason.label());
        if let Some(attempt) = self.attempt.take() {
            attempt.span().set_attribute(reason());
            attempt.span().set_status(Status::error(end.to_string()));
            attempt.span().end();
        }
        // Leaving is no outage.
        let lost = silent_for.filter(|_| end.reason != Reason::Left);
        let Some(silent_for) = lost else {
            return;
        };
        let builder = self
            .tracer
            .span_builder("steadfast.outage")
            .with_start_time(SystemTime::now() - silent_for)
            .with_attributes([KeyValue::new("link", link.to_owned()), reason()]);
        let span = self.tracer.build_with_context(builder, &self.parent);
        self.outage = Some(self.parent.with_span(span));
    }

    pub(crate) fn on_recovered(&mut self, outage: &Outage) {
        let Some(context) = self.outage.take() else {
            return;
        };
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let span = context.span();
        for (name, value) in [
            ("detection_ms", millis(outage.detection)),
            ("redial_ms", millis(outage.redial)),
            ("restore_ms", millis(outage.restore)),
            ("catch_up_ms", millis(outage.catch_up)),
            ("attempts", i64::from(outage.attempts)),
        ] {
            span.set_attribute(KeyValue::new(name, value));
        }
        span.set_status(Status::Ok);
        span.end();
    }

    /// Ends the span of an outage that no stream ends.
    pub(crate) fn on_stopped(&mut self, end: &End) {
        if let Some(outage) = self.outage.take() {
            outage.span().set_status(Status::error(end.to_string()));
            outage.span().end();
        }
    }
}

/// Returns the context as metadata, in the format of the W3C recommendation.
fn trace_context(context: &SpanContext) -> Metadata {
    const ASCII: &str = "trace ids and states are ASCII";
    let mut metadata = Metadata::new();
    // Without a subscriber for spans there is no trace to join.
    if !context.is_valid() {
        return metadata;
    }
    let (trace, span) = (context.trace_id(), context.span_id());
    let flags = context.trace_flags().to_u8();
    let parent = format!("00-{trace}-{span}-{flags:02x}");
    metadata.push("traceparent", parent).expect(ASCII);
    let state = context.trace_state().header();
    // A state that cannot be sent is left out, as the recommendation allows.
    if !state.is_empty() {
        metadata.push("tracestate", state).ok();
    }
    metadata
}
