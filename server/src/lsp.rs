//! The language server: which message goes to which handler, and what they share.
//!
//! A handler decodes with `convert`, does its work on our own types, and encodes the answer. Everything it
//! reads or changes in `State` happens before its first await, so messages take effect in order; the lock
//! is never held across an await.

pub mod capabilities;
mod code_action;
mod completion;
mod configuration;
mod convert;
mod did_change;
mod did_close;
mod did_open;
mod edit;
mod execute_command;
mod explain;
mod inline_completion;
mod load_model;
mod nearby;
mod progress;
mod references;
mod status;
mod task;
mod view_text;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use surmise_engine::{Engine, EngineError, LoadProgress, copy::CopySource, request::SamplingParams};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};
use tower_lsp_server::{
    Client, LanguageServer, LspService,
    gen_lsp_types::{InitializeParams, InitializeResult, InitializedParams, Position, ProgressToken},
    jsonrpc::Result,
};

use crate::{
    background::Background,
    completion::{
        Query,
        sources::{Beside, SourceCache},
        trigger::Trigger,
    },
    config::{Config, Layer, Problem},
    document::Document,
    documents::DocumentStore,
    position::Encoding,
    repository::{Nearby, Repository, Watch},
    transport::{self, Ending},
};
use capabilities::ClientFeatures;

/// Turns settings into a running engine, and says how far it is; tests bring one of their own.
pub type EngineLoader =
    Arc<dyn Fn(&Config, &dyn Fn(LoadProgress)) -> std::result::Result<Engine, EngineError> + Send + Sync>;

/// What the server is started with.
#[derive(Clone)]
pub struct Options {
    /// Settings below the editor's: the user's file.
    pub below_editor: Vec<Layer>,
    /// Settings above the editor's: the command line.
    pub above_editor: Vec<Layer>,
    /// What was wrong with where those come from; told to the user once.
    pub problems: Vec<Problem>,
    /// Loads the model.
    pub load: EngineLoader,
}

/// Serves one editor until it says `exit` or its end of the pipe closes.
pub async fn serve<I, O>(options: Options, input: I, output: O) -> std::io::Result<Ending>
where
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    let (service, socket) = LspService::build_with_lifecycle_methods(|client| Server::new(client, options))
        .custom_method("textDocument/didOpen", did_open::handle)
        .custom_method("textDocument/didChange", did_change::handle)
        .custom_method("textDocument/didClose", did_close::handle)
        .custom_method("textDocument/inlineCompletion", inline_completion::handle)
        .custom_method("textDocument/completion", completion::handle)
        .custom_method("textDocument/codeAction", code_action::handle)
        .custom_method("codeAction/resolve", code_action::resolve)
        .custom_method("workspace/executeCommand", execute_command::handle)
        .custom_method("window/workDoneProgress/cancel", progress::handle_cancel)
        .custom_method("workspace/didChangeConfiguration", configuration::handle_change)
        .custom_method("workspace/didChangeWorkspaceFolders", nearby::change_folders)
        .custom_method("workspace/didChangeWatchedFiles", nearby::files_changed)
        .custom_method("surmise/viewText", view_text::handle)
        .custom_method("surmise/explain", explain::handle)
        .finish();
    transport::serve(service, socket, input, output).await
}

/// The server; cheap to clone, all clones are one.
#[derive(Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    options: Options,
    repository: Repository,
    /// What is left to do when a request has its answer.
    afterwards: Background,
    /// Documents that were to be parsed there.
    n_parses: AtomicUsize,
    state: Mutex<State>,
}

/// What the handlers share.
struct State {
    documents: DocumentStore,
    /// Settings that the editor gave, oldest first.
    editor_settings: Vec<Layer>,
    config: Config,
    features: ClientFeatures,
    encoding: Encoding,
    /// Folders that the editor has open.
    roots: Vec<PathBuf>,
    model: ModelState,
    /// Texts prepared for the model, those of documents and those of files that are not open.
    sources: Arc<SourceCache>,
    nearby: Arc<Nearby>,
    /// Whether there are other files in the folders than before.
    watch: Watch,
    /// How often the editor's settings were asked for or came; only the newest count.
    n_settings: u64,
    /// Problems that the user has not been told of.
    untold: Vec<Problem>,
    /// Those of the settings as they are, which the user has been told of.
    told: Vec<Problem>,
    /// What the engine said when it could not run the last request.
    failure: Option<String>,
    /// Whether the editor is done with us.
    is_shut_down: bool,
    /// How often a model was asked for.
    n_loads: u64,
    /// Whether the client knows that there is no model yet.
    told_not_ready: bool,
    /// What stops the requests whose progress the user sees; dropping it does.
    stops: Vec<(ProgressToken, oneshot::Sender<()>)>,
    /// How many tokens for such progress there have been.
    n_tokens: u64,
}

