//! A client of the language server that knows what it expects to hear, and fails on anything else.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::binary;

/// How long any single answer may take. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How a client introduces itself.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Arguments of the server.
    pub args: Vec<String>,
    /// `capabilities` of `initialize`.
    pub capabilities: Value,
    /// `initializationOptions` of `initialize`.
    pub settings_at_start: Value,
    /// The folder with the user's settings in it; one without any unless said otherwise.
    pub config_home: PathBuf,
    /// Folders that the client has open.
    pub folders: Vec<PathBuf>,
    /// What the client answers when it is asked for the section `surmise` of its configuration.
    pub settings: Value,
}

impl Default for ClientOptions {
    /// A capable client, with the model under test.
    fn default() -> Self {
        let mut args = vec!["lsp".to_owned()];
        args.extend(binary::model_arguments());
        Self {
            args,
            capabilities: json!({
                "general": { "positionEncodings": ["utf-16"] },
                "window": { "workDoneProgress": true },
                "workspace": { "configuration": true },
                "textDocument": { "inlineCompletion": { "dynamicRegistration": false } },
                "experimental": { "surmiseStatus": true },
            }),
            settings_at_start: Value::Null,
            config_home: binary::no_settings(),
            folders: Vec::new(),
            settings: Value::Null,
        }
    }
}

/// A connection to a server. Dropping it shuts the server down by protocol and checks that nothing was said
/// that nobody expected.
pub struct Client {
    process: Option<Child>,
    output: Option<Box<dyn Write + Send>>,
    messages: Receiver<Value>,
    next_id: i64,
    /// Ids of requests without an answer so far.
    open: HashSet<i64>,
    /// Answers that no test has taken yet.
    answers: HashMap<i64, Value>,
    /// Notifications and requests of the server that no test has taken yet.
    inbox: VecDeque<Value>,
    expected: Vec<&'static str>,
    /// What `workspace/configuration` is answered with.
    pub settings: Value,
    /// What `workspace/applyEdit` is answered with; the edits themselves are there to be taken.
    pub apply_answer: Value,
    /// The answer to `initialize`.
    pub server: Value,
}

impl Client {
    /// Starts the real binary and introduces the client to it.
    pub fn start(options: ClientOptions) -> Self {
        let mut process = binary::command()
            .args(&options.args)
            .env("XDG_CONFIG_HOME", &options.config_home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let input = process.stdout.take().expect("stdout is piped");
        let output = process.stdin.take().expect("stdin is piped");
        let mut client = Self::connect(Box::new(input), Box::new(output));
        client.process = Some(process);
        client.initialize(options);
        client
    }

    /// A client of whatever is at the other end; `initialize` is up to the caller.
    pub fn connect(input: Box<dyn Read + Send>, output: Box<dyn Write + Send>) -> Self {
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut input = BufReader::new(input);
            while let Some(message) = read_message(&mut input) {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self {
            process: None,
            output: Some(output),
            messages,
            next_id: 1,
            open: HashSet::new(),
            answers: HashMap::new(),
            inbox: VecDeque::new(),
            // How often there is progress or a status is up to the server.
            expected: vec!["$/progress", "surmise/status"],
            settings: Value::Null,
            apply_answer: json!({ "applied": true }),
            server: Value::Null,
        }
    }

    /// `initialize` and `initialized`.
    pub fn initialize(&mut self, options: ClientOptions) {
        self.settings = options.settings;
        let folders = options.folders.iter().map(|folder| {
            let uri = format!("file://{}", folder.display());
            json!({ "uri": uri, "name": "folder" })
        });
        let folders: Vec<Value> = folders.collect();
        self.server = self.request(
            "initialize",
            json!({
                "processId": null,
                "clientInfo": { "name": "surmise-tests" },
                "rootUri": null,
                "workspaceFolders": folders,
                "capabilities": options.capabilities,
                "initializationOptions": options.settings_at_start,
            }),
        );
        self.notify("initialized", json!({}));
    }

    /// Waits until the model is loaded; needs a client that hears `surmise/status`.
    ///
    /// # Panics
    /// If it cannot be loaded.
    pub fn wait_until_ready(&mut self) {
        loop {
            let status = self.take("surmise/status");
            match status["params"]["state"].as_str() {
                Some("loading") => {}
                Some("ready") => return,
                _ => panic!("the model is not ready: {status}"),
            }
        }
    }

    /// Also lets notifications with this method pass without being taken.
    pub fn expect(&mut self, method: &'static str) {
        self.expected.push(method);
    }

    /// Sends a request and waits for its result.
    ///
    /// # Panics
    /// If the answer is an error.
    #[track_caller]
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.send_request(method, params);
        self.result(id)
    }

    /// Sends a request and returns its id.
    pub fn send_request(&mut self, method: &str, params: Value) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.expect_answer(id);
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// Expects one answer with this id, as `send_request` does for its own; for bytes sent by hand.
    pub fn expect_answer(&mut self, id: i64) {
        self.open.insert(id);
    }

    /// Sends a notification.
    pub fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// Waits for the answer to a request: `{"result": ...}` or `{"error": ...}`.
    #[track_caller]
    pub fn answer(&mut self, id: i64) -> Value {
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            self.receive();
        }
    }

