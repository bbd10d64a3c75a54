use crate::intake::openapi;

/// As it stands in `docs/openapi.json`.
pub fn run() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&openapi::document())?);
    Ok(())
}
