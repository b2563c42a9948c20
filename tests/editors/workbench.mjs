// Opens the real VS Code workbench in a browser, types, looks at the ghost text and accepts it.
//
//     node workbench.mjs CODE_SERVER VSIX SURMISE [SCREENSHOT]
//
// CODE_SERVER is the folder of npm's code-server, VSIX the packaged extension, SURMISE the binary to test. Needs
// npm's playwright-core, in the folder beside code-server, and a chromium; `tests/editors/run workbench` brings both.

import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';

const [codeServer, vsix, surmise, screenshot] = process.argv.slice(2).map(file => path.resolve(file));
const { chromium } = createRequire(path.join(codeServer, 'package.json'))('playwright-core');

const SAMPLE = `import json
from pathlib import Path


def read_settings(folder):
    file = Path(folder) / "settings.json"
    if not file.exists():
        return {}
    return json.loads(file.read_text())


def read_state(folder):
    file = Path(folder) / "state.json"
`;
// Typed piece by piece until something is suggested: not every place deserves it.
const TYPED = ['    if ', 'not ', 'file.', 'exists():\n        ', 'return ', '{}\n    return '];
const PORT = 18000 + (process.pid % 1000);

const root = fs.mkdtempSync(path.join(os.tmpdir(), 'surmise-workbench-'));
const folder = name => (fs.mkdirSync(path.join(root, name), { recursive: true }), path.join(root, name));
const file = path.join(folder('project'), 'settings.py');
fs.writeFileSync(file, SAMPLE);
const settings = JSON.stringify({
  'surmise.path': surmise,
  ...(process.env.SURMISE_TEST_MODEL && { 'surmise.model': process.env.SURMISE_TEST_MODEL }),
  'security.workspace.trust.enabled': false,
  'telemetry.telemetryLevel': 'off',
  'editor.quickSuggestions': { other: 'off', comments: 'off', strings: 'off' },
  'editor.wordBasedSuggestions': 'off',
  'editor.autoIndent': 'none',
  'editor.minimap.enabled': false,
  'editor.fontSize': 15,
  'workbench.colorTheme': 'Default Dark Modern',
  'workbench.startupEditor': 'none',
  'workbench.tips.enabled': false,
  'chat.disableAIFeatures': true,
  'window.commandCenter': false,
  'workbench.secondarySideBar.defaultVisibility': 'hidden',
  'workbench.activityBar.location': 'hidden',
  'workbench.layoutControl.enabled': false,
  'breadcrumbs.enabled': false,
});
// The server reads the machine's settings, the browser asks it for the user's.
for (const place of ['Machine', 'User']) fs.writeFileSync(path.join(folder(`user/${place}`), 'settings.json'), settings);

const main = path.join(codeServer, 'lib/vscode/out/server-main.js');
const dirs = ['--server-data-dir', folder('.'), '--user-data-dir', folder('user'), '--extensions-dir', folder('extensions'),
  '--accept-server-license-terms', '--telemetry-level', 'off'];
execFileSync(process.execPath, [main, ...dirs, '--install-extension', vsix], { stdio: 'ignore' });
const server = spawn(process.execPath, [main, ...dirs, '--host', '127.0.0.1', '--port', `${PORT}`, '--without-connection-token'],
  { env: { ...process.env, XDG_CONFIG_HOME: root }, stdio: ['ignore', 'pipe', fs.openSync(path.join(root, 'server.log'), 'w')] });
await new Promise(listening => server.stdout.on('data', text => `${text}`.includes('Extension host agent listening') && listening()));