    /// Waits for the result of a request.
    ///
    /// # Panics
    /// If the answer is an error.
    #[track_caller]
    pub fn result(&mut self, id: i64) -> Value {
        let mut answer = self.answer(id);
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].take()
    }

    /// Waits for a notification with this method and takes it.
    #[track_caller]
    pub fn take(&mut self, method: &str) -> Value {
        loop {
            if let Some(found) = self.inbox.iter().position(|message| message["method"] == method) {
                return self.inbox.remove(found).expect("it was just found");
            }
            self.receive();
        }
    }

    /// Waits for the answer to a message that had no id the server could read.
    #[track_caller]
    pub fn take_orphan(&mut self) -> Value {
        self.take_matching(|message| message.get("method").is_none())
    }

    #[track_caller]
    fn take_matching(&mut self, matches: impl Fn(&Value) -> bool) -> Value {
        loop {
            if let Some(found) = self.inbox.iter().position(&matches) {
                return self.inbox.remove(found).expect("it was just found");
            }
            self.receive();
        }
    }

    /// Opens a document.
    pub fn open(&mut self, uri: &str, language_id: &str, text: &str) {
        let document = json!({ "uri": uri, "languageId": language_id, "version": 1, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }));
    }

    /// Parameters of a request for ghost text.
    pub fn inline_params(uri: &str, line: usize, character: usize, trigger_kind: u32) -> Value {
        json!({
            "textDocument": { "uri": uri },
            "position": { "line": line, "character": character },
            "context": { "triggerKind": trigger_kind },
        })
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let output = self.output.as_mut().expect("the connection is open");
        output
            .write_all(bytes)
            .and_then(|()| output.flush())
            .expect("the server reads");
    }

    /// Sends a message with this body.
    pub fn send_body(&mut self, body: &[u8]) {
        let header = format!("Content-Length: {}\r\n\r\n", body.len());
        self.send_bytes(&[header.as_bytes(), body].concat());
    }

    fn send(&mut self, message: &Value) {
        self.send_body(message.to_string().as_bytes());
    }

    /// Receives one message and puts it where it belongs; answers questions about the client.
    #[track_caller]
    fn receive(&mut self) {
        let message = match self.messages.recv_timeout(PATIENCE) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("no message for {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the server is gone"),
        };
        self.sort_in(message);
    }

    #[track_caller]
    fn sort_in(&mut self, message: Value) {
        match (message["method"].as_str(), message["id"].as_i64()) {
            (None, Some(id)) => {
                assert!(
                    self.open.remove(&id),
                    "an answer that nobody asked for: {message}"
                );
                self.answers.insert(id, message);
            }
            (Some("workspace/configuration"), Some(id)) => {
                assert_eq!(message["params"], json!({ "items": [{ "section": "surmise" }] }));
                self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": [self.settings] }));
            }
            (Some("window/workDoneProgress/create"), Some(id)) => {
                assert!(message["params"]["token"].is_string(), "{message}");
                self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": null }));
            }
            (Some("client/registerCapability"), Some(id)) => {
                self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": null }));
                self.inbox.push_back(message);
            }
            (Some("workspace/applyEdit"), Some(id)) => {
                self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": self.apply_answer }));
                self.inbox.push_back(message);
            }
            (Some(_), Some(_)) => panic!("a request that nobody expected: {message}"),
            (_, None) => self.inbox.push_back(message),
        }
    }

    /// Closes the server's input without a word, and waits for its end.
    pub fn hang_up(mut self) -> i32 {
        self.output = None;
        self.finish()
    }

    /// Sends `exit`, with `shutdown` before it if asked to, and waits for the end.
    pub fn exit(mut self, with_shutdown: bool) -> i32 {
        if with_shutdown {
            assert_eq!(self.request("shutdown", Value::Null), Value::Null);
        }
        self.notify("exit", Value::Null);
        let code = self.finish();
        self.output = None;
        code
    }

    /// Id of the server's process.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Waits for the end, hears the server out, and checks that it said nothing that nobody expected.
    #[track_caller]
    fn finish(&mut self) -> i32 {
        let code = self.wait_for_end();
        // The server's last words end with its side of the connection; one in this process, which closes it
        // a moment later, gets that moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self
                .messages
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                // A question that crossed our `exit` needs no answer any more.
                Ok(message) if message.get("method").is_some() && message.get("id").is_some() => {}
                Ok(message) => self.sort_in(message),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the server has not closed its output"),
            }
        }
        assert!(
            self.answers.is_empty(),
            "answers that no test took: {:#?}",
            self.answers
        );
        let is_expected = |message: &&Value| self.expected.iter().any(|method| message["method"] == *method);
        let unexpected: Vec<&Value> = self
            .inbox
            .iter()
            .filter(|message| !is_expected(message))
            .collect();
        assert!(
            unexpected.is_empty(),
            "messages that nobody expected: {unexpected:#?}"
        );
        code
    }

    fn wait_for_end(&mut self) -> i32 {
        let Some(mut process) = self.process.take() else {
            return 0;
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match process.try_wait().expect("the process can be waited for") {
                Some(status) => return status.code().expect("an exit code"),
                None if Instant::now() > deadline => {
                    drop(process.kill());
                    panic!("the server did not end");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(process) = &mut self.process {
                drop(process.kill());
            }
            return;
        }
        if self.output.is_none() {
            return;
        }
        assert_eq!(self.request("shutdown", Value::Null), Value::Null);
        self.notify("exit", Value::Null);
        assert_eq!(self.finish(), 0, "exit code");
    }
}

fn read_message(input: &mut impl BufRead) -> Option<Value> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            header => {
                let value = header
                    .strip_prefix("Content-Length: ")
                    .expect("no header but Content-Length");
                length = Some(value.parse().expect("a length"));
            }
        }
    }
    let mut body = vec![0; length.expect("a Content-Length header")];
    input.read_exact(&mut body).ok()?;
    let message: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(message["jsonrpc"], "2.0");
    Some(message)
}
