//! The LSP transport: framing, and the loop that runs messages in the order in which they came.
//!
//! tower-lsp-server has a transport of its own; three things keep us from it. Its decoder ends the server
//! at the first malformed message, a handler that panics takes the process with it, and it starts a
//! handler only when fewer than a fixed number are unfinished. Here **each message is polled once before
//! the next one is read**, so a document change, which is applied before its handler's first await, is
//! applied in order by construction; whatever waits after that waits beside everything else.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{
    FutureExt, SinkExt, StreamExt,
    stream::{FusedStream, FuturesUnordered},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
};
use tower_lsp_server::{
    ClientSocket, LanguageServer, LspService,
    jsonrpc::{Error, Id, Request, Response},
};
use tower_service::Service;

/// Longest message that is read, in bytes; a longer one is answered with an error and ends the session.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Messages that may wait between the reader and the loop.
const READ_AHEAD: usize = 256;

/// How long the last answers may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client sent `exit`.
    Exit {
        /// Whether `shutdown` came first, as the protocol wants it.
        after_shutdown: bool,
    },
    /// The input ended: the client is gone.
    EndOfInput,
}

impl Ending {
    /// Exit code of the process: LSP asks for 1 if `exit` came without `shutdown`.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Exit {
                after_shutdown: false,
            } => 1,
            Self::Exit { after_shutdown: true } | Self::EndOfInput => 0,
        }
    }
}

/// Runs `service` on the messages of `input` until `exit` or the end of the input.
///
/// Unfinished requests are dropped at the end, which stops their generations.
pub async fn serve<S, I, O>(
    mut service: LspService<S>,
    socket: ClientSocket,
    input: I,
    output: O,
) -> std::io::Result<Ending>
where
    S: LanguageServer,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    let (frames_in, mut frames) = mpsc::channel(READ_AHEAD);
    let reader = tokio::spawn(read_frames(BufReader::new(input), frames_in));
    let (outbox, messages_out) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write_frames(output, messages_out));
    let (mut client_requests, mut client_answers) = socket.split();
    let mut unfinished = FuturesUnordered::new();
    let mut after_shutdown = false;

    let ending = loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            Some(answer) = unfinished.next(), if !unfinished.is_terminated() => {
                send(&outbox, answer);
                continue;
            }
            Some(request) = client_requests.next() => {
                send(&outbox, Some(request));
                continue;
            }
        };
        match frame.map(|body| body.and_then(|body| Message::parse(&body))) {
            None => break Ending::EndOfInput,
            Some(Err(refusal)) => {
                tracing::warn!("refused a message: {}", refusal.error);
                send(&outbox, Some(Response::from_error(refusal.id, *refusal.error)));
            }
            // An answer to a question that nobody asked is no reason to end.
            Some(Ok(Message::Answer(answer))) => drop(client_answers.send(answer).await),
            Some(Ok(Message::Request(request))) => {
                let (is_exit, is_shutdown) = (request.method() == "exit", request.method() == "shutdown");
                if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
                    break Ending::Exit { after_shutdown };
                }
                let mut answer = Box::pin(guarded(request.id().cloned(), service.call(request)));
                match poll_now(answer.as_mut()) {
                    Some(answer) => send(&outbox, answer),
                    None => unfinished.push(answer),
                }
                after_shutdown |= is_shutdown;
                if is_exit {
                    break Ending::Exit { after_shutdown };
                }
            }
        }
    };
    reader.abort();
    drop(unfinished);
    drop(client_requests);
    drop(outbox);
    // A client that is gone may have left its end of the pipe full.
    match tokio::time::timeout(LAST_WORDS, writer).await {
        Ok(Ok(Err(error))) if ending != Ending::EndOfInput => Err(error),
        _ => Ok(ending),
    }
}

/// Runs a handler; a panic in it becomes an internal error instead of the end of the server.
async fn guarded<E>(
    id: Option<Id>,
    handler: impl Future<Output = Result<Option<Response>, E>>,
) -> Option<Response> {
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_exited)) => None,
        Err(_panic) => id.map(|id| Response::from_error(id, Error::internal_error())),
    }
}

/// Polls `future` once; whoever polls it next leaves a waker that works.
fn poll_now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn send<T: serde::Serialize>(outbox: &mpsc::UnboundedSender<Vec<u8>>, message: Option<T>) {
    let Some(message) = message else { return };
    match serde_json::to_vec(&message) {
        // The writer ends only when the client is gone; the end of the input tells the loop.
        Ok(body) => drop(outbox.send(body)),
        Err(error) => tracing::error!("cannot encode a message: {error}"),
    }
}

/// What a client can send.
enum Message {
    Request(Request),
    Answer(Response),
}

/// A message that cannot be run, and the answer it gets.
struct Refusal {
    id: Id,
    error: Box<Error>,
}

impl Message {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut message: Value = serde_json::from_slice(body).map_err(|_| Refusal {
            id: Id::Null,
            error: Box::new(Error::parse_error()),
        })?;
        let id = message
            .get("id")
            .and_then(|id| serde_json::from_value(id.clone()).ok())
            .unwrap_or_default();
        let refuse = |_| Refusal {
            id,
            error: Box::new(Error::invalid_request()),
        };
        if message.get("method").is_none() {
            return serde_json::from_value(message).map(Self::Answer).map_err(refuse);
        }
        if message["method"] == "initialize"
            && let Some(params) = message.get_mut("params")
        {
            drop_unreadable_capabilities(params);
        }
        serde_json::from_value(message).map(Self::Request).map_err(refuse)
    }
}