/// Other open documents that a suggestion may copy from.
const MAX_NEIGHBOURS: usize = 4;

/// Where the model is.
enum ModelState {
    /// Nobody asked for it yet.
    Absent,
    /// It is being loaded, for the n-th time.
    Loading(u64),
    Ready(Arc<Engine>),
    /// It could not be loaded.
    Failed(String),
}

impl Server {
    fn new(client: Client, options: Options) -> Self {
        let (config, _) = Config::from_layers(&[&*options.below_editor, &*options.above_editor].concat());
        let state = Mutex::new(State {
            documents: DocumentStore::default(),
            sources: Arc::default(),
            nearby: Arc::default(),
            watch: Watch::None,
            editor_settings: Vec::new(),
            config,
            features: ClientFeatures::default(),
            encoding: Encoding::default(),
            roots: Vec::new(),
            model: ModelState::Absent,
            n_settings: 0,
            untold: options.problems.clone(),
            told: Vec::new(),
            failure: None,
            is_shut_down: false,
            n_loads: 0,
            told_not_ready: false,
            stops: Vec::new(),
            n_tokens: 0,
        });
        Self {
            shared: Arc::new(Shared {
                client,
                options,
                repository: Repository::default(),
                afterwards: Background::new("afterwards"),
                n_parses: AtomicUsize::new(0),
                state,
            }),
        }
    }

    fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The shared state. A handler that panicked left it usable: every change of it is a single assignment
    /// or ends in one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parses a query's document for the edits to come, once its answer is out, and frees what is left of older ones. Of several
    /// that wait only the newest is worth it.
    fn prepare_for_edits(&self, query: Query) {
        let number = self.shared.n_parses.fetch_add(1, Ordering::Relaxed) + 1;
        let server = self.clone();
        self.shared.afterwards.run(move || {
            if server.shared.n_parses.load(Ordering::Relaxed) == number {
                query.document.syntax.parse_ahead();
            }
        });
    }
}

impl State {
    /// A query at a place in an open document, under the settings as they are.
    fn query(&self, uri: &str, trigger: Trigger, place: Position) -> Option<Query> {
        let document = self.documents.get(uri)?.document.clone();
        let at = convert::offset(&document, place, self.encoding);
        Some(Query {
            at,
            trigger,
            root: self.root_of(&document),
            config: self.config.completion.clone(),
            sampling: SamplingParams::default(),
            speculation: self.config.engine.speculation(),
            beside: Beside {
                removed: self.documents.removed(uri, at),
                neighbours: self.documents.neighbours(uri, MAX_NEIGHBOURS),
                nearby: self.nearby(&document),
                cache: Arc::clone(&self.sources),
            },
            document,
        })
    }

    /// What was found near a document, if it is wanted.
    fn nearby(&self, document: &Document) -> Vec<Arc<CopySource>> {
        let is_open = |path: &Path| self.documents.paths().any(|open| open == path);
        match &document.path {
            Some(path) if self.config.completion.nearby_files => self.nearby.of(path, is_open),
            _ => Vec::new(),
        }
    }

    /// The folder of the editor that a document lies in.
    fn root_of(&self, document: &Document) -> Option<PathBuf> {
        let inside = |root: &&PathBuf| document.path.as_ref().is_some_and(|path| path.starts_with(root));
        self.roots.iter().find(inside).cloned()
    }

    /// What stops the request with this progress, if it still runs.
    fn take_stop(&mut self, token: &ProgressToken) -> Option<oneshot::Sender<()>> {
        let found = self.stops.iter().position(|(running, _)| running == token)?;
        Some(self.stops.swap_remove(found).1)
    }

    /// Takes what the loader returned; false if another load has begun since.
    fn finish_loading(&mut self, attempt: u64, loaded: std::result::Result<Engine, String>) -> bool {
        let is_current = matches!(self.model, ModelState::Loading(current) if current == attempt);
        if is_current {
            self.documents.forget_taken();
            self.sources = Arc::default();
            self.nearby = Arc::default();
            self.model = match loaded {
                Ok(engine) => ModelState::Ready(Arc::new(engine)),
                Err(reason) => ModelState::Failed(reason),
            };
            self.told_not_ready = false;
            self.failure = None;
        }
        is_current
    }
}

impl LanguageServer for Server {
    async fn initialize(&self, params: InitializeParams) -> Result<InitializeResult> {
        Ok(capabilities::initialize(self, params))
    }

    async fn initialized(&self, _: InitializedParams) {
        configuration::pull_then_load(self);
        nearby::watch(self);
    }

    async fn shutdown(&self) -> Result<()> {
        let mut state = self.state();
        state.is_shut_down = true;
        state.model = ModelState::Absent;
        Ok(())
    }
}
