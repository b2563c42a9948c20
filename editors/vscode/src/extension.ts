// Starts `surmise lsp` and lets the language client turn its answers into ghost text.

import * as vscode from 'vscode';
import { LanguageClient, State as ClientState, type LanguageClientOptions, type Middleware, type StaticFeature } from 'vscode-languageclient/node';
import { DISCARDED, editSelection } from './edit_selection';
import { explain } from './explain';
import { findServer } from './find_server';
import { Preview } from './preview';
import { chosenSettings } from './settings';
import { Status, type State } from './status';

/** Parameters of the server's notification `surmise/status`. */
interface ServerStatus {
  state: 'loading' | 'ready' | 'failed';
  message: string;
}

const LOADING: State = { kind: 'loading', message: '' };

/** How long a program may take to answer as a language server does; the model is loaded later. */
const START_MILLIS = 30_000;

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
  private readonly preview = new Preview();
  private readonly keys: string[];
  private client: LanguageClient | undefined;
  /** What the server said last of itself. */
  private state: State = LOADING;
  /** The starts and stops asked for so far: one begins when the one before has ended. */
  private turn: Promise<void> = Promise.resolve();

  constructor(private readonly context: vscode.ExtensionContext) {
    this.keys = Object.keys(context.extension.packageJSON.contributes.configuration.properties);
    const command = (name: string, action: () => unknown) => vscode.commands.registerCommand(`surmise.${name}`, action);
    context.subscriptions.push(
      this.log,
      this.status,
      this.preview,
      command('toggle', () => this.toggle()),
      command('editSelection', () => editSelection(this.client)),
      command('explain', () => explain(this.client)),
      command('restart', () => this.restart()),
      command('showLog', () => this.log.show()),
      vscode.workspace.onDidChangeConfiguration(event => this.settingsChanged(event)),
    );
  }

  /** Starts the server. */
  start(): Promise<void> {
    return this.inTurn(() => this.launch());
  }

  /** Stops the server, if it runs. */
  stop(): Promise<void> {
    return this.inTurn(() => this.end());
  }

  private restart(): Promise<void> {
    return this.inTurn(async () => {
      await this.end();
      await this.launch();
    });
  }

  private inTurn(action: () => Promise<void>): Promise<void> {
    this.turn = this.turn.then(action, action);
    return this.turn;
  }

  /** Finds and starts the server; says what to do if that fails. */
  private async launch(): Promise<void> {
    this.show(LOADING);
    try {
      const program = findServer({ configured: settings().get('path', ''), extensionFolder: this.context.extensionPath });
      this.log.info(`Starting ${program}`);
      const run = { command: program, args: ['lsp', '--stdio'] };
      const client = new LanguageClient('surmise', 'Surmise', run, this.clientOptions());
      this.client = client;
      client.registerFeature(WANTS_STATUS);
      client.onNotification('surmise/status', ({ state, message }: ServerStatus) => this.show({ kind: state, message }));
      client.onDidChangeState(({ newState }) => {
        if (newState === ClientState.Stopped && this.client === client) {
          this.show({ kind: 'failed', message: 'it stopped; the log says why' });
        }
      });
      await within(START_MILLIS, client.start(), `${program} does not answer as a language server`);
    } catch (error) {
      this.failed(error instanceof Error ? error.message : String(error));
    }
  }

  private async end(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    try {
      if (client?.needsStop()) {
        await client.stop();
      }
      await client?.dispose();
    } catch (error) {
      // One that has not started cannot be stopped, and says so.
      this.log.info(`Stopping the server: ${error instanceof Error ? error.message : String(error)}`);
    }
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
      // The status item shows how the model loads: no second one beside it. Edits show theirs, with a button that stops them.
      handleWorkDoneProgress: (token, progress, next) => {
        if (!`${token}`.startsWith('surmise/load-model/')) {
          next(token, progress);
        }
      },
      workspace: {
        // VS Code's own preview leaves every change unticked; ours takes one key.
        handleApplyEdit: async ({ edit, ...rest }, next) => {
          const annotations = Object.values(edit.changeAnnotations ?? {});
          if (annotations.some(it => it.needsConfirmation)) {
            const changes = await this.client!.protocol2CodeConverter.asWorkspaceEdit(edit);
            if (!(await this.preview.isKept(changes, rest.label ?? 'edit'))) {
              return { applied: false, failureReason: DISCARDED };
            }
            annotations.forEach(it => (it.needsConfirmation = false));
          }
          return next({ edit, ...rest }, new vscode.CancellationTokenSource().token);
        },
        configuration: async (params, token, next) => {
          const answers = await next(params, token);
          const chosen = () => chosenSettings(this.keys, key => vscode.workspace.getConfiguration().inspect(key));
          return Array.isArray(answers)
            ? answers.map((answer, i) => (params.items[i]?.section === 'surmise' ? chosen() : answer))
            : answers;
        },
      },
    };
    return {
      documentSelector: ['file', 'untitled', 'vscode-notebook-cell'].map(scheme => ({ scheme })),
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
      this.show(this.state);
    }
  }

  private failed(message: string): void {
    this.show({ kind: 'failed', message });
    this.log.error(message);
    const openSettings = 'Open Settings';
    const showLog = 'Show the Log';
    // Not awaited: the message stays until somebody answers it.
    void vscode.window.showErrorMessage(`Surmise: ${message}`, openSettings, showLog).then(answer => {
      if (answer === openSettings) {
        void vscode.commands.executeCommand('workbench.action.openSettings', 'surmise.path');
      } else if (answer === showLog) {
        this.log.show();
      }
    });
  }

  private show(state: State): void {
    this.state = state;
    this.status.show(state.kind !== 'failed' && !isEnabled() ? { kind: 'off' } : state);
  }
}

/** What `promise` gives, or an error in these words if it takes longer. */
async function within<T>(millis: number, promise: Promise<T>, words: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error(words)), millis)));
  try {
    return await Promise.race([promise, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks the server for `surmise/status`. */
const WANTS_STATUS: StaticFeature = {
  fillClientCapabilities: capabilities => {
    capabilities.experimental = { ...capabilities.experimental, surmiseStatus: true };
  },
  initialize: () => {},
  getState: () => ({ kind: 'static' }),
  clear: () => {},
};

function settings(): vscode.WorkspaceConfiguration {
  return vscode.workspace.getConfiguration('surmise');
}

function isEnabled(): boolean {
  return settings().get('completion.enabled', true);
}
