//! A real browser: headless Chromium, driven over the WebDriver protocol, which is JSON over HTTP.

use super::eventually;
use super::http::http_client;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How an element is named in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with its own profile. Dropping it ends it.
pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    profile: PathBuf,
}

impl Browser {
    /// `None`, with a message, if this machine has no Chromium.
    pub async fn open() -> Option<Self> {
        let (Ok(chromium), Ok(driver)) = (std::env::var("CHROMIUM"), std::env::var("CHROMEDRIVER")) else {
            eprintln!("skipped: there is no Chromium with its driver (see scripts/browser)");
            return None;
        };
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a driver");
        let lines = BufReader::new(driver.stdout.take().expect("stdout")).lines().map_while(Result::ok);
        let started = "started successfully on port ";
        let mut ports = lines.filter_map(|line| Some(line.split_once(started)?.1.trim_end_matches('.').to_owned()));
        let port = ports.next().expect("the driver's port");
        let http = http_client(Duration::from_secs(120));
        let profile = std::env::temp_dir().join(format!("earmark-browser-{}", uuid::Uuid::new_v4().simple()));
        let mut browser = Self { driver, http, session: format!("http://127.0.0.1:{port}/session"), profile };
        let opened = browser.call(Method::POST, "", browser.capabilities(&chromium)).await;
        browser.session = format!("{}/{}", browser.session, opened["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    fn capabilities(&self, chromium: &str) -> Value {
        let profile = format!("--user-data-dir={}", self.profile.display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile,
        ];
        json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}})
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, value) = self.try_call(method, path, body).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    async fn try_call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the driver answers");
        let (status, mut answer) = (response.status().as_u16(), response.json::<Value>().await.expect("JSON"));
        (status, answer["value"].take())
    }

    pub async fn go(&self, url: &str) {
        self.call(Method::POST, "/url", json!({"url": url})).await;
    }

    /// Runs a script in the page, and returns its result.
    pub async fn script(&self, body: &str) -> Value {
        self.call(Method::POST, "/execute/sync", json!({"script": body, "args": []})).await
    }

    /// Waits until a script returns true. While a page loads, it asks again.
    pub async fn until(&self, what: &str, script: &str) {
        eventually(what, async || {
            let asked = json!({"script": format!("return {script}"), "args": []});
            self.try_call(Method::POST, "/execute/sync", asked).await == (200, Value::Bool(true))
        })
        .await;
    }

    /// Waits until the page shows a text.
    pub async fn until_shown(&self, text: &str) {
        self.until(&format!("the page shows `{text}`"), &format!("document.body.innerText.includes({})", json!(text)))
            .await;
    }

    pub async fn shows(&self, text: &str) -> bool {
        self.script(&format!("return document.body.innerText.includes({})", json!(text))).await == true
    }

    pub async fn click(&self, css: &str) {
        self.click_on("css selector", css).await;
    }

    /// Clicks the button with this label.
    pub async fn press(&self, label: &str) {
        self.click_on("xpath", &format!("//button[normalize-space()='{label}']")).await;
    }

    /// Clicks an element. A page that updates itself may replace the element before the click; then this finds it
    /// again.
    async fn click_on(&self, using: &str, value: &str) {
        eventually(&format!("{value} can be clicked"), async || {
            let (_, found) = self.try_call(Method::POST, "/element", json!({"using": using, "value": value})).await;
            let Some(element) = found[ELEMENT].as_str() else { return false };
            self.try_call(Method::POST, &format!("/element/{element}/click"), json!({})).await.0 == 200
        })
        .await;
    }

    pub async fn fill(&self, css: &str, text: &str) {
        let found = self.call(Method::POST, "/element", json!({"using": "css selector", "value": css})).await;
        let element = found[ELEMENT].as_str().unwrap_or_else(|| panic!("{css}: {found}"));
        self.call(Method::POST, &format!("/element/{element}/value"), json!({"text": text})).await;
    }

    /// The browser's complaints since the last call. They include scripts, styles and connections that it refused.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.call(Method::POST, "/se/log", json!({"type": "browser"})).await;
        let entries = log.as_array().expect("a log");
        entries.iter().filter(|entry| entry["level"] == "SEVERE").map(Value::to_string).collect()
    }

    async fn tell(&self, command: &str, parameters: Value) -> Value {
        self.call(Method::POST, "/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Sets the colour scheme that the browser asks for: `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.tell("Emulation.setEmulatedMedia", json!({"features": [feature]})).await;
    }

    /// Sets the size of the window in pixels. Below a width of 600 it counts as a phone.
    pub async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.tell("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Whether the page fits the window, so that nobody has to scroll sideways.
    pub async fn fits(&self) -> bool {
        self.script("return document.documentElement.scrollWidth <= window.innerWidth").await == true
    }

    /// Takes a screenshot of the whole page, as `target/console/NAME.png`.
    pub async fn picture(&self, name: &str) {
        let taken = self.tell("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let bytes = BASE64_STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/console");
        std::fs::create_dir_all(&folder).expect("a folder");
        assert!(bytes.starts_with(b"\x89PNG"), "a picture");
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("written");
    }

    /// Ends the session, and the browser with it. The driver does not end its browser when it is killed itself.
    fn end_session(&self) -> std::io::Result<()> {
        let url = reqwest::Url::parse(&self.session).map_err(std::io::Error::other)?;
        let mut driver = TcpStream::connect(&*url.socket_addrs(|| None)?)?;
        driver.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(driver, "DELETE {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", url.path())?;
        driver.read_to_end(&mut vec![]).map(drop)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // This runs after a failed test too.
        let _ = self.end_session();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
