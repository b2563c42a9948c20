"""Drives a real Neovim through the editors/neovim client: types, looks at the ghost text, accepts it.

    python neovim.py NVIM SURMISE

NVIM is a Neovim of 0.11 or later, SURMISE the binary to test. Needs PyPI's pynvim.
"""
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pynvim

NVIM, SURMISE = sys.argv[1:3]
HERE = Path(__file__).resolve().parent
CLIENT = HERE.parent.parent / "editors" / "neovim"


class Editor:
    """One Neovim with the client installed, editing a file of a new folder."""

    def __init__(self, file_name, text, cmd, env=None, settings=None):
        self.dir = Path(tempfile.mkdtemp(prefix="surmise-nvim-"))
        (self.dir / file_name).write_text(text)
        (self.dir / "init.lua").write_text(
            f"vim.opt.runtimepath:prepend({json.dumps(str(CLIENT))})\n"
            f"require('surmise').setup({{ cmd = vim.json.decode([=[{json.dumps(cmd)}]=]), "
            f"settings = vim.json.decode([=[{json.dumps(settings or {})}]=]) }})\n")
        # A home of its own: no one's settings, and the language server's log can be read afterwards.
        os.environ.update({f"XDG_{kind}_HOME": str(self.dir) for kind in ("CONFIG", "DATA", "STATE")} | (env or {}))
        self.nvim = pynvim.attach("child", argv=[NVIM, "--embed", "--headless", "--clean", "-u", str(self.dir / "init.lua")])
        self.nvim.command("set columns=100 lines=30 shiftwidth=4 expandtab")
        self.nvim.command(f"edit {self.dir / file_name}")
        self.wait(lambda: self.lua("local c = vim.lsp.get_clients({ bufnr = 0 })[1]; return c ~= nil and c.initialized == true"),
                  "the server attaches")

    def lua(self, code, *args):
        return self.nvim.exec_lua(code, *args)

    def type(self, keys):
        for key in keys if "<" not in keys else [keys]:
            self.nvim.input(key)
            self.nvim.command("redraw")  # one event loop turn for each key, as with a person typing
            time.sleep(0.02)

    def ghost(self):
        """The suggestion on screen, or None."""
        for name, namespace in self.nvim.api.get_namespaces().items():
            if name not in ("surmise.ghost", "nvim.lsp.inline_completion"):
                continue
            for _, _, _, details in self.nvim.api.buf_get_extmarks(0, namespace, 0, -1, {"details": True}):
                lines = [details.get("virt_text", [])] + details.get("virt_lines", [])
                return "\n".join("".join(chunk[0] for chunk in line) for line in lines)
        return None

    def screen(self):
        """What a person sees, line by line."""
        self.nvim.command("redraw!")
        return self.lua("""
            local lines = {}
            for row = 1, vim.o.lines do
              local cells = {}
              for column = 1, vim.o.columns do cells[column] = vim.fn.screenstring(row, column) end
              lines[row] = table.concat(cells)
            end
            return table.concat(lines, '\\n')""")

    def wait(self, condition, what, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.05)
        log = self.dir / "nvim" / "lsp.log"
        raise AssertionError(f"{what}: not within {seconds} s; buffer {self.text()!r}, ghost {self.ghost()!r}, "
                             f"messages {self.nvim.command_output('messages')!r}, log {log.read_text()[-2000:] if log.exists() else ''}")

    def text(self):
        return "\n".join(self.nvim.current.buffer[:])

    def close(self):
        try:
            self.nvim.command("qa!")
        except (EOFError, OSError):
            pass
        shutil.rmtree(self.dir, ignore_errors=True)


def scripted(answers, text=""):
    log = Path(tempfile.mkstemp(suffix=".jsonl")[1])
    editor = Editor("a.py", text, [sys.executable, str(HERE / "scripted_server.py")],
                    {"SCRIPTED_ANSWERS": json.dumps(answers), "SCRIPTED_LOG": str(log)})
    editor.received = lambda: [json.loads(line) for line in log.read_text().splitlines()]
    return editor


def model_arguments():
    """The model under test: SURMISE_TEST_MODEL, or the embedded one."""
    return ["--model", os.environ["SURMISE_TEST_MODEL"]] if "SURMISE_TEST_MODEL" in os.environ else []


def item(text, start, end, line=0, **more):
    return {"items": [{"insertText": text, "range": {"start": {"line": line, "character": start},
                                                     "end": {"line": line, "character": end}}, **more}]}


