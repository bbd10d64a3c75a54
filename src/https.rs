//! The HTTP client for calls to other servers: rustls with ring, and the public certificate authorities.

use reqwest::{Certificate, Client, ClientBuilder};

/// A client's builder. It has no timeouts yet; the caller sets them.
pub fn client() -> reqwest::Result<ClientBuilder> {
    // Fails, without harm, if it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().tls_certs_merge(public_roots()?))
}

/// The public certificate authorities. They are added to the machine's own: a container often has none, and a company
/// may run its own authority.
fn public_roots() -> reqwest::Result<Vec<Certificate>> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| Certificate::from_der(root)).collect()
}
