//! Distributed tracing: parses and writes W3C trace contexts, and exports spans to an OpenTelemetry collector.
//!
//! A client's `traceparent` is passed on with its request through the queue, whether or not spans are exported. Spans
//! are made only if an endpoint is set, and only for traces that are sampled. Otherwise the cost is one check of an
//! empty cell.

mod otlp;

use crate::clock;
use std::fmt::{Display, Formatter};
use std::sync::OnceLock;
use std::time::Duration;
use uuid::Uuid;

/// The HTTP header with the trace context. Messages have it in the same form.
pub const HEADER: &str = "traceparent";

/// A trace context, the value of `traceparent` (W3C Trace Context, level 1): trace id, span id, and whether it is
/// sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Context {
    /// Parses a header's value. Returns `None` if it is invalid; the request then counts as not traced.
    pub fn parse(text: &str) -> Option<Self> {
        // Later versions may have further fields, after another dash.
        let (head, rest) = (text.get(..55)?, &text[55..]);
        let mut parts = head.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_whole = match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let lengths = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2];
        let is_lower_hex = head.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        if !is_whole || !lengths || !is_lower_hex {
            return None;
        }
        let context = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (context.trace != 0 && context.span != 0).then_some(context)
    }
}

impl Display for Context {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { trace, span, sampled } = self;
        write!(formatter, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(*sampled))
    }
}

/// The kind of work that a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Handling of an HTTP request.
    Server,
    /// Handling of a message from a queue.
    Consumer,
}

/// A span that has begun and not ended.
#[derive(Debug)]
pub struct Span {
    context: Context,
    parent: Option<u64>,
    name: &'static str,
    kind: Kind,
    /// When it began, in nanoseconds since 1970.
    start: u128,
}

/// The attributes of a span: names and values.
pub type Attributes = Vec<(&'static str, String)>;

/// The exporter, and the share of new traces that are sampled.
struct Tracer {
    exporter: otlp::Exporter,
    sample: f64,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Starts exporting spans to `endpoint`, such as `http://localhost:4318`. Must be called at most once. `sample`: the
/// share of requests without a trace context for which a new trace begins, from 0 to 1. `service`: the service's name
/// in spans.
pub fn start(endpoint: &str, sample: f64, service: &'static str) -> Result<(), String> {
    let exporter = otlp::Exporter::start(endpoint, service)?;
    TRACER.set(Tracer { exporter, sample }).map_err(|_| "tracing was started before".to_owned())
}

/// Whether spans are exported.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Waits until all ended spans are exported, but at most `patience`.
pub async fn flush(patience: Duration) {
    if let Some(tracer) = TRACER.get() {
        let _ = tokio::time::timeout(patience, tracer.exporter.flush()).await;
    }
}

/// Begins a span now. Returns `None` if spans are not exported, or if the trace is not sampled.
pub fn begin(parent: Option<Context>, name: &'static str, kind: Kind) -> Option<Span> {
    let tracer = TRACER.get()?;
    let sampled = parent.map_or_else(|| rand::random::<f64>() < tracer.sample, |parent| parent.sampled);
    sampled.then(|| begin_at(parent, name, kind, clock::now_nanos()))
}

/// Begins a span at the time `start`, in nanoseconds since 1970.
fn begin_at(parent: Option<Context>, name: &'static str, kind: Kind, start: u128) -> Span {
    // A UUID of version 4 is never zero, which would be an invalid id.
    let new_trace = || Uuid::new_v4().as_u128();
    let context = Context {
        trace: parent.map_or_else(new_trace, |parent| parent.trace),
        span: (new_trace() >> 64) as u64,
        sampled: true,
    };
    Span { context, parent: parent.map(|parent| parent.span), name, kind, start }
}

impl Span {
    /// The context to pass on with the request, so that later spans become children of this one.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Ends the span now, and exports it.
    pub fn end(self, attributes: Attributes) {
        if let Some(tracer) = TRACER.get() {
            tracer.exporter.send(otlp::Ended { span: self, end: clock::now_nanos(), attributes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_comes_out_as_it_went_in() {
        assert_eq!(Context::parse(TEXT).unwrap().to_string(), TEXT);
        let unsampled = TEXT.replace("b7-01", "b7-00");
        assert_eq!(Context::parse(&unsampled).unwrap().to_string(), unsampled);
        // Of the flags only one is known.
        assert_eq!(Context::parse(&TEXT.replace("b7-01", "b7-ff")).unwrap().to_string(), TEXT);
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        let later = TEXT.replacen("00", "cc", 1);
        assert!(Context::parse(&later).is_some() && Context::parse(&format!("{later}-more")).is_some());
        for wrong in [
            String::new(),
            TEXT.to_uppercase(),
            format!("{TEXT}-more"),
            format!("{later}more"),
            TEXT.replacen("00", "ff", 1),
            TEXT[..54].to_owned(),
            TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            TEXT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            TEXT.replacen('-', "0", 1),
            TEXT.replace("4bf9", "+bf9"),
            format!("{}é", &TEXT[..54]),
        ] {
            assert_eq!(Context::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_span_is_of_its_parents_trace_and_has_an_id_of_its_own() {
        let parent = Context::parse(TEXT).unwrap();
        let span = begin_at(Some(parent), "name", Kind::Server, 1);
        assert_eq!((span.context.trace, span.parent), (parent.trace, Some(parent.span)));
        assert!(span.context.span != parent.span && span.context.span != 0 && span.context.sampled);
        assert_ne!(begin_at(None, "name", Kind::Server, 1).context.trace, 0);
    }
}
