-- Ghost text for Neovim 0.11, which has no `vim.lsp.inline_completion`: ask after each change, draw the answer
-- at the cursor with an extmark, insert it on accept. Only the newest question counts; older ones are cancelled.
local M = {}

local METHOD = 'textDocument/inlineCompletion'
local ns = vim.api.nvim_create_namespace('surmise.ghost')
local group = vim.api.nvim_create_augroup('surmise.ghost', { clear = true })
local enabled = false

-- The suggestion on screen: { client, bufnr, item, row, start_col, n_replaced, tail }. Columns are bytes;
-- [start_col, cursor) is already typed, the first `n_replaced` bytes of `tail`, the line behind the cursor, go.
local shown = nil
-- The question under way: { client, id, bufnr, tick, row, col }.
local asked = nil

local function cursor()
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  return row - 1, col
end

local function clear()
  if shown and vim.api.nvim_buf_is_valid(shown.bufnr) then
    vim.api.nvim_buf_clear_namespace(shown.bufnr, ns, 0, -1)
  end
  shown = nil
end

local function cancel()
  if asked and asked.id then
    asked.client:cancel_request(asked.id)
  end
  asked = nil
end

--- What is still to be typed of the suggestion, or nil if what stands before the cursor departs from it.
local function remainder()
  local row, col = cursor()
  if not shown or shown.bufnr ~= vim.api.nvim_get_current_buf() or row ~= shown.row or col < shown.start_col then
    return nil
  end
  local line = vim.api.nvim_get_current_line()
  local typed = line:sub(shown.start_col + 1, col)
  local text = shown.item.insertText
  if text:sub(1, #typed) ~= typed or #typed == #text or line:sub(col + 1) ~= shown.tail then
    return nil
  end
  return text:sub(#typed + 1)
end

--- Draws the rest of the suggestion at the cursor, or removes it if it no longer fits.
local function draw()
  local rest = remainder()
  if not rest then
    return clear()
  end
  vim.api.nvim_buf_clear_namespace(shown.bufnr, ns, 0, -1)
  local row, col = cursor()
  local lines = vim.split(rest, '\n', { plain = true })
  -- Text that the suggestion replaces behind the cursor is on screen already: do not show it twice.
  local replaced = shown.tail:sub(1, shown.n_replaced)
  if #lines == 1 and replaced ~= '' and vim.endswith(rest, replaced) then
    lines[1] = rest:sub(1, #rest - #replaced)
  end
  local below = {}
  for i = 2, #lines do
    below[#below + 1] = { { (lines[i]:gsub('\t', (' '):rep(vim.bo.tabstop))), 'SurmiseGhost' } }
  end
  vim.api.nvim_buf_set_extmark(shown.bufnr, ns, row, col, {
    virt_text = { { lines[1], 'SurmiseGhost' } },
    virt_text_pos = 'inline',
    virt_lines = #below > 0 and below or nil,
    hl_mode = 'combine',
  })
end

--- Takes the server's answer, if nothing has changed since the question.
local function show(question, answer)
  local row, col = cursor()
  local same = asked == question
    and vim.api.nvim_get_current_buf() == question.bufnr
    and vim.api.nvim_buf_get_changedtick(question.bufnr) == question.tick
    and row == question.row
    and col == question.col
  if not same or vim.fn.mode():sub(1, 1) ~= 'i' or not answer then
    return -- A null answer means "nothing new": what is shown stays.
  end
  clear()
  local item = (answer.items or answer)[1]
  if not item or type(item.insertText) ~= 'string' then
    return
  end
  local line, start_col, end_col = vim.api.nvim_get_current_line(), col, col
  if item.range then
    local encoding = question.client.offset_encoding
    start_col = vim.str_byteindex(line, encoding, item.range.start.character, false)
    end_col = vim.str_byteindex(line, encoding, item.range['end'].character, false)
  end
  shown = {
    client = question.client,
    bufnr = question.bufnr,
    item = item,
    row = row,
    start_col = start_col,
    n_replaced = math.max(end_col - col, 0),
    tail = line:sub(col + 1),
  }
  draw()
end

local function ask()
  local bufnr = vim.api.nvim_get_current_buf()
  local client = enabled and vim.lsp.get_clients({ bufnr = bufnr, name = 'surmise' })[1]
  if not client or not client.server_capabilities.inlineCompletionProvider then
    return
  end
  local row, col = cursor()
  local question = { client = client, bufnr = bufnr, tick = vim.api.nvim_buf_get_changedtick(bufnr), row = row, col = col }
  local repeated = asked and asked.bufnr == bufnr and asked.tick == question.tick and asked.row == row and asked.col == col
  if repeated then
    return -- One key fires both TextChangedI and CursorMovedI.
  end
  if shown then
    draw()
  end
  cancel()
  asked = question
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.context = { triggerKind = 2 } -- 2: asked by typing, not by a key
  local _, id = client:request(METHOD, params, function(err, answer)
    question.id = nil
    if not err then
      show(question, answer)
    end
  end, bufnr)
  question.id = id
end

--- Hides the suggestion and forgets the question under way; whether there was a suggestion.
function M.dismiss()
  local was_shown = shown ~= nil
  cancel()
  clear()
  return was_shown
end

--- Inserts the visible suggestion; false if there is none.
function M.accept()
  if not remainder() then
    return false
  end
  local taken, _, col = shown, cursor()
  -- Scheduled: inside a mapping that returns keys the buffer is locked.
  vim.schedule(function()
    M.dismiss()
    local lines = vim.split(taken.item.insertText, '\n', { plain = true })
    vim.api.nvim_buf_set_text(taken.bufnr, taken.row, taken.start_col, taken.row, col + taken.n_replaced, lines)
    local last_col = #lines == 1 and taken.start_col + #lines[1] or #lines[#lines]
    vim.api.nvim_win_set_cursor(0, { taken.row + #lines, last_col })
    if taken.item.command then
      taken.client:exec_cmd(taken.item.command, { bufnr = taken.bufnr })
    end
  end)
  return true
end

--- Whether suggestions are asked for.
function M.is_enabled()
  return enabled
end

--- Starts or stops asking for suggestions.
function M.enable(on)
  enabled = on
  vim.api.nvim_clear_autocmds({ group = group })
  if not on then
    return M.dismiss()
  end
  vim.api.nvim_set_hl(0, 'SurmiseGhost', { link = 'Comment', default = true })
  vim.api.nvim_create_autocmd({ 'InsertEnter', 'TextChangedI', 'TextChangedP', 'CursorMovedI' }, { group = group, callback = ask })
  vim.api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave' }, {
    group = group,
    callback = function()
      M.dismiss() -- without its answer: an autocommand that answers something is deleted
    end,
  })
end

return M
