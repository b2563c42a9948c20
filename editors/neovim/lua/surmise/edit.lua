-- `:SurmiseEdit`: lines rewritten as the user says. The server asks the editor to apply what comes of it; here are only the
-- question, the lines at work, and a way to stop.
local M = {}

local ns = vim.api.nvim_create_namespace('surmise.edit')

-- The edit under way: { client, id, bufnr }.
local running = nil

local function finish()
  if running and vim.api.nvim_buf_is_valid(running.bufnr) then
    vim.api.nvim_buf_clear_namespace(running.bufnr, ns, 0, -1)
  end
  running = nil
end

--- Stops the edit under way; false if there is none.
function M.cancel()
  if not running then
    return false
  end
  running.client:cancel_request(running.id)
  finish()
  return true
end

--- Rewrites lines `first` to `last`, counted from 1, of the current buffer. Without an instruction the user is asked for one.
function M.edit(first, last, instruction)
  local bufnr = vim.api.nvim_get_current_buf()
  local client = vim.lsp.get_clients({ bufnr = bufnr, name = 'surmise' })[1]
  if not client then
    return vim.notify('Surmise: no server is attached to this buffer', vim.log.levels.WARN)
  end
  if not instruction or instruction == '' then
    return vim.ui.input({ prompt = 'Edit: ' }, function(typed)
      if typed and vim.trim(typed) ~= '' then
        M.edit(first, last, typed)
      end
    end)
  end
  M.cancel()
  local order = {
    uri = vim.uri_from_bufnr(bufnr),
    version = vim.lsp.util.buf_versions[bufnr],
    range = { start = { line = first - 1, character = 0 }, ['end'] = { line = last, character = 0 } },
    instruction = instruction,
  }
  local id
  local sent, request = client:request('workspace/executeCommand', { command = 'surmise.edit', arguments = { order } }, function(err, answer)
    if running and running.id == id then
      finish()
    end
    if err then
      vim.notify('Surmise: ' .. err.message, vim.log.levels.WARN)
    elseif answer and not answer.applied then
      vim.notify('Surmise: the edit was not applied: ' .. (answer.reason or 'the text has changed'), vim.log.levels.WARN)
    end
  end, bufnr)
  if not sent then
    return
  end
  id = request
  running = { client = client, id = id, bufnr = bufnr }
  vim.api.nvim_buf_set_extmark(bufnr, ns, first - 1, 0, { end_row = last, hl_group = 'SurmiseEdit', hl_eol = true, strict = false })
end

--- Makes the command. Called once, by `setup`.
function M.setup()
  vim.api.nvim_set_hl(0, 'SurmiseEdit', { link = 'Visual', default = true })
  vim.api.nvim_create_user_command('SurmiseEdit', function(call)
    if not call.bang then
      M.edit(call.line1, call.line2, call.args)
    elseif not M.cancel() then
      vim.notify('Surmise: no edit is under way')
    end
  end, { range = true, nargs = '*', bang = true, desc = 'Surmise: edit these lines as you say; with ! stop that' })
end

return M