/// Removes client capabilities that the protocol types cannot hold, so that a client which is wrong about
/// one feature that we may not even use can still start the server.
fn drop_unreadable_capabilities(params: &mut Value) {
    use tower_lsp_server::gen_lsp_types::ClientCapabilities;

    let Some(groups) = params.get_mut("capabilities").and_then(Value::as_object_mut) else {
        return;
    };
    for (group, capabilities) in groups {
        let Some(capabilities) = capabilities.as_object_mut() else {
            continue;
        };
        capabilities.retain(|name, value| {
            let alone = serde_json::json!({ group: { name: value } });
            serde_json::from_value::<ClientCapabilities>(alone)
                .inspect_err(|error| tracing::warn!("ignoring client capability {group}.{name}: {error}"))
                .is_ok()
        });
    }
}

/// Reads message bodies until the input ends or nobody listens.
///
/// Anything that is not a header is skipped up to the next `Content-Length`, so a length that is a little
/// wrong costs a message or two and not the session. One above the limit ends it: to skip so much would be
/// to wait, silently, for bytes that are not coming.
async fn read_frames<R: AsyncBufRead + Unpin>(mut input: R, frames: mpsc::Sender<Result<Vec<u8>, Refusal>>) {
    let mut line = Vec::new();
    let mut content_length = None;
    loop {
        line.clear();
        match (&mut input).take(64 << 10).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        content_length = parse_content_length(&line).or(content_length);
        if !line.trim_ascii().is_empty() {
            continue;
        }
        let Some(length) = content_length.take() else {
            continue;
        };
        if length > MAX_MESSAGE_BYTES {
            let mut error = Error::invalid_request();
            error.message = format!(
                "a message of {length} bytes is above the limit of {MAX_MESSAGE_BYTES}; the session ends"
            )
            .into();
            let error = Box::new(error);
            let refusal = Refusal { id: Id::Null, error };
            drop(frames.send(Err(refusal)).await);
            return;
        }
        // Grows with what arrives, not with what the header claims.
        let mut body = Vec::new();
        match (&mut input).take(length as u64).read_to_end(&mut body).await {
            Ok(n_read) if n_read == length => {}
            _ => return,
        }
        if frames.send(Ok(body)).await.is_err() {
            return;
        }
    }
}

/// The length in a `Content-Length: 12` header, wherever in the line it stands and however it is spelt.
fn parse_content_length(line: &[u8]) -> Option<usize> {
    const NAME: &str = "content-length:";
    let line = String::from_utf8_lossy(line).to_ascii_lowercase();
    let value = &line[line.rfind(NAME)? + NAME.len()..];
    value.trim().parse().ok()
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut output: W,
    mut bodies: mpsc::UnboundedReceiver<Vec<u8>>,
) -> std::io::Result<()> {
    while let Some(body) = bodies.recv().await {
        output
            .write_all(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes())
            .await?;
        output.write_all(&body).await?;
        output.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames_of(input: &[u8]) -> Vec<String> {
        let (sender, mut receiver) = mpsc::channel(16);
        read_frames(input, sender).await;
        let mut frames = Vec::new();
        while let Some(Ok(body)) = receiver.recv().await {
            frames.push(String::from_utf8_lossy(&body).into_owned());
        }
        frames
    }

    #[tokio::test]
    async fn frames_are_found_again_after_garbage() {
        let input = b"Content-Length: 2\r\n\r\n{}content-length:4\r\nContent-Type: x\r\n\r\nnull\
            garbage\r\n\r\nnoise Content-Length: 1\r\n\r\n7Content-Length: nine\r\n\r\nContent-Length: 1\n\n8";
        assert_eq!(frames_of(input).await, ["{}", "null", "7", "8"]);
    }

    #[tokio::test]
    async fn a_body_that_never_comes_ends_the_input() {
        assert!(frames_of(b"Content-Length: 200000000\r\n\r\n{").await.is_empty());
    }

    #[tokio::test]
    async fn a_length_above_the_limit_is_refused_at_once() {
        // The client keeps its end open and sends nothing more.
        let (mut client, input) = tokio::io::duplex(64);
        client
            .write_all(b"Content-Length: 999999999999\r\n\r\n{}")
            .await
            .unwrap();
        let (sender, mut receiver) = mpsc::channel(16);
        read_frames(BufReader::new(input), sender).await;
        let refusal = receiver.recv().await.expect("an answer").expect_err("a refusal");
        assert!(
            refusal.error.message.contains("999999999999 bytes"),
            "{}",
            refusal.error
        );
        assert!(receiver.recv().await.is_none());
    }

    #[test]
    fn capabilities_that_cannot_be_read_are_dropped() {
        let mut params = serde_json::json!({"capabilities": {"textDocument": {
            "hover": {"contentFormat": "not a list"}, "inlineCompletion": null, "unknown": 7,
        }}});
        drop_unreadable_capabilities(&mut params);
        assert_eq!(
            params,
            serde_json::json!({"capabilities": {"textDocument": {"inlineCompletion": null, "unknown": 7}}})
        );
    }
}
