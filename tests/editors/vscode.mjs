// Compiles and packages the VS Code extension, and checks what came out.
//
//     node vscode.mjs SURMISE
//
// SURMISE is the binary whose settings the package must list. Needs `npm ci` in editors/vscode before. The extension
// meets the real workbench in workbench.mjs.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import Module, { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const surmise = path.resolve(process.argv[2]);
const extension = fileURLToPath(new URL('../../editors/vscode/', import.meta.url));
const require = createRequire(path.join(extension, 'package.json'));
const run = (program, args, input) => execFileSync(program, args, { cwd: extension, input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'inherit'] });
const manifest = JSON.parse(fs.readFileSync(path.join(extension, 'package.json'), 'utf8'));
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'surmise-vscode-'));
process.on('exit', () => fs.rmSync(scratch, { recursive: true, force: true }));

/** A folder with an executable file of the given name in it. */
function folderWith(program) {
  const folder = fs.mkdtempSync(path.join(scratch, 'folder-'));
  fs.mkdirSync(path.dirname(path.join(folder, program)), { recursive: true });
  fs.writeFileSync(path.join(folder, program), '', { mode: 0o755 });
  return folder;
}

/** Names of the files in a zip archive, from its central directory. */
function namesInZip(archive) {
  const bytes = fs.readFileSync(archive);
  const end = bytes.lastIndexOf(Buffer.from('PK\x05\x06'));
  const names = [];
  for (let at = bytes.readUInt32LE(end + 16), i = 0; i < bytes.readUInt16LE(end + 10); i++) {
    const [name, extra, comment] = [28, 30, 32].map(field => bytes.readUInt16LE(at + field));
    names.push(bytes.toString('utf8', at + 46, at + 46 + name));
    at += 46 + name + extra + comment;
  }
  return names;
}

/** A source file of the extension that needs no VS Code, as a module. */
function source(name) {
  const bundle = path.join(scratch, `${name}.cjs`);
  run('npx', ['--no-install', 'esbuild', `src/${name}.ts`, '--bundle', '--platform=node', '--format=cjs', '--log-level=error', `--outfile=${bundle}`]);
  return require(bundle);
}

/** Stands for anything in VS Code: may be called, constructed, extended, and has every member. */
function anything() {
  return new Proxy(class {}, {
    get: (target, key) => (key === 'prototype' ? target.prototype : key === Symbol.toPrimitive ? () => 'anything' : anything()),
    apply: () => anything(),
    construct: (target, args, newTarget) => Reflect.construct(target, args, newTarget),
  });
}

test('the types are right', () => {
  run('npx', ['--no-install', 'tsc', '--noEmit']);
});

test('the settings are those of the server', () => {
  const schema = execFileSync(surmise, ['config', 'schema'], { encoding: 'utf8' });
  run(process.execPath, ['scripts/settings.mjs', '--check'], schema);
  const settings = Object.keys(manifest.contributes.configuration.properties);
  assert.ok(settings.includes('surmise.completion.enabled'), 'the toggle command needs it');
});

test('the package holds the extension and nothing else', () => {
  run('npm', ['run', '--silent', 'package']);
  const names = namesInZip(path.join(extension, 'surmise.vsix')).filter(name => !name.startsWith('extension/bin/'));
  const expected = ['[Content_Types].xml', 'extension.vsixmanifest', 'extension/LICENSE.txt', 'extension/dist/extension.js',
    'extension/package.json', 'extension/readme.md', 'extension/screenshot.png'];
  assert.deepEqual(names.sort(), expected);
});

test('the lock file names no download hosts', () => {
  assert.doesNotMatch(fs.readFileSync(path.join(extension, 'package-lock.json'), 'utf8'), /"resolved"|https?:\/\/[^"]*\/-\//);
});

test('the program: setting, then package, then path', () => {
  const { findServer } = source('find_server');
  const [onPath, packaged, empty] = [folderWith('surmise'), folderWith('bin/surmise'), fs.mkdtempSync(path.join(scratch, 'empty-'))];
  const find = (configured, extensionFolder, PATH) => findServer({ configured, extensionFolder, env: { PATH }, platform: 'linux' });
  assert.equal(find('', empty, [empty, onPath].join(':')), path.join(onPath, 'surmise'));
  assert.equal(find('', packaged, onPath), path.join(packaged, 'bin/surmise'));
  assert.equal(find(path.join(onPath, 'surmise'), packaged, ''), path.join(onPath, 'surmise'));
  assert.throws(() => find('', empty, empty), /not on the PATH\. Install it, or give its place in the setting surmise\.path/);
  assert.throws(() => find('/nowhere/surmise', packaged, onPath), /surmise\.path is "\/nowhere\/surmise", but there is no program there/);
  assert.throws(() => find(onPath, packaged, onPath), /no program there/, 'a folder is not a program');
});

test('the server hears of what the user has set, and of nothing else', () => {
  const { chosenSettings } = source('settings');
  const values = {
    'surmise.path': { globalValue: '/opt/surmise' },
    'surmise.completion.enabled': { globalValue: true, workspaceValue: false },
    'surmise.completion.max_tokens': { defaultValue: 64 },
    'surmise.engine.threads': { globalValue: 0 },
    'surmise.model': { globalValue: 'a.gguf' },
  };
  assert.deepEqual(chosenSettings([...Object.keys(values), 'surmise.trace.server'], key => values[key]),
    { completion: { enabled: false }, engine: { threads: 0 }, model: 'a.gguf' });
});

test('without the program the extension says what to do', async () => {
  const said = [];
  const item = { show() {}, dispose() {} };
  const commands = {};
  const vscode = new Proxy({
    window: {
      createOutputChannel: () => ({ info() {}, error() {}, show() {}, dispose() {} }),
      createStatusBarItem: () => item,
      showErrorMessage: async (...message) => void said.push(message),
    },
    workspace: {
      getConfiguration: () => ({ get: (name, fallback) => (name === 'path' ? '/nowhere/surmise' : fallback) }),
      onDidChangeConfiguration: () => ({ dispose() {} }),
      registerTextDocumentContentProvider: () => ({ dispose() {} }),
    },
    commands: { registerCommand: (name, action) => ((commands[name] = action), { dispose() {} }) },
    MarkdownString: class { appendText(text) { this.text = text; } appendMarkdown() {} },
    ThemeColor: class {},
    StatusBarAlignment: { Right: 2 },
  }, { get: (target, key) => target[key] ?? anything() });
  const load = Module._load;
  Module._load = (name, ...rest) => (name === 'vscode' ? vscode : load(name, ...rest));
  const { activate, deactivate } = require(path.join(extension, 'dist/extension.js'));
  Module._load = load;
  await activate({ subscriptions: [], extensionPath: scratch, extension: { packageJSON: manifest } });
  assert.match(said[0][0], /^Surmise: The setting surmise\.path is "\/nowhere\/surmise"/);
  assert.deepEqual(said[0].slice(1), ['Open Settings', 'Show the Log']);
  assert.equal(item.text, '$(error) Surmise');
  assert.deepEqual(Object.keys(commands).sort(), manifest.contributes.commands.map(({ command }) => command).sort());
  await deactivate();
});
