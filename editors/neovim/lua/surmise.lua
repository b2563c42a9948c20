-- Starts the server and shows its suggestions: `require('surmise').setup()`.
-- Neovim 0.12 has inline completion in its core; for 0.11, `surmise/ghost.lua` does the same.
local M = {}

local defaults = {
  accept = '<Tab>', -- takes the suggestion; without one the key does what it did before
  dismiss = '<C-]>', -- hides the suggestion until the next change
  settings = {}, -- what `surmise config schema` lists
}

--- Core shows a suggestion while you type into it, but keeps its range (0.12.4): what was typed since would be
--- there twice. It keeps one that the cursor has left, too, until the next answer. Widens the range to the cursor, or gives nil
--- if the cursor is elsewhere or something else was typed.
local function fit_to_cursor(item)
  if type(item.insert_text) ~= 'string' or not item.range then
    return item
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local start_row, start_col, end_row, end_col = item.range:to_extmark()
  if start_row ~= row - 1 or col < start_col then
    return nil
  end
  local typed = vim.api.nvim_get_current_line():sub(start_col + 1, col)
  if not vim.startswith(item.insert_text, typed) then
    return nil
  end
  if end_row ~= start_row or end_col >= col then
    return item
  end
  local range = { start = { line = row - 1, character = start_col }, ['end'] = { line = row - 1, character = col } }
  item.range = vim.range.lsp(vim.api.nvim_get_current_buf(), range, 'utf-8')
  return item
end

--- The part of the job that differs between versions: enable, is_enabled, accept, dismiss. `accept` calls `otherwise` if it finds out
--- too late that there is nothing to accept.
local function ghost_text()
  local core = vim.lsp.inline_completion
  if not core then
    return require('surmise.ghost')
  end
  return {
    enable = function(on) core.enable(on) end,
    is_enabled = function() return core.is_enabled() end,
    accept = function(otherwise)
      return core.get({
        on_accept = function(item)
          local fitting = fit_to_cursor(item)
          if not fitting then
            otherwise()
          end
          return fitting
        end,
      })
    end,
    dismiss = function()
      local bufnr = vim.api.nvim_get_current_buf()
      local namespace = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
      local is_shown = namespace and #vim.api.nvim_buf_get_extmarks(bufnr, namespace, 0, -1, { limit = 1 }) > 0
      if not is_shown or not core.is_enabled({ bufnr = bufnr }) then
        return false
      end
      -- Core offers no "hide": switching it off and on again drops what is shown.
      core.enable(false, { bufnr = bufnr })
      core.enable(true, { bufnr = bufnr })
      return true
    end,
  }
end

--- The mapping of `key` in insert mode that all buffers have; empty if there is none.
local function mapping_of(key)
  local no_buffer_has_it = vim.api.nvim_create_buf(false, true)
  local mapping = vim.api.nvim_buf_call(no_buffer_has_it, function()
    return vim.fn.maparg(key, 'i', false, true)
  end)
  vim.api.nvim_buf_delete(no_buffer_has_it, { force = true })
  return mapping
end

local function keycodes(keys)
  return vim.api.nvim_replace_termcodes(keys, true, true, true)
end

--- Maps `key` in insert mode to `action`; where that has nothing to do, the key keeps its earlier meaning.
---
--- The earlier mapping gets a name of its own, so that Neovim itself runs it, whatever kind it is of. It may end in `key` again, which
--- then means the key itself: `is_inside` says so from the first name to the second one.
local function map(key, desc, action)
  if not key or key == '' then
    return
  end
  local name = key:gsub('[<>]', '')
  local before, after = ('<Plug>(surmise-before-%s)'):format(name), ('<Plug>(surmise-after-%s)'):format(name)
  local earlier = mapping_of(key)
  if earlier.desc ~= desc then
    if next(earlier) then
      earlier.lhs, earlier.lhsraw, earlier.lhsrawalt = before, keycodes(before), nil
      vim.fn.mapset('i', false, earlier)
    else
      vim.keymap.set('i', before, key, { desc = 'what ' .. key .. ' was before Surmise' })
    end
  end
  local is_inside = false
  -- In every mode: what the key did may have been to leave insert mode.
  vim.keymap.set({ 'n', 'x', 's', 'o', 'i', 'c', 't' }, after, function()
    is_inside = false
    return ''
  end, { expr = true })
  vim.api.nvim_create_autocmd('InsertEnter', {
    group = vim.api.nvim_create_augroup('surmise.' .. name, { clear = true }),
    callback = function()
      is_inside = false
    end,
  })
  local function otherwise()
    is_inside = true
    vim.api.nvim_feedkeys(keycodes(before .. after), 'im', false)
  end
  vim.keymap.set('i', key, function()
    if is_inside then
      is_inside = false
      return key
    end
    if action(otherwise) then
      return ''
    end
    is_inside = true
    return before .. after
  end, { expr = true, remap = true, desc = desc })
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

--- Inserts the visible suggestion; false if there is none. Calls `otherwise`, if given, where that turns out later.
function M.accept(otherwise)
  return ghost_text().accept(otherwise or function() end)
end

--- Hides the visible suggestion; false if there is none.
function M.dismiss()
  return ghost_text().dismiss()
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
