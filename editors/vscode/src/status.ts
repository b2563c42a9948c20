// The status bar item: one look says whether suggestions can be expected, and if not, why.

import * as vscode from 'vscode';

/** What the server is doing, as far as the user cares. */
export type State =
  | { kind: 'loading'; message: string }
  | { kind: 'ready'; message: string }
  | { kind: 'off' }
  | { kind: 'failed'; message: string };

const LOOKS: Record<State['kind'], { icon: string; text: string; command: string }> = {
  loading: { icon: '$(loading~spin)', text: 'Loading the model', command: 'surmise.showLog' },
  ready: { icon: '$(sparkle)', text: 'Ready: suggestions appear as you type', command: 'surmise.toggle' },
  off: { icon: '$(circle-slash)', text: 'Suggestions are off', command: 'surmise.toggle' },
  failed: { icon: '$(error)', text: 'No suggestions', command: 'surmise.showLog' },
};

/** Shows the server's state at the right end of the status bar; a click does what is likely wanted next. */
export class Status implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem('surmise.status', vscode.StatusBarAlignment.Right, 100);

  constructor() {
    this.item.name = 'Surmise';
    this.item.show();
  }

  show(state: State): void {
    const { icon, text, command } = LOOKS[state.kind];
    this.item.text = `${icon} Surmise`;
    this.item.command = command;
    this.item.backgroundColor =
      state.kind === 'failed' ? new vscode.ThemeColor('statusBarItem.errorBackground') : undefined;
    const tooltip = new vscode.MarkdownString(undefined, true);
    tooltip.isTrusted = { enabledCommands: ['surmise.toggle', 'surmise.restart', 'surmise.showLog'] };
    tooltip.appendText('message' in state && state.message !== '' ? `${text}\n\n${state.message}` : text);
    tooltip.appendMarkdown('\n\n[On or off](command:surmise.toggle) · [Restart](command:surmise.restart) · [Log](command:surmise.showLog)');
    this.item.tooltip = tooltip;
    this.item.accessibilityInformation = { label: `Surmise: ${text}` };
  }

  dispose(): void {
    this.item.dispose();
  }
}
