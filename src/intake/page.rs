//! Renders the OpenAPI document as a page for people. The page needs no script and no other host.

use serde_json::Value;
use std::fmt::Write as _;

/// The Content-Security-Policy of the page: it may load its own style sheet, and nothing else.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The style sheet of the page.
pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-top: 1px solid #8886; padding-top: 1rem; }
h2 code { font-size: 1em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
pre { background: #8882; padding: .8rem; overflow-x: auto; border-radius: .3rem; }
code { font-family: ui-monospace, monospace; font-size: .92em; }
";

/// Renders the OpenAPI document as HTML.
pub(super) fn render(document: &Value) -> String {
    let mut page = String::new();
    let title = escape(text(&document["info"]["title"]));
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/docs/style.css\"></head>\n\
         <body><h1>{title} API {}</h1><p>{}</p><p>For programs: <a href=\"/openapi.json\">openapi.json</a></p>\n",
        escape(text(&document["info"]["version"])),
        prose(&document["info"]["description"])
    );
    for (path, methods) in entries(&document["paths"]) {
        for (method, operation) in entries(methods) {
            write_operation(&mut page, method, path, operation);
        }
    }
    page.push_str("<h2>Shapes</h2>\n");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        let _ = writeln!(page, "<h3 id=\"{0}\">{0}</h3><p>{1}</p>", escape(name), prose(&schema["description"]));
        write_fields(&mut page, schema);
    }
    page.push_str("</body></html>\n");
    page
}

fn write_operation(page: &mut String, method: &str, path: &str, operation: &Value) {
    let method = method.to_uppercase();
    let _ = writeln!(page, "<h2><code>{method} {}</code></h2>", escape(path));
    let _ = writeln!(page, "<p><b>{}.</b> {}</p>", prose(&operation["summary"]), prose(&operation["description"]));
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        page.push_str("<table><tr><th>Parameter</th><th>In</th><th>What it is</th></tr>\n");
        for parameter in parameters {
            let (name, place) = (escape(text(&parameter["name"])), escape(text(&parameter["in"])));
            let (says, shape) = (prose(&parameter["description"]), shape(&parameter["schema"]));
            let _ = writeln!(page, "<tr><td><code>{name}</code></td><td>{place}</td><td>{says} {shape}</td></tr>");
        }
        page.push_str("</table>\n");
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if body.is_object() {
        page.push_str("<h3>Body</h3>\n");
        write_fields(page, body);
        write_example(page, &body["example"]);
    }
    page.push_str("<h3>Answers</h3>\n<table><tr><th>Status</th><th>What it means</th></tr>\n");
    for (status, answer) in entries(&operation["responses"]) {
        let _ = write!(page, "<tr><td>{}</td><td>{}", escape(status), prose(&answer["description"]));
        write_example(page, &answer["content"]["application/json"]["example"]);
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table>\n");
}

fn write_fields(page: &mut String, schema: &Value) {
    page.push_str("<table>\n");
    for (name, field) in entries(&schema["properties"]) {
        let (name, says) = (escape(name), prose(&field["description"]));
        let _ = writeln!(page, "<tr><td><code>{name}</code></td><td>{says} {}</td></tr>", shape(field));
    }
    page.push_str("</table>\n");
}

fn write_example(page: &mut String, example: &Value) {
    if !example.is_null() {
        let shown = serde_json::to_string_pretty(example).unwrap_or_default();
        let _ = writeln!(page, "<pre><code>{}</code></pre>", escape(&shown));
    }
}

/// The bounds of a schema in one line, as HTML.
fn shape(schema: &Value) -> String {
    if let Some((_, name)) = schema["$ref"].as_str().and_then(|reference| reference.rsplit_once('/')) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    let parts = ["type", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "default"];
    let shown = parts.iter().filter(|part| !schema[**part].is_null()).map(|part| {
        let value = schema[*part].as_str().map_or_else(|| schema[*part].to_string(), str::to_owned);
        if *part == "type" { escape(&value) } else { format!("{part} {}", escape(&value)) }
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    if shown.is_empty() { shown } else { format!("<code>{shown}</code>") }
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Text as HTML, with code where it has backticks.
fn prose(value: &Value) -> String {
    let pieces = text(value).split('`').enumerate();
    let pieces = pieces.map(
        |(index, piece)| {
            if index % 2 == 1 { format!("<code>{}</code>", escape(piece)) } else { escape(piece) }
        },
    );
    pieces.collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_of_the_document_becomes_markup() {
        let document = json!({
            "info": { "title": "<b>", "description": "a `<i>` & \"c\"" },
            "paths": { "/<script>": { "get": { "summary": "<script>", "responses": { "<u>": { "description": "<" } } } } },
        });
        let page = render(&document);
        assert!(page.contains("a <code>&lt;i&gt;</code> &amp; &quot;c&quot;"), "{page}");
        for tag in ["<script", "<i>", "<u>", "<h1><b>"] {
            assert!(!page.contains(tag), "{tag}");
        }
    }
}
