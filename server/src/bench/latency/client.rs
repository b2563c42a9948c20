//! An editor at the other end of a pipe, as small as it can be: one question at a time.

use std::{io, path::Path, sync::Arc};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};

use crate::{
    config::{Config, Layer},
    lsp::{self, EngineLoader},
    model,
};

/// Bytes that may wait in either direction.
const PIPE_BYTES: usize = 1 << 20;

pub(super) struct Client {
    /// Where the server thinks the document is.
    pub(super) uri: String,
    input: BufReader<ReadHalf<DuplexStream>>,
    output: WriteHalf<DuplexStream>,
    n_requests: u64,
}

impl Client {
    /// Starts a server in this process with the settings `config`, and introduces itself, with `folder` open if there is one.
    pub(super) async fn start(config: &Config, folder: Option<&Path>) -> io::Result<Self> {
        let root = folder.map(std::path::absolute).transpose()?;
        let root = root.map(|root| format!("file://{}", root.display()));
        let load: EngineLoader = Arc::new(model::load_with_progress);
        let options = lsp::Options {
            below_editor: Vec::new(),
            above_editor: vec![Layer {
                source: "benchmark".to_owned(),
                settings: serde_json::to_value(config)?,
            }],
            problems: Vec::new(),
            load,
        };
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (input, output) = tokio::io::split(theirs);
        tokio::spawn(lsp::serve(options, input, output));
        let (input, output) = tokio::io::split(ours);
        let mut client = Self {
            uri: format!("{}/document.rs", root.as_deref().unwrap_or("file:///bench")),
            input: BufReader::new(input),
            output,
            n_requests: 0,
        };
        let capabilities = json!({ "textDocument": { "inlineCompletion": {} } });
        let params = json!({ "processId": null, "rootUri": root, "capabilities": capabilities });
        client.request("initialize", params).await?;
        client.notify("initialized", json!({})).await?;
        Ok(client)
    }

    pub(super) async fn notify(&mut self, method: &str, params: Value) -> io::Result<()> {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }))
            .await
    }

    /// Sends a request and waits for its result. What the server says meanwhile is passed over.
    ///
    /// # Errors
    /// An answer that is an error, and a server that is gone.
    pub(super) async fn request(&mut self, method: &str, params: Value) -> io::Result<Value> {
        self.n_requests += 1;
        let id = self.n_requests;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
            .await?;
        loop {
            let mut message = self.receive().await?;
            if message["id"] != id || message.get("method").is_some() {
                continue;
            }
            return match message.get("error") {
                Some(error) => Err(io::Error::other(format!("{method}: {error}"))),
                None => Ok(message["result"].take()),
            };
        }
    }

    async fn send(&mut self, message: &Value) -> io::Result<()> {
        let body = message.to_string();
        let frame = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.output.write_all(frame.as_bytes()).await
    }

    async fn receive(&mut self) -> io::Result<Value> {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if self.input.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().strip_prefix("Content-Length: ") {
                Some(digits) => length = digits.parse().map_err(io::Error::other)?,
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        self.input.read_exact(&mut body).await?;
        serde_json::from_slice(&body).map_err(io::Error::other)
    }
}