def test_real_suggestion_is_shown_and_accepted():
    # How sure the model is does not matter here, only that its text arrives.
    settings = {"completion": {"min_confidence": 0.0}}
    editor = Editor("numbers.py", "numbers = [1, 2, 3]\nfirst = numbers[0]\nsecond = numbers[1]\nthird = numbers[2]\nprint(first)\n",
                    [SURMISE, "lsp", "--stdio", *model_arguments()], settings=settings)
    editor.nvim.command("normal! G")
    ghost = None
    # The model may still be loading, and not every place deserves a suggestion: a person would type on.
    for keys in ["A", "<CR>", "print(", "second", ")", "<CR>", "print(", "third)", "<CR>", "if first", " == ", "second:", "<CR>"] + 20 * ["x", "<BS>"]:
        editor.type(keys)
        end = time.monotonic() + 2
        while not (ghost := editor.ghost()) and time.monotonic() < end:
            time.sleep(0.05)
        if ghost:
            break
    assert ghost, f"no ghost text; buffer {editor.text()!r}"
    for line in ghost.split("\n"):
        assert line[:60] in editor.screen(), f"{line!r} is not on the screen:\n{editor.screen()}"
    before = editor.text()
    editor.type("<Tab>")
    editor.wait(lambda: editor.text() != before, "accepting changes the buffer")
    assert len(editor.text()) > len(before) and ghost in editor.text(), f"{ghost!r} is not in {editor.text()!r}"
    print(f"    suggested {ghost!r} after {before[-20:]!r}")
    editor.close()


def test_accept_inserts_all_lines_and_runs_the_command():
    editor = scripted({"add": item("def add(a, b):\n    return a + b", 0, 7, command={"title": "", "command": "scripted.accepted", "arguments": [7]})})
    editor.type("idef add")
    assert editor.wait(editor.ghost, "ghost text") == "(a, b):\n    return a + b"
    assert editor.screen().split()[:8] == ["def", "add(a,", "b):", "return", "a", "+", "b", "~"], editor.screen()
    editor.type("<Tab>")
    editor.wait(lambda: editor.text() == "def add(a, b):\n    return a + b", "both lines are inserted")
    assert editor.nvim.api.win_get_cursor(0) == [2, 16], "the cursor stands behind what was accepted"
    editor.wait(lambda: any(m.get("params", {}).get("command") == "scripted.accepted" for m in editor.received() if m.get("method") == "workspace/executeCommand"), "the command runs")
    editor.close()


def test_accept_replaces_text_behind_the_cursor_and_counts_utf16():
    # "é" is one UTF-16 unit and two bytes, "😀" two units and four bytes.
    editor = scripted({"(": item("é😀f(x)", 0, 6)}, "é😀f)")
    editor.type("A")
    editor.type("<Left>")
    editor.type("(")
    assert editor.wait(editor.ghost, "ghost text") in ("x", "x)"), editor.ghost()
    editor.type("<Tab>")
    editor.wait(lambda: editor.text() == "é😀f(x)", "the closing parenthesis is not doubled")
    editor.close()


def test_tab_without_a_suggestion_is_a_tab():
    editor = scripted({})
    editor.type("ix")
    editor.type("<Tab>")
    editor.wait(lambda: editor.text() == "x   ", "a tab to the next stop")
    editor.close()


def test_tab_without_a_suggestion_does_what_it_did_before():
    editor = scripted({})
    for mapping, expected in [
        (r"""vim.cmd([[inoremap <expr> <Tab> pumvisible() ? "\<C-n>" : "\<Tab>"]])""", "x   "),
        (r"""vim.cmd([[inoremap <expr> <Tab> "y\<lt>b>\<Left>\<Left>\<Left>"]])""", "xy<b>"),
        (r"""vim.cmd([[inoremap <Tab> y<Space>z<lt>b>]])""", "xy z<b>"),
        (r"""vim.keymap.set('i', '<Tab>', function() return 'y<Space>z' end, { expr = true })""", "xy z"),
        (r"""vim.keymap.set('i', '<Tab>', function() vim.api.nvim_put({ 'yz' }, 'c', false, true) end)""", "xyz"),
        (r"""vim.cmd([[imap <expr> <Tab> 0 ? '<Plug>(jump)' : '<Tab>']])""", "x   "),
        (r"""vim.cmd([[inoremap <Plug>(jump) yz]]) vim.cmd([[imap <expr> <Tab> 1 ? '<Plug>(jump)' : '<Tab>']])""", "xyz"),
        (r"""vim.cmd([[imap <Tab> <Plug>(jump)]])""", "xyz"),
        # Another buffer's own mapping is not everybody's.
        (r"""local b = vim.api.nvim_get_current_buf() vim.cmd('new') vim.keymap.set('i', '<Tab>', 'no', { buffer = 0 })
             vim.schedule(function() vim.cmd('bwipeout!') vim.api.nvim_set_current_buf(b) end)""", "x   "),
    ]:
        editor.lua(f"vim.keymap.del('i', '<Tab>') {mapping} require('surmise').setup() require('surmise').setup()")
        editor.type("Sx")
        editor.type("<Tab>")
        editor.wait(lambda: editor.text() == expected, f"the key does what it did: {mapping}")
        editor.type("<Esc>")
    editor.close()


