//! `initialize`: what the client can do, what we offer, and the unit of columns that both agree on.

use serde_json::Value;
use tower_lsp_server::gen_lsp_types::{
    CodeActionOptions, CodeActionTag, CompletionOptions, ExecuteCommandOptions, InitializeParams,
    InitializeResult, InlineCompletionOptions, PositionEncodingKind, ServerCapabilities, ServerInfo,
    TextDocumentSyncKind, TextDocumentSyncOptions, WorkspaceFolders, WorkspaceFoldersServerCapabilities,
    WorkspaceOptions,
};

use crate::{
    config::Layer,
    documents::path_of_uri,
    lsp::{Server, code_action, execute_command},
    position::Encoding,
};

/// What we use of what the client can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientFeatures {
    /// It asks for ghost text.
    pub inline_completion: bool,
    /// It answers `workspace/configuration`.
    pub configuration: bool,
    /// It shows progress that the server begins.
    pub work_done_progress: bool,
    /// It takes code actions, and not only commands.
    pub action_literals: bool,
    /// It asks for the edit of a code action once that is chosen.
    pub resolves_edits: bool,
    /// It shows that a language model wrote what a code action does.
    pub action_tags: bool,
    /// Edits may say which version of a document they are for.
    pub document_changes: bool,
    /// It shows edits before they are applied, if they say so.
    pub change_annotations: bool,
    /// It says which files change, if it is asked to.
    pub watched_files: bool,
    /// It wants `surmise/status`: it set `capabilities.experimental.surmiseStatus` to true.
    pub status: bool,
}

pub(super) fn initialize(server: &Server, params: InitializeParams) -> InitializeResult {
    let mut state = server.state();
    state.features = features(&params);
    state.encoding = agree_on_encoding(&params);
    state.roots = roots(&params);
    if let Some(settings) = params.initialization_options {
        state.editor_settings.push(Layer {
            source: "initializationOptions".to_owned(),
            settings,
        });
    }
    let name = params
        .client_info
        .as_ref()
        .map_or("an unnamed client", |info| &info.name);
    tracing::info!("serving {name}, columns in {:?}", state.encoding);
    InitializeResult {
        capabilities: offer(state.encoding),
        server_info: Some(ServerInfo {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }),
    }
}

fn offer(encoding: Encoding) -> ServerCapabilities {
    ServerCapabilities {
        position_encoding: Some(match encoding {
            Encoding::Utf8 => PositionEncodingKind::UTF8,
            Encoding::Utf16 => PositionEncodingKind::UTF16,
            Encoding::Utf32 => PositionEncodingKind::UTF32,
        }),
        text_document_sync: Some(
            TextDocumentSyncOptions {
                open_close: Some(true),
                change: Some(TextDocumentSyncKind::Incremental),
                ..TextDocumentSyncOptions::default()
            }
            .into(),
        ),
        // No trigger characters: menus open when the editor thinks it right.
        completion_provider: Some(CompletionOptions::default()),
        code_action_provider: Some(
            CodeActionOptions {
                code_action_kinds: Some(code_action::KINDS.to_vec()),
                resolve_provider: Some(true),
                ..CodeActionOptions::default()
            }
            .into(),
        ),
        execute_command_provider: Some(ExecuteCommandOptions {
            commands: execute_command::COMMANDS.map(str::to_owned).to_vec(),
            ..ExecuteCommandOptions::default()
        }),
        workspace: Some(WorkspaceOptions {
            workspace_folders: Some(WorkspaceFoldersServerCapabilities {
                supported: Some(true),
                change_notifications: Some(true.into()),
            }),
            ..WorkspaceOptions::default()
        }),
        inline_completion_provider: Some(InlineCompletionOptions::default().into()),
        ..ServerCapabilities::default()
    }
}

fn features(params: &InitializeParams) -> ClientFeatures {
    let capabilities = &params.capabilities;
    let text_document = capabilities.text_document.as_ref();
    let action = text_document.and_then(|it| it.code_action.as_ref());
    let resolved = action.and_then(|it| it.resolve_support.as_ref());
    let tags = action.and_then(|it| it.tag_support.as_ref());
    let workspace = capabilities.workspace.as_ref();
    let edit = workspace.and_then(|it| it.workspace_edit.as_ref());
    ClientFeatures {
        inline_completion: text_document.is_some_and(|it| it.inline_completion.is_some()),
        configuration: workspace.and_then(|it| it.configuration) == Some(true),
        work_done_progress: capabilities.window.as_ref().and_then(|it| it.work_done_progress) == Some(true),
        action_literals: action.is_some_and(|it| it.code_action_literal_support.is_some()),
        resolves_edits: action.is_some_and(|it| it.data_support == Some(true))
            && resolved.is_some_and(|it| it.properties.iter().any(|name| name == "edit")),
        action_tags: tags.is_some_and(|it| it.value_set.contains(&CodeActionTag::LLMGenerated)),
        document_changes: edit.and_then(|it| it.document_changes) == Some(true),
        change_annotations: edit.is_some_and(|it| it.change_annotation_support.is_some()),
        watched_files: workspace
            .and_then(|it| it.did_change_watched_files.as_ref())
            .and_then(|it| it.dynamic_registration)
            == Some(true),
        status: capabilities
            .experimental
            .as_ref()
            .and_then(|it| it.get("surmiseStatus"))
            == Some(&Value::Bool(true)),
    }
}

/// UTF-8, which costs us least, if the client offers it; else UTF-16, which every client has.
fn agree_on_encoding(params: &InitializeParams) -> Encoding {
    let offered = params
        .capabilities
        .general
        .as_ref()
        .and_then(|it| it.position_encodings.as_deref());
    match offered {
        Some(offered) if offered.contains(&PositionEncodingKind::UTF8) => Encoding::Utf8,
        Some(offered) if offered.contains(&PositionEncodingKind::UTF16) => Encoding::Utf16,
        Some(offered) if offered.contains(&PositionEncodingKind::UTF32) => Encoding::Utf32,
        _ => Encoding::Utf16,
    }
}

#[expect(deprecated, reason = "older clients send nothing but rootUri")]
fn roots(params: &InitializeParams) -> Vec<std::path::PathBuf> {
    let folders = match &params.workspace_folders_initialize_params.workspace_folders {
        Some(WorkspaceFolders::WorkspaceFolderList(folders)) => folders.as_slice(),
        _ => &[],
    };
    let uris = folders.iter().map(|folder| &folder.uri).chain(&params.root_uri);
    uris.filter_map(|uri| path_of_uri(uri.as_ref())).collect()
}
