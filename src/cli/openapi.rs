//! `earmark openapi`: prints the OpenAPI document.

use crate::intake::openapi;

/// Prints what `docs/openapi.json` contains.
pub(super) fn run() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&openapi::document())?);
    Ok(())
}
