//! What was measured: a table for people, JSON for programs, a picture for docs/performance.md.

use super::processes::folder;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One contender under one workload. Of several rounds this is the one with the median throughput.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub workload: String,
    pub connections: usize,
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// 503s a second, and the 99th percentile of how long they took.
    pub refused_per_second: f64,
    pub refusal_p99_ms: f64,
    /// CPU time a request, in microseconds, by process.
    pub cpu_us_per_request: BTreeMap<String, f64>,
    pub rss_mib: BTreeMap<String, f64>,
    /// Missing or unexpected answers. A row that has any does not count.
    pub wrong_answers: u64,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub contenders: Vec<Row>,
    pub ratios: BTreeMap<&'static str, f64>,
}

/// The round with the median throughput.
pub fn median(mut rounds: Vec<Row>) -> Row {
    rounds.sort_by(|one, other| one.requests_per_second.total_cmp(&other.requests_per_second));
    rounds.swap_remove(rounds.len() / 2)
}

impl Report {
    /// The highest throughput of a contender under a workload, over all numbers of connections.
    pub fn best(&self, name: &str, workload: &str) -> f64 {
        let rows = self.contenders.iter().filter(|row| row.name == name && row.workload == workload);
        rows.map(|row| row.requests_per_second).fold(0.0, f64::max)
    }

    pub fn print(&self) {
        println!();
        println!(
            "{:<24} {:<28} {:>6} {:>10} {:>9} {:>9} {:>10}  CPU µs a request",
            "contender", "workload", "conns", "req/s", "p50 ms", "p99 ms", "503/s (p99)"
        );
        for row in &self.contenders {
            let cpu: Vec<String> =
                row.cpu_us_per_request.iter().map(|(process, micros)| format!("{process} {micros:.0}")).collect();
            let refused = match row.refused_per_second {
                0.0 => String::new(),
                rate => format!("{rate:.0} ({:.0} ms)", row.refusal_p99_ms),
            };
            println!(
                "{:<24} {:<28} {:>6} {:>10.0} {:>9.2} {:>9.2} {:>10}  {}",
                row.name,
                row.workload,
                row.connections,
                row.requests_per_second,
                row.p50_ms,
                row.p99_ms,
                refused,
                cpu.join(", ")
            );
            if row.wrong_answers > 0 {
                println!("    DOES NOT COUNT: {} wrong answers", row.wrong_answers);
            }
        }
        println!();
        for (name, ratio) in &self.ratios {
            println!("{name:<40} {ratio:.2}");
        }
    }

    pub fn assert_right(&self) {
        let wrong: u64 = self.contenders.iter().map(|row| row.wrong_answers).sum();
        assert_eq!(wrong, 0, "the figures do not count");
    }

    pub fn write(&self) {
        let json = serde_json::to_vec_pretty(self).expect("JSON");
        std::fs::write(folder().join("report.json"), json).expect("report.json");
        std::fs::write(folder().join("report.svg"), self.picture()).expect("report.svg");
        println!("\n{}", folder().join("report.json").display());
    }

    /// Bars: requests a second, with the 99th percentile beside them.
    fn picture(&self) -> String {
        let names = ["plain transaction", "one statement", "earmark", "echo worker"];
        let best = |name: &str| {
            let rows = self.contenders.iter().filter(|row| row.name == name && row.workload == "one business");
            rows.max_by(|one, other| one.requests_per_second.total_cmp(&other.requests_per_second))
        };
        let rows: Vec<&Row> = names.iter().filter_map(|name| best(name)).collect();
        let most = rows.iter().map(|row| row.requests_per_second).fold(1.0, f64::max);
        let height = 60 + 44 * rows.len();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
             <rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"16\" y=\"28\" font-size=\"16\">Requests a second on one business's balance, and p99</text>\n"
        );
        for (index, row) in rows.iter().enumerate() {
            let (y, width) = (48 + 44 * index, (380.0 * row.requests_per_second / most).max(1.0));
            let color = if row.name == "earmark" { "#1a7f5a" } else { "#9aa5b1" };
            let _ = write!(
                svg,
                "<text x=\"16\" y=\"{}\">{}</text>\n<rect x=\"160\" y=\"{y}\" width=\"{width:.0}\" height=\"30\" fill=\"{color}\"/>\n\
                 <text x=\"{:.0}\" y=\"{}\">{:.0}/s · {:.0} ms</text>\n",
                y + 20,
                row.name,
                168.0 + width,
                y + 20,
                row.requests_per_second,
                row.p99_ms
            );
        }
        svg + "</svg>\n"
    }
}