def test_typing_what_was_predicted_keeps_the_rest():
    # Only "f" has an answer with text; later questions get null, "nothing new".
    editor = scripted({"f": item("for x in y", 0, 1), "fo": None, "for": None})
    editor.type("if")
    editor.wait(lambda: editor.ghost() == "or x in y", "ghost text")
    editor.type("o")
    editor.wait(lambda: editor.ghost() == "r x in y", "the rest stays")
    editor.type("r")
    editor.wait(lambda: editor.ghost() == " x in y", "the rest stays")
    editor.type("<Tab>")
    editor.wait(lambda: editor.text() == "for x in y", "all of it is inserted once")
    editor.close()


def test_typing_something_else_hides_it():
    editor = scripted({"f": item("for x in y", 0, 1)})
    editor.type("if")
    editor.wait(editor.ghost, "ghost text")
    editor.type("u")
    editor.wait(lambda: editor.ghost() is None, "the suggestion goes")
    editor.close()


def test_a_late_answer_is_cancelled_and_never_shown():
    editor = scripted({"f": {**item("for x in y", 0, 1), "delay_s": 1.0}})
    editor.type("ifu")
    time.sleep(1.5)
    assert editor.ghost() is None, editor.ghost()
    asked = [m["id"] for m in editor.received()
             if m.get("method") == "textDocument/inlineCompletion" and m["params"]["position"]["character"] == 1]
    cancelled = [m["params"]["id"] for m in editor.received() if m.get("method") == "$/cancelRequest"]
    assert asked == cancelled, (asked, cancelled)
    editor.close()


def test_dismiss_and_leaving_insert_mode_hide_it():
    editor = scripted({"f": item("for x in y", 0, 1)})
    for key in ("<C-]>", "<Esc>", "<Esc>"):
        editor.type("Sf" if editor.nvim.eval("mode()") == "n" else "<C-u>f")
        editor.wait(editor.ghost, "ghost text")
        editor.type(key)
        editor.wait(lambda: editor.ghost() is None, f"{key} hides it")
    editor.close()


def test_dismiss_without_a_suggestion_does_what_the_key_did_before():
    editor = scripted({"f": item("for x in y", 0, 1)}, "\nabc")
    editor.lua("require('surmise').setup({ dismiss = '<C-e>' })")
    editor.type("if")
    editor.wait(editor.ghost, "ghost text")
    editor.type("<C-e>")
    editor.wait(lambda: editor.ghost() is None, "the key hides it")
    assert editor.text() == "f\nabc"
    editor.type("<C-e>")
    editor.wait(lambda: editor.text() == "fb\nabc", "the key copies from the line below")
    editor.close()


def test_a_suggestion_that_the_cursor_has_left_is_not_taken():
    for keys, expected in [("<CR>", "xf\n    "), ("<BS><BS>", "    ")]:
        editor = scripted({"xf": item("for x in y", 1, 2)})
        editor.type("ixf")
        editor.wait(editor.ghost, "ghost text")
        editor.type(keys + "<Tab>")
        editor.wait(lambda: editor.text() == expected, f"{keys} and Tab type a tab")
        editor.close()


def test_a_key_that_left_insert_mode_does_so_without_a_suggestion():
    editor = scripted({"f": item("for x in y", 0, 1)})
    editor.lua("require('surmise').setup({ dismiss = '<Esc>' })")
    for _ in range(2):
        editor.type("Sx")
        editor.type("<Esc>")
        editor.wait(lambda: editor.nvim.eval("mode()") == "n", "the key leaves insert mode")
        editor.type("Sf")
        editor.wait(editor.ghost, "ghost text")
        editor.type("<Esc>")
        editor.wait(lambda: editor.ghost() is None, "the key hides it")
        assert editor.nvim.eval("mode()") == "i"
        editor.type("<Esc>")
        editor.wait(lambda: editor.nvim.eval("mode()") == "n", "the key leaves insert mode")
    editor.close()


def test_off_asks_nothing():
    editor = scripted({"f": item("for x in y", 0, 1)})
    editor.lua("require('surmise').toggle()")
    editor.type("if")
    time.sleep(0.5)
    assert editor.ghost() is None
    assert not [m for m in editor.received() if m.get("method") == "textDocument/inlineCompletion"]
    editor.type("<Esc>")
    editor.lua("require('surmise').toggle()")
    editor.type("Sf")
    editor.wait(editor.ghost, "ghost text again")
    editor.close()


