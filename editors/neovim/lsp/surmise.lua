-- The server, as `vim.lsp.config` reads it (Neovim 0.11 and later). Override any field with
-- `vim.lsp.config('surmise', { ... })`; this file starts nothing by itself.
return {
  cmd = { 'surmise', 'lsp', '--stdio' },
  filetypes = {
    'bash', 'c', 'cpp', 'cs', 'css', 'go', 'html', 'java', 'javascript', 'javascriptreact', 'json', 'jsonc',
    'lua', 'markdown', 'php', 'python', 'ruby', 'rust', 'sh', 'sql', 'toml', 'typescript', 'typescriptreact',
    'yaml',
  },
  root_markers = { '.git', '.hg', '.jj' },
  -- A single file outside any repository gets suggestions too.
  workspace_required = false,
  -- Neovim 0.12 says this by itself; 0.11 does not know the method yet.
  capabilities = { textDocument = { inlineCompletion = { dynamicRegistration = false } } },
  settings = { surmise = vim.empty_dict() },
}
