//! How this program calls others over HTTP: rustls with ring, and the authorities that everybody knows.

use reqwest::{Certificate, Client, ClientBuilder};

/// A client that still has to be told its timeouts.
pub fn client() -> reqwest::Result<ClientBuilder> {
    // Harmless if it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().tls_certs_merge(public_roots()?))
}

/// The authorities that are known to everybody, beside those of this machine: a container often has none, and a company has
/// its own.
fn public_roots() -> reqwest::Result<Vec<Certificate>> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| Certificate::from_der(root)).collect()
}
