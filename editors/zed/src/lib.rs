//! Surmise in Zed: finds the `surmise` program and hands it the settings of `lsp.surmise`.

use zed_extension_api::{
    self as zed, Command, LanguageServerId, Result, Worktree,
    serde_json::{Value, json},
    settings::LspSettings,
};

const PROGRAM: &str = "surmise";

struct Surmise;

impl zed::Extension for Surmise {
    fn new() -> Self {
        Self
    }

    /// The program named in the settings, else the first on the path of the folder's shell.
    fn language_server_command(&mut self, id: &LanguageServerId, worktree: &Worktree) -> Result<Command> {
        let binary = LspSettings::for_worktree(id.as_ref(), worktree)?.binary;
        let (path, arguments, env) = binary.map_or((None, None, None), |binary| {
            (binary.path, binary.arguments, binary.env)
        });
        let command = path.or_else(|| worktree.which(PROGRAM)).ok_or_else(|| {
            format!(
                "there is no program `{PROGRAM}` on the PATH; install it, or give its place in Zed's settings: \
                 {{\"lsp\": {{\"{id}\": {{\"binary\": {{\"path\": \"/path/to/{PROGRAM}\"}}}}}}}}"
            )
        })?;
        let args = arguments.unwrap_or_else(|| vec!["lsp".to_owned(), "--stdio".to_owned()]);
        let mut environment = worktree.shell_env();
        environment.extend(env.unwrap_or_default());
        Ok(Command {
            command,
            args,
            env: environment,
        })
    }

    /// Options of the first message, for those who want them; settings are better, they can change.
    fn language_server_initialization_options(
        &mut self,
        id: &LanguageServerId,
        worktree: &Worktree,
    ) -> Result<Option<Value>> {
        Ok(LspSettings::for_worktree(id.as_ref(), worktree)?.initialization_options)
    }

    /// The settings, as the server asks for them: Zed looks up the section by its name.
    fn language_server_workspace_configuration(
        &mut self,
        id: &LanguageServerId,
        worktree: &Worktree,
    ) -> Result<Option<Value>> {
        let settings = LspSettings::for_worktree(id.as_ref(), worktree)?.settings;
        Ok(Some(json!({ "surmise": settings.unwrap_or_else(|| json!({})) })))
    }
}

zed::register_extension!(Surmise);
