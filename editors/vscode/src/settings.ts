// Which settings the server hears of. Knows nothing of VS Code, so that it can be tested without one.

/** What VS Code's `inspect` says of a setting, as far as it matters here. */
export interface Inspected {
  globalValue?: unknown;
  workspaceValue?: unknown;
  workspaceFolderValue?: unknown;
}

/** Settings of this extension itself: the server would warn that it does not know them. */
const OWN = ['surmise.path', 'surmise.trace.server'];

/**
 * The settings that the user has set, nested as the server reads them. Defaults stay out: sent along, they would win
 * over the user's `config.toml`, which the server reads for all editors.
 */
export function chosenSettings(keys: readonly string[], inspect: (key: string) => Inspected | undefined): object {
  const chosen: Record<string, unknown> = {};
  for (const key of keys.filter(key => !OWN.includes(key))) {
    const { globalValue, workspaceValue, workspaceFolderValue } = inspect(key) ?? {};
    const value = workspaceFolderValue ?? workspaceValue ?? globalValue;
    if (value === undefined) {
      continue;
    }
    const path = key.split('.').slice(1);
    const name = path.pop()!;
    const group = path.reduce((at, name) => (at[name] ??= {}) as Record<string, unknown>, chosen);
    group[name] = value;
  }
  return chosen;
}
