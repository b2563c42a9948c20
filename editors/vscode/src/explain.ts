// "Why Is There No Suggestion?": what became of the last request in the active editor.

import * as vscode from 'vscode';
import type { LanguageClient } from 'vscode-languageclient/node';

/** The server's answer to `surmise/explain`, as far as it is shown. */
interface Explanation {
  model: 'absent' | 'loading' | 'ready' | 'failed';
  last: { suggestion: { text: string } | null; withheld: { message: string } | null } | null;
}

export async function explain(client: LanguageClient | undefined): Promise<void> {
  const document = vscode.window.activeTextEditor?.document;
  if (client === undefined || document === undefined) {
    void vscode.window.showWarningMessage(document === undefined ? 'Surmise: open a file first.' : 'Surmise: the server is not running.');
    return;
  }
  const off = ['surmise.completion.enabled', 'editor.inlineSuggest.enabled'].find(key => !vscode.workspace.getConfiguration(undefined, document).get(key, true));
  if (off !== undefined) {
    void vscode.window.showInformationMessage(`Surmise: suggestions are off (${off}).`);
    return;
  }
  try {
    const textDocument = { uri: client.code2ProtocolConverter.asUri(document.uri) };
    void vscode.window.showInformationMessage(`Surmise: ${inWords(await client.sendRequest<Explanation>('surmise/explain', { textDocument }))}`);
  } catch (error) {
    void vscode.window.showWarningMessage(`Surmise: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function inWords({ model, last }: Explanation): string {
  if (model !== 'ready') {
    return model === 'failed' ? 'the model could not be loaded; the log says why.' : 'the model is being loaded.';
  }
  if (last === null) {
    return 'nothing was asked for in this file yet: type something.';
  }
  return last.suggestion === null ? `${last.withheld?.message ?? 'there is no reason on record'}.` : `there is one: ${last.suggestion.text.trim()}`;
}
