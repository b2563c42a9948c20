// Where the server program is. Knows nothing of VS Code, so that it can be tested without one.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

/** Why there is no server to start; the message says what to do. */
export class ServerNotFound extends Error {}

/** What to search; `env` and `platform` are the process's own, except in tests. */
export interface Places {
  /** The setting `surmise.path`; empty if the user has not set it. */
  configured: string;
  /** The extension's folder, whose `bin/` holds the program in platform packages. */
  extensionFolder: string;
  env?: NodeJS.ProcessEnv;
  platform?: NodeJS.Platform;
}

/** The program to start: the setting, else the one packaged with the extension, else the first on the PATH. */
export function findServer({ configured, extensionFolder, env = process.env, platform = process.platform }: Places): string {
  const program = platform === 'win32' ? 'surmise.exe' : 'surmise';
  if (configured !== '') {
    const wanted = configured.replace(/^~(?=$|[\\/])/, os.homedir());
    if (isProgram(wanted)) {
      return wanted;
    }
    throw new ServerNotFound(
      `The setting surmise.path is "${configured}", but there is no program there. Correct the setting, or empty it to search the PATH.`,
    );
  }
  const folders = [path.join(extensionFolder, 'bin'), ...(env.PATH ?? env.Path ?? '').split(path.delimiter)];
  const found = folders.filter(folder => folder !== '').map(folder => path.join(folder, program)).find(isProgram);
  if (found === undefined) {
    throw new ServerNotFound(
      `The program "${program}" is not on the PATH. Install it, or give its place in the setting surmise.path.`,
    );
  }
  return found;
}

function isProgram(file: string): boolean {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}
