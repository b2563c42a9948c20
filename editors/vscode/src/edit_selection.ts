// "Edit Selection…": asks the user what to do with the selected lines, and has the server do it.

import * as vscode from 'vscode';
import {
  ExecuteCommandRequest,
  LSPErrorCodes,
  ResponseError,
  WorkDoneProgress,
  type ExecuteCommandParams,
  type LanguageClient,
} from 'vscode-languageclient/node';

/** Why an edit is not applied that the user has seen and does not want: no reason for a message. */
export const DISCARDED = 'discarded';

/** What the server answers when an edit has come to its end. */
interface Outcome {
  applied: boolean;
  reason?: string | null;
}

/** What the user asked for last: often it is wanted again a few lines below. */
let lastInstruction = '';
let nRequests = 0;

/**
 * Rewrites the lines that the selection reaches into. The server sends the edit, which is previewed before it is applied; here are
 * the question before, a notification with a button that stops the model, and what went wrong.
 */
export async function editSelection(client: LanguageClient | undefined): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  if (client === undefined || editor === undefined) {
    void vscode.window.showWarningMessage(editor === undefined ? 'Surmise: open a file to edit.' : 'Surmise: the server is not running.');
    return;
  }
  const { document, selection } = editor;
  const { version } = document;
  // A selection that ends before the first character of a line does not reach into it.
  const n = Math.max(selection.end.line - selection.start.line + (selection.end.character > 0 ? 1 : 0), 1);
  const instruction = await vscode.window.showInputBox({
    title: n === 1 ? `Surmise: edit line ${selection.start.line + 1}` : `Surmise: edit ${n} lines`,
    placeHolder: 'What to do, such as: add a parameter timeout to connect',
    value: lastInstruction,
  });
  if (instruction === undefined || instruction.trim() === '') {
    return;
  }
  lastInstruction = instruction;
  const order = {
    uri: client.code2ProtocolConverter.asUri(document.uri),
    version,
    range: client.code2ProtocolConverter.asRange(selection),
    instruction,
  };
  try {
    const { applied, reason } = await request(client, instruction, { command: 'surmise.edit', arguments: [order] });
    if (!applied && reason !== DISCARDED) {
      void vscode.window.showWarningMessage(`Surmise: the edit was not applied: ${reason ?? 'the text has changed'}`);
    }
  } catch (error) {
    if (!(error instanceof ResponseError && error.code === LSPErrorCodes.RequestCancelled)) {
      void vscode.window.showWarningMessage(`Surmise: ${error instanceof Error ? error.message : error}`);
    }
  }
}

/** Sends the command, with a notification for as long as the model works: not while the user looks at what came of it. */
async function request(client: LanguageClient, title: string, params: ExecuteCommandParams): Promise<Outcome> {
  const token = `surmise/edit-selection/${++nRequests}`;
  const options = { location: vscode.ProgressLocation.Notification, title: `Surmise: ${title}`, cancellable: true };
  let modelIsDone = () => {};
  const listener = client.onProgress(WorkDoneProgress.type, token, ({ kind }) => {
    if (kind === 'end') {
      modelIsDone();
    }
  });
  try {
    let answered: Promise<Outcome> | undefined;
    await vscode.window.withProgress(options, (_, cancellation) => {
      answered = client.sendRequest(ExecuteCommandRequest.type, { ...params, workDoneToken: token }, cancellation);
      const ended = new Promise<void>(resolve => (modelIsDone = resolve));
      return Promise.race([ended, answered.catch(() => {})]);
    });
    return await answered!;
  } finally {
    listener.dispose();
  }
}
