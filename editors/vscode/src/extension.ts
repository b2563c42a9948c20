// Starts `surmise lsp` and lets the language client turn its answers into ghost text.

import * as vscode from 'vscode';
import { LanguageClient, State as ClientState, type LanguageClientOptions, type Middleware } from 'vscode-languageclient/node';
import { findServer } from './find_server';
import { Status, type State } from './status';

let surmise: Surmise | undefined;

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  surmise = new Surmise(context);
  await surmise.start();
}

export async function deactivate(): Promise<void> {
  await surmise?.stop();
}

/** One server for the window, its status, and the commands that act on it. */
class Surmise {
  private readonly log = vscode.window.createOutputChannel('Surmise', { log: true });
  private readonly status = new Status();
  private client: LanguageClient | undefined;
  /** The progress tokens of work under way, with their newest message: the model is loading while there are any. */
  private readonly work = new Map<string | number, string>();
  private failure: string | undefined;

  constructor(private readonly context: vscode.ExtensionContext) {
    const command = (name: string, action: () => unknown) => vscode.commands.registerCommand(`surmise.${name}`, action);
    context.subscriptions.push(
      this.log,
      this.status,
      command('toggle', () => this.toggle()),
      command('restart', () => this.restart()),
      command('showLog', () => this.log.show()),
      vscode.workspace.onDidChangeConfiguration(event => this.settingsChanged(event)),
    );
  }

  /** Finds and starts the server; says what to do if that fails. */
  async start(): Promise<void> {
    this.failure = undefined;
    try {
      const program = findServer({ configured: settings().get('path', ''), extensionFolder: this.context.extensionPath });
      this.log.info(`Starting ${program}`);
      const run = { command: program, args: ['lsp', '--stdio'] };
      this.client = new LanguageClient('surmise', 'Surmise', run, this.clientOptions());
      this.client.onDidChangeState(({ newState }) => this.serverChanged(newState));
      this.showState();
      await this.client.start();
    } catch (error) {
      await this.failed(error instanceof Error ? error.message : String(error));
    }
    this.showState();
  }

  /** Stops the server, if it runs. */
  async stop(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    this.work.clear();
    if (client?.needsStop()) {
      await client.stop();
    }
    await client?.dispose();
  }

  private async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** Flips `surmise.completion.enabled` where the user has set it, in the user's settings otherwise. */
  private async toggle(): Promise<void> {
    const inFolder = settings().inspect('completion.enabled')?.workspaceValue !== undefined;
    const target = inFolder ? vscode.ConfigurationTarget.Workspace : vscode.ConfigurationTarget.Global;
    await settings().update('completion.enabled', !isEnabled(), target);
  }

  private clientOptions(): LanguageClientOptions {
    const middleware: Middleware = {
      // Off means off: the server is not even asked.
      provideInlineCompletionItems: (document, position, context, token, next) =>
        isEnabled() ? next(document, position, context, token) : undefined,
      // Shown in our own status item instead of a second one beside it.
      handleWorkDoneProgress: (token, params) => {
        if (params.kind === 'end') {
          this.work.delete(token);
        } else {
          this.work.set(token, params.message ?? ('title' in params ? params.title : (this.work.get(token) ?? '')));
        }
        this.showState();
      },
      workspace: {
        // `path` and `trace` are this extension's own settings; the server would warn that it does not know them.
        configuration: async (params, token, next) => {
          const answers = await next(params, token);
          return Array.isArray(answers)
            ? answers.map((answer, i) => (params.items[i]?.section === 'surmise' ? forServer(answer) : answer))
            : answers;
        },
      },
    };
    return {
      documentSelector: ['file', 'untitled', 'vscode-notebook-cell'].map(scheme => ({ scheme })),
      initializationOptions: forServer(settings()),
      outputChannel: this.log,
      middleware,
    };
  }

  private async settingsChanged(event: vscode.ConfigurationChangeEvent): Promise<void> {
    if (event.affectsConfiguration('surmise.path')) {
      await this.restart();
    } else if (event.affectsConfiguration('surmise')) {
      // The server asks for the settings themselves when it hears that some changed.
      await this.client?.sendNotification('workspace/didChangeConfiguration', { settings: null });
      this.showState();
    }
  }

  private serverChanged(state: ClientState): void {
    if (state === ClientState.Stopped) {
      this.work.clear();
      this.failure ??= 'it stopped; the log says why';
    } else if (state === ClientState.Running) {
      this.failure = undefined;
    }
    this.showState();
  }

  private async failed(message: string): Promise<void> {
    this.failure = message;
    this.showState();
    this.log.error(message);
    const openSettings = 'Open Settings';
    const showLog = 'Show the Log';
    // Not awaited by `start`: the message stays until somebody answers it.
    void vscode.window.showErrorMessage(`Surmise: ${message}`, openSettings, showLog).then(answer => {
      if (answer === openSettings) {
        void vscode.commands.executeCommand('workbench.action.openSettings', 'surmise.path');
      } else if (answer === showLog) {
        this.log.show();
      }
    });
  }

  private showState(): void {
    this.status.show(this.state());
  }

  private state(): State {
    if (this.failure !== undefined) {
      return { kind: 'failed', message: this.failure };
    }
    if (!isEnabled()) {
      return { kind: 'off' };
    }
    const [message] = this.work.values();
    const running = this.client?.state === ClientState.Running;
    return running && message === undefined ? { kind: 'ready' } : { kind: 'loading', message: message ?? '' };
  }
}

function settings(): vscode.WorkspaceConfiguration {
  return vscode.workspace.getConfiguration('surmise');
}

function isEnabled(): boolean {
  return settings().get('completion.enabled', true);
}

/** The settings without those that only concern this extension. */
function forServer(all: object | null): object {
  const { path: _path, trace: _trace, ...rest } = JSON.parse(JSON.stringify(all ?? {}));
  return rest;
}