def test_shown_beside_the_popup_menu():
    editor = scripted({"fo": item("for x in foot:", 0, 2)}, "\nfoo foot")
    editor.type("if")
    editor.type("<C-n>")
    editor.nvim.command("set completeopt=menuone,noselect")
    editor.type("<C-e>")
    editor.type("o")
    editor.type("<C-x><C-n>")
    editor.wait(lambda: editor.nvim.eval("pumvisible()"), "the popup menu opens")
    editor.wait(lambda: editor.ghost() == "r x in foot:", "the suggestion stays")
    editor.type("<Tab>")
    editor.wait(lambda: editor.text().startswith("for x in foot:"), "the key takes the suggestion")
    editor.close()


QUOTES = 'names = ["é", "b"]\nprint(names)\n'


def surmise(file_name, text):
    """The real server with the model under test, once that is loaded."""
    editor = Editor(file_name, text, [SURMISE, "lsp", "--stdio", *model_arguments()])
    editor.wait(lambda: editor.lua("""
        local offered
        vim.lsp.buf_request_all(0, 'textDocument/codeAction', {
          textDocument = vim.lsp.util.make_text_document_params(), context = { diagnostics = {} },
          range = { start = { line = 0, character = 0 }, ['end'] = { line = 0, character = 0 } },
        }, function(answers) offered = answers end)
        vim.wait(2000, function() return offered end, 10)
        for _, answer in pairs(offered or {}) do if answer.result and #answer.result > 0 then return true end end
        return false"""), "the model is loaded")
    return editor


def test_code_actions_are_offered_and_done():
    editor = surmise("names.py", QUOTES)
    editor.lua("vim.ui.select = function(items, options, choose) _G.offered = vim.tbl_map(options.format_item, items); _G.choose = function(i) choose(items[i], i) end end")
    editor.lua("vim.lsp.buf.code_action()")
    offered = editor.wait(lambda: editor.lua("return _G.offered"), "the menu opens")
    print(f"    offered {offered}")
    first = next(i for i, title in enumerate(offered, 1) if title.startswith("Use Single Quotes"))
    editor.lua("_G.choose(...)", first)
    editor.wait(lambda: editor.text() == QUOTES.replace('"', "'").rstrip("\n"), "the quotes are changed")
    editor.type("u")
    editor.wait(lambda: editor.text() == QUOTES.rstrip("\n"), "one undo takes all of it back")
    editor.close()


def test_lines_are_edited_as_the_user_says():
    editor = surmise("names.py", QUOTES)
    editor.type("j")
    editor.nvim.command("1SurmiseEdit use single quotes")
    editor.wait(lambda: editor.text() == QUOTES.replace('"', "'").rstrip("\n"), "the quotes are changed")
    assert editor.nvim.api.win_get_cursor(0) == [2, 0], "the cursor stays"
    # Without an instruction the user is asked.
    editor.lua("vim.ui.input = function(options, answer) _G.asked = options.prompt; answer('use double quotes') end")
    editor.nvim.command("1")
    editor.nvim.command("SurmiseEdit")
    editor.wait(lambda: editor.text() == QUOTES.rstrip("\n"), "the quotes are back")
    assert editor.lua("return _G.asked") == "Edit: "
    # What comes to nothing is said.
    editor.nvim.command("2SurmiseEdit use double quotes")
    editor.wait(lambda: "nothing to change" in editor.nvim.command_output("messages"), "it is said")
    editor.nvim.command("SurmiseEdit!")
    assert "no edit is under way" in editor.nvim.command_output("messages")
    editor.close()


def test_a_missing_program_is_said_once_with_a_remedy():
    directory = Path(tempfile.mkdtemp())
    (directory / "init.lua").write_text(f"vim.opt.runtimepath:prepend({json.dumps(str(CLIENT))})\n"
                                        "require('surmise').setup({ cmd = { 'no-such-program' } })\n")
    nvim = pynvim.attach("child", argv=[NVIM, "--embed", "--headless", "--clean", "-u", str(directory / "init.lua")])
    said = nvim.command_output("messages")
    assert 'there is no program "no-such-program"' in said and "put it on your PATH" in said, said
    nvim.command("qa!", async_=True)


if __name__ == "__main__":
    only = sys.argv[3:]
    tests = [(name, test) for name, test in list(globals().items()) if name.startswith("test_")]
    for name, test in tests:
        if only and name not in only:
            continue
        start = time.monotonic()
        test()
        print(f"ok  {name[5:].replace('_', ' ')} ({time.monotonic() - start:.1f} s)", flush=True)
