// Shows what an edit would change, and asks whether to keep it.

import * as vscode from 'vscode';

const SCHEME = 'surmise-preview';
const KEEP = '$(check) Keep';
const DISCARD = '$(discard) Discard';
const SHOW = 'Show';
const CHANGED = 'the text has changed since this was asked for, so nothing was changed; ask again';

/** The texts that documents would have, for the right side of a comparison. */
export class Preview implements vscode.TextDocumentContentProvider, vscode.Disposable {
  private readonly texts = new Map<string, string>();
  private readonly registration = vscode.workspace.registerTextDocumentContentProvider(SCHEME, this);
  private nShown = 0;

  provideTextDocumentContent(uri: vscode.Uri): string | undefined {
    return this.texts.get(uri.query);
  }

  /** Compares the document that `edit` changes with what it would be, and waits for the user's word: Enter keeps, Escape discards. */
  async isKept(edit: vscode.WorkspaceEdit, title: string): Promise<boolean> {
    const [uri, edits] = edit.entries()[0]!;
    const document = await vscode.workspace.openTextDocument(uri);
    const editor = vscode.window.activeTextEditor;
    // Whoever went on elsewhere would keep the change unseen with the next Enter.
    if (editor?.document !== document) {
      const { version } = document;
      if ((await vscode.window.showInformationMessage(`Surmise: ${title}: the change is ready`, SHOW)) !== SHOW) {
        return false;
      }
      if (document.version !== version) {
        void vscode.window.showWarningMessage(`Surmise: ${title}: ${CHANGED}`);
        return false;
      }
    }
    const id = `${++this.nShown}`;
    this.texts.set(id, changed(document, edits));
    // The path is that of the document, so that it is coloured alike.
    const right = uri.with({ scheme: SCHEME, authority: '', query: id });
    try {
      await vscode.commands.executeCommand('vscode.diff', uri, right, title, { preview: true });
      const answer = await vscode.window.showQuickPick([KEEP, DISCARD], { title: `Surmise: ${title}`, ignoreFocusOut: true });
      return answer === KEEP;
    } finally {
      await close(right);
      if (editor) {
        await vscode.window.showTextDocument(editor.document, editor.viewColumn);
      }
      this.texts.delete(id);
    }
  }

  dispose(): void {
    this.registration.dispose();
  }
}

/** The text of the document after some edits, which do not overlap. */
function changed(document: vscode.TextDocument, edits: vscode.TextEdit[]): string {
  const last = [...edits].sort((a, b) => b.range.start.compareTo(a.range.start));
  return last.reduce((text, { range, newText }) => {
    const [start, end] = [document.offsetAt(range.start), document.offsetAt(range.end)];
    return text.slice(0, start) + newText + text.slice(end);
  }, document.getText());
}

/** Closes the comparison with this document on its right side. */
async function close(right: vscode.Uri): Promise<void> {
  const tabs = vscode.window.tabGroups.all.flatMap(group => group.tabs);
  const shown = tabs.filter(({ input }) => input instanceof vscode.TabInputTextDiff && input.modified.toString() === right.toString());
  await vscode.window.tabGroups.close(shown);
}
