//! A server that takes the place of the service and gives answers that the service never gives.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The answer to a request that was paid.
pub const PAID: &str =
    "HTTP/1.1 200 OK\r\nEarmark-Debited: yes\r\nX-Request-Id: 0\r\nContent-Length: 13\r\n\r\n{\"hash\":\"00\"}";

/// The answer to a read.
pub fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The answer to a bulk call of one item.
pub fn one_result(debited: &str, result: &str) -> String {
    let body = format!("{{\"results\":[{result}]}}");
    let status = if debited == "unknown" { 504 } else { 200 };
    format!("HTTP/1.1 {status} x\r\nEarmark-Debited: {debited}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// 503 with a header `Retry-After`.
pub fn busy(retry_after: &str) -> String {
    format!("HTTP/1.1 503 x\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n")
}

/// A server that answers each request with the next of some texts, and then closes the connection.
pub struct Scripted {
    pub url: String,
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Scripted {
    pub async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let heard = Arc::new(Mutex::new(vec![]));
        let requests = Arc::clone(&heard);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let request = read_request(&mut stream).await.expect("a request");
                requests.lock().expect("requests").push((Instant::now(), request));
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, heard }
    }

    /// When each request came, and its text.
    pub fn requests(&self) -> Vec<(Instant, String)> {
        self.heard.lock().expect("requests").clone()
    }
}

/// Reads the head and the body of a request, and makes the head lower case.
pub async fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut reader, mut head) = (BufReader::new(stream), String::new());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).await? == 0 {
            break;
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).await?;
    Ok(head + &String::from_utf8_lossy(&body))
}
