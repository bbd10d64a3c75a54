//! Where the time of a request goes, across processes: W3C trace context in and out, spans to an OpenTelemetry collector.
//!
//! A caller's `traceparent` travels with its request through the queue, whether or not anything is exported here. Spans are
//! made only while there is an endpoint to send them to, and only of traces that their caller samples; else all of this
//! is one look at an empty cell.

mod otlp;

use crate::clock;
use std::fmt::{Display, Formatter};
use std::sync::OnceLock;
use std::time::Duration;
use uuid::Uuid;

/// The header, over HTTP and in messages.
pub const HEADER: &str = "traceparent";

/// A span of a trace, as `traceparent` names it (W3C Trace Context, level 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Context {
    /// Reads a header's value; `None` if it is not one, which means that there is no trace.
    pub fn parse(text: &str) -> Option<Self> {
        // A later version may say more behind a further dash.
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

/// What a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request over HTTP.
    Server,
    /// A message from a queue.
    Consumer,
}

/// A span that has begun.
#[derive(Debug)]
pub struct Span {
    context: Context,
    parent: Option<u64>,
    name: &'static str,
    kind: Kind,
    /// In nanoseconds since 1970.
    start: u128,
}

/// What is said of a span when it ends.
pub type Attributes = Vec<(&'static str, String)>;

/// Where spans go, and how many new traces are sampled.
struct Tracer {
    exporter: otlp::Exporter,
    sample: f64,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Starts the export to `endpoint`, such as `http://localhost:4318`; to be called once. `sample`: the share of requests
/// without a trace of their own that begin one, from 0 to 1.
pub fn start(endpoint: &str, sample: f64, service: &'static str) -> Result<(), String> {
    let exporter = otlp::Exporter::start(endpoint, service)?;
    TRACER.set(Tracer { exporter, sample }).map_err(|_| "tracing was started before".to_owned())
}

/// Whether spans are exported at all.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Sends what has ended so far, but takes no longer than `patience`.
pub async fn flush(patience: Duration) {
    if let Some(tracer) = TRACER.get() {
        let _ = tokio::time::timeout(patience, tracer.exporter.flush()).await;
    }
}

/// Begins a span now. `None` if nothing is exported, or not of this trace.
pub fn begin(parent: Option<Context>, name: &'static str, kind: Kind) -> Option<Span> {
    let tracer = TRACER.get()?;
    let sampled = parent.map_or_else(|| rand::random::<f64>() < tracer.sample, |parent| parent.sampled);
    sampled.then(|| begin_at(parent, name, kind, clock::now_nanos()))
}

/// Begins a span that is known to be exported, at a time in the past.
fn begin_at(parent: Option<Context>, name: &'static str, kind: Kind, start: u128) -> Span {
    // The library's random ids: of version 4, so none is zero.
    let new_trace = || Uuid::new_v4().as_u128();
    let context = Context {
        trace: parent.map_or_else(new_trace, |parent| parent.trace),
        span: (new_trace() >> 64) as u64,
        sampled: true,
    };
    Span { context, parent: parent.map(|parent| parent.span), name, kind, start }
}

impl Span {
    /// What those who go on with the request are told.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Ends the span now, and hands it to the exporter.
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