const browser = await chromium.launchPersistentContext(folder('profile'), {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true,
  viewport: { width: 760, height: 500 }, deviceScaleFactor: 2,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'],
});
let failed = false;
const page = browser.pages()[0] ?? (await browser.newPage());
try {
  const payload = JSON.stringify([['openFile', `vscode-remote://127.0.0.1:${PORT}${file}`]]);
  await page.goto(`http://127.0.0.1:${PORT}/?folder=${path.dirname(file)}&payload=${encodeURIComponent(payload)}`, { timeout: 90_000 });
  await page.waitForSelector('.monaco-editor .view-lines', { timeout: 90_000 });
  await page.waitForSelector('.statusbar-item[aria-label^="Surmise: Ready"]', { timeout: 90_000 });
  console.log('status bar: ready');

  await page.click('.monaco-editor .view-lines');
  await page.keyboard.press('Control+b');
  await page.keyboard.press('Control+End');
  const ghostText = async () => (await page.$$eval('[class*="ghost-text"]', found => found.map(element => element.textContent))).join('');
  let ghost = '';
  for (const piece of TYPED) {
    await page.keyboard.type(piece, { delay: 40 });
    for (let i = 0; i < 30 && ghost.trim() === ''; i++) {
      await page.waitForTimeout(100);
      ghost = await ghostText();
    }
    if (ghost.trim() !== '') break;
  }
  if (ghost.trim() === '') throw new Error('no ghost text');
  await page.waitForTimeout(500);
  console.log('ghost text:', JSON.stringify(ghost));
  if (screenshot) await page.screenshot({ path: screenshot });

  const lines = () => page.$$eval('.monaco-editor .view-line', found =>
    found.map(element => [element.offsetTop, element.textContent]).sort((a, b) => a[0] - b[0]).map(([, text]) => text.replaceAll('\u00a0', ' ')));
  const before = (await lines()).join('\n');
  await page.keyboard.press('Tab');
  let after = before;
  for (let i = 0; i < 100 && after === before; i++) {
    await page.waitForTimeout(100);
    after = (await lines()).join('\n');
  }
  if (after === before) throw new Error('Tab did not accept the suggestion');
  console.log(`accepted:\n${after}`);

  // Says what to do with a line, looks at what would change, and applies it.
  const edited = () => lines().then(all => all.find(text => text.includes('settings.json')));
  const goTo = async n => {
    await page.keyboard.press('Control+g');
    await page.keyboard.type(`${n}`);
    await page.keyboard.press('Enter');
    await page.waitForTimeout(300);
  };
  const waitForLine = wanted =>
    page.waitForFunction(wanted => [...document.querySelectorAll('.view-line')].some(it => it.textContent.includes(wanted)), wanted, { timeout: 20_000 });
  await goTo(6);
  await page.keyboard.press('Control+k');
  await page.keyboard.press('Control+e');
  await page.waitForSelector('.quick-input-widget input', { timeout: 10_000 });
  await page.keyboard.type('use single quotes');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.quick-input-list .monaco-list-row:has-text("Keep")', { timeout: 20_000 });
  await page.waitForSelector('.monaco-diff-editor', { timeout: 20_000 });
  await page.waitForTimeout(1000);
  if (screenshot) await page.screenshot({ path: screenshot.replace('.png', '-preview.png') });
  await page.keyboard.press('Enter');
  await page.waitForSelector('.monaco-diff-editor', { state: 'detached', timeout: 20_000 });
  await waitForLine("'settings.json'");
  console.log(`edited: ${(await edited()).trim()}`);

  // Chooses an edit from the menu, and takes it back.
  await page.click('.monaco-editor .view-lines');
  await goTo(6);
  await page.keyboard.press('Control+.');
  await page.waitForSelector('.action-widget .monaco-list-row', { timeout: 20_000 });
  if (screenshot) await page.screenshot({ path: screenshot.replace('.png', '-menu.png') });
  console.log(`menu: ${(await page.$$eval('.action-widget .monaco-list-row', found => found.map(it => it.textContent.trim()))).join(' | ')}`);
  await page.click('.action-widget .monaco-list-row:has-text("Use Double Quotes")');
  await waitForLine('"settings.json"');
  console.log(`chosen from the menu: ${(await edited()).trim()}`);
  await page.keyboard.press('Control+z');
  await waitForLine("'settings.json'");
  console.log('one undo took it back');

  await page.click('.statusbar-item[aria-label^="Surmise"]');
  await page.waitForSelector('.statusbar-item[aria-label^="Surmise: Suggestions are off"]', { timeout: 10_000 });
  console.log('status bar: off after a click');
} catch (error) {
  failed = true;
  console.error(error.message);
  await page.screenshot({ path: 'workbench-failed.png' });
  for (const log of fs.globSync?.(path.join(root, 'data/logs/**/*Surmise*.log')) ?? []) console.error(fs.readFileSync(log, 'utf8').slice(-4000));
}
await browser.close();
server.kill();
await new Promise(ended => server.on('exit', ended));
fs.rmSync(root, { recursive: true, force: true });
process.exit(failed ? 1 : 0);
