//! Reads a stream of Server-Sent Events, event by event.

use reqwest::Response;

use crate::client::Request;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: String,
}

impl Event {
    /// The data as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).expect("an event's data is JSON")
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Events {
    response: Response,
    pending: String,
}

impl Events {
    /// Opens the stream; its answer when that is no success.
    ///
    /// # Errors
    /// The status and the body.
    pub async fn open(request: &Request) -> Result<Self, (u16, String)> {
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.expect("a plain HTTP client needs nothing from the machine");
        let mut builder = client.get(&request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let response = builder
            .send()
            .await
            .map_err(|error| (0, error.to_string()))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err((status, response.text().await.unwrap_or_default()));
        }
        Ok(Self {
            response,
            pending: String::new(),
        })
    }

    /// The next event; none: the stream has ended, or was broken off.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.pending.find("\n\n") {
                let block: String = self.pending.drain(..end + 2).collect();
                let field = |name: &str| {
                    let mut lines = block.lines();
                    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                };
                if let Some(name) = field("event") {
                    return Some(Event {
                        name: name.to_owned(),
                        id: field("id").unwrap_or_default().to_owned(),
                        data: field("data").unwrap_or_default().to_owned(),
                    });
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            self.pending.push_str(&String::from_utf8_lossy(&chunk));
        }
    }

    /// The next event with this name.
    ///
    /// # Panics
    /// When the stream ends before.
    pub async fn next_of(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await;
            let event = event.unwrap_or_else(|| panic!("the stream ended before an event {name}"));
            if event.name == name {
                return event;
            }
        }
    }
}
