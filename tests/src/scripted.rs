//! The server in this process, with a model that says what the test wants it to say.

use std::{
    collections::BTreeMap,
    io::{Read, Result, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use surmise::lsp;
use surmise_engine::{
    Engine, EngineError, EngineOptions,
    chat_template::ChatTemplate,
    fim::FimTemplate,
    kv_cache::KvCache,
    model::{Batch, Model, ModelConfig, scripted::ScriptedModel},
    tokenizer::Tokenizer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    runtime::Runtime,
};

use crate::{Client, ClientOptions};

/// What the scripted model says, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Pairs of a trigger and what the model writes once the prompt has it; the last trigger counts.
    pub replies: &'static [(&'static str, &'static str)],
    /// How long each step takes.
    pub step_time: Duration,
    /// How long loading takes.
    pub load_time: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            replies: &[],
            step_time: Duration::ZERO,
            load_time: Duration::ZERO,
        }
    }
}

/// A client of a server in this process whose model follows `script`. The model `missing` cannot be loaded.
pub fn start(script: Script, options: ClientOptions) -> Client {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"));
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (input, output) = tokio::io::split(theirs);
    let server = lsp::Options {
        below_editor: Vec::new(),
        above_editor: Vec::new(),
        problems: Vec::new(),
        load: Arc::new(move |config, _| {
            std::thread::sleep(script.load_time);
            if config.model == "missing" {
                Err(EngineError::Stopped("no such model".into()))
            } else {
                engine(script)
            }
        }),
    };
    runtime.spawn(lsp::serve(server, input, output));
    let (reading, writing) = tokio::io::split(ours);
    let mut client = Client::connect(
        Box::new(Blocking {
            runtime,
            half: reading,
        }),
        Box::new(Blocking {
            runtime,
            half: writing,
        }),
    );
    client.initialize(options);
    client
}

/// An engine whose model follows `script`; it fills in the middle by tokens, and rewrites in a conversation.
pub fn engine(script: Script) -> std::result::Result<Engine, EngineError> {
    let tokenizer = Arc::new(Tokenizer::bytes());
    let model = ScriptedModel::replay(tokenizer.clone(), script.replies)?;
    let model = Slow {
        model,
        step_time: script.step_time,
    };
    let chat = ChatTemplate::new(
        "{% for it in messages %}{{ it.content }}\n{% endfor %}>",
        BTreeMap::new(),
    )?;
    let fim = Some(FimTemplate::for_tests());
    let engine = Engine::start(Box::new(model), tokenizer, fim, EngineOptions::default())?;
    Ok(engine.with_chat_template(chat))
}

struct Slow {
    model: ScriptedModel,
    step_time: Duration,
}

impl Model for Slow {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn forward(
        &mut self,
        batch: Batch<'_>,
        cache: &mut KvCache,
        logits: &mut Vec<f32>,
    ) -> std::result::Result<(), EngineError> {
        std::thread::sleep(self.step_time);
        self.model.forward(batch, cache, logits)
    }
}

/// An end of the pipe, for threads that may wait.
struct Blocking<H> {
    runtime: &'static Runtime,
    half: H,
}

impl Read for Blocking<ReadHalf<DuplexStream>> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.runtime.block_on(self.half.read(buffer))
    }
}

impl Write for Blocking<WriteHalf<DuplexStream>> {
    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.runtime.block_on(self.half.write(buffer))
    }

    fn flush(&mut self) -> Result<()> {
        self.runtime.block_on(self.half.flush())
    }
}
