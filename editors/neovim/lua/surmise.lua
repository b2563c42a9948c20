-- Starts the server and shows its suggestions: `require('surmise').setup()`.
-- Neovim 0.12 has inline completion in its core; for 0.11, `surmise/ghost.lua` does the same.
local M = {}

local defaults = {
  accept = '<Tab>', -- takes the suggestion; without one the key does what it did before
  dismiss = '<C-]>', -- hides the suggestion until the next change
  settings = {}, -- what `surmise config schema` lists
}

--- Core shows a suggestion while you type into it, but keeps its range (0.12.4): what was typed since would be
--- there twice. Widens the range to the cursor, or gives nil if something else was typed.
local function fit_to_cursor(item)
  if type(item.insert_text) ~= 'string' or not item.range then
    return item
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local start_row, start_col, end_row, end_col = item.range:to_extmark()
  if start_row ~= row - 1 or end_row ~= start_row or end_col >= col then
    return item
  end
  local typed = vim.api.nvim_get_current_line():sub(start_col + 1, col)
  if not vim.startswith(item.insert_text, typed) then
    return nil
  end
  local range = { start = { line = row - 1, character = start_col }, ['end'] = { line = row - 1, character = col } }
  item.range = vim.range.lsp(vim.api.nvim_get_current_buf(), range, 'utf-8')
  return item
end

--- The part of the job that differs between versions: enable, is_enabled, accept, dismiss.
local function ghost_text()
  local core = vim.lsp.inline_completion
  if not core then
    return require('surmise.ghost')
  end
  return {
    enable = function(on) core.enable(on) end,
    is_enabled = function() return core.is_enabled() end,
    accept = function() return core.get({ on_accept = fit_to_cursor }) end,
    dismiss = function()
      -- Core offers no "hide": switching it off and on again drops what is shown.
      local bufnr = vim.api.nvim_get_current_buf()
      core.enable(false, { bufnr = bufnr })
      core.enable(true, { bufnr = bufnr })
    end,
  }
end

--- Maps `key` in insert mode to `action`; where that has nothing to do, the key keeps its earlier meaning.
local function map(key, desc, action)
  if not key or key == '' then
    return
  end
  local earlier = vim.fn.maparg(key, 'i', false, true)
  local function keycodes(keys)
    return vim.api.nvim_replace_termcodes(keys, true, true, true)
  end
  --- What the key did before, as keys to type.
  local function before()
    if earlier.callback and earlier.expr ~= 1 then
      vim.schedule(earlier.callback) -- it may change text, which an expression mapping must not
      return ''
    elseif earlier.expr == 1 then
      local keys
      if earlier.callback then
        keys = earlier.callback()
      else
        keys = vim.api.nvim_eval((earlier.rhs:gsub('<SID>', ('<SNR>%d_'):format(earlier.sid))))
      end
      keys = keys == nil and '' or tostring(keys)
      return earlier.replace_keycodes == 1 and keycodes(keys) or keys
    end
    return keycodes(earlier.rhs or key)
  end
  vim.keymap.set('i', key, function()
    return action() and '' or before()
  end, { expr = true, replace_keycodes = false, desc = desc })
end

--- Whether suggestions are shown.
function M.is_enabled()
  return ghost_text().is_enabled()
end

--- Shows suggestions or, with `false`, neither asks for any nor shows one.
function M.enable(on)
  ghost_text().enable(on ~= false)
end

--- Switches suggestions on or off and says which.
function M.toggle()
  M.enable(not M.is_enabled())
  vim.notify('Surmise: suggestions are ' .. (M.is_enabled() and 'on' or 'off'))
end

--- Inserts the visible suggestion; false if there is none.
function M.accept()
  return ghost_text().accept()
end

--- Hides the visible suggestion.
function M.dismiss()
  ghost_text().dismiss()
end

--- Rewrites lines `first` to `last`, counted from 1, as `instruction` says; asks for one if there is none.
function M.edit(first, last, instruction)
  require('surmise.edit').edit(first, last, instruction)
end

--- Starts the server for every supported file and shows suggestions while you type.
function M.setup(opts)
  opts = vim.tbl_extend('force', defaults, opts or {})
  if opts.cmd then
    vim.lsp.config('surmise', { cmd = opts.cmd })
  end
  if next(opts.settings) then
    vim.lsp.config('surmise', { settings = { surmise = opts.settings } })
  end
  local program = vim.lsp.config.surmise.cmd[1]
  if vim.fn.executable(program) == 0 then
    local remedy = 'put it on your PATH, or name it: require("surmise").setup({ cmd = { "/path/to/surmise", "lsp", "--stdio" } })'
    vim.notify(('Surmise: there is no program "%s"; %s'):format(program, remedy), vim.log.levels.ERROR)
    return
  end
  map(opts.accept, 'Surmise: accept the suggestion', M.accept)
  map(opts.dismiss, 'Surmise: hide the suggestion', M.dismiss)
  require('surmise.edit').setup()
  M.enable(true)
  vim.lsp.enable('surmise')
end

return M
