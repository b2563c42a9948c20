"""Runs the built Zed extension in wasmtime, with stubs for what Zed offers it, and checks every answer.

    python zed.py COMPONENT

COMPONENT is editors/zed built for wasm32-wasip2. Needs PyPI's wasmtime.
"""
import json
import sys
import tempfile
import tomllib
from pathlib import Path

from wasmtime import Engine, Store, WasiConfig
from wasmtime.component import Component, Linker, Record, ResourceHost, ResourceType, Variant

EXTENSION = Path(__file__).resolve().parents[2] / "editors" / "zed"


class Zed:
    """One instance of the extension, and what it may see: settings, and programs on the path."""

    def __init__(self, component):
        self.settings, self.path, self.asked = {}, {}, []
        engine = Engine()
        self.store = Store(engine)
        wasi = WasiConfig()
        wasi.inherit_stdout()
        wasi.inherit_stderr()
        wasi.preopen_dir(tempfile.mkdtemp(), "/extension")
        wasi.env = [("PWD", "/extension")]  # Zed sets it to the extension's own folder
        self.store.set_wasi(wasi)
        linker = Linker(engine)
        linker.add_wasip2()
        with linker.root() as root:
            for i, name in enumerate(["worktree", "project", "key-value-store"], 1):
                root.add_resource(name, ResourceType.host(i), lambda context, handle: None)
            root.add_func("get-settings", self.get_settings)
            root.add_func("[method]worktree.id", method(lambda: 7))
            root.add_func("[method]worktree.root-path", method(lambda: "/project"))
            root.add_func("[method]worktree.which", method(self.path.get))
            root.add_func("[method]worktree.shell-env", method(lambda: [("HOME", "/home/someone")]))
        self.instance = linker.instantiate(self.store, Component.from_file(engine, component))
        self.call("init-extension")

    def get_settings(self, _context, _location, category, key):
        self.asked.append((category, key))
        return Variant("ok", json.dumps(self.settings.get(category, {}).get(key) or {}))

    def call(self, name, *arguments):
        function = self.instance.get_func(self.store, name)
        assert function, f"the extension does not export {name}"
        result = function(self.store, *arguments)
        if hasattr(function, "post_return"):
            function.post_return(self.store)
        return result

    def ask(self, name):
        """Calls a function of the language server "surmise" in a worktree; gives ("ok" or "err", payload)."""
        result = self.call(name, "surmise", ResourceHost.own(1, 1).to_any(self.store)
                           if hasattr(ResourceHost.own(1, 1), "to_any") else ResourceHost.own(1, 1))
        # wasmtime unwraps a result whose two sides have different types.
        if isinstance(result, Record):
            return "ok", vars(result)
        return (result.tag, result.payload) if isinstance(result, Variant) else ("err", result)


def method(function):
    def with_self(context, handle, *arguments):
        handle.drop(context)  # a borrowed handle must be given back
        return function(*arguments)
    return with_self


def test_the_program_on_the_path_is_started(zed):
    zed.path["surmise"] = "/usr/local/bin/surmise"
    tag, command = zed.ask("language-server-command")
    assert (tag, command["command"], list(command["args"])) == ("ok", "/usr/local/bin/surmise", ["lsp", "--stdio"]), (tag, command)
    assert ("HOME", "/home/someone") in [tuple(pair) for pair in command["env"]], command
    assert ("lsp", "surmise") in zed.asked, zed.asked


def test_settings_name_another_program(zed):
    zed.path["surmise"] = "/usr/local/bin/surmise"
    zed.settings["lsp"] = {"surmise": {"binary": {"path": "/opt/surmise", "arguments": ["lsp", "--stdio", "--model", "m.gguf"], "env": {"A": "b"}}}}
    tag, command = zed.ask("language-server-command")
    assert (tag, command["command"], list(command["args"])) == ("ok", "/opt/surmise", ["lsp", "--stdio", "--model", "m.gguf"]), (tag, command)
    assert ("A", "b") in [tuple(pair) for pair in command["env"]], command


def test_a_missing_program_is_an_error_with_a_remedy(zed):
    tag, message = zed.ask("language-server-command")
    assert tag == "err" and "no program `surmise` on the PATH" in message and '{"lsp": {"surmise": {"binary": {"path":' in message, message


def test_settings_reach_the_server(zed):
    settings, options = {"completion": {"extent": "line"}}, {"completion": {"max_tokens": 8}}
    zed.settings["lsp"] = {"surmise": {"settings": settings, "initialization_options": options}}
    tag, text = zed.ask("language-server-initialization-options")
    assert (tag, json.loads(text)) == ("ok", options), text
    tag, text = zed.ask("language-server-workspace-configuration")
    assert (tag, json.loads(text)) == ("ok", {"surmise": settings}), text


def test_without_settings_there_are_no_options(zed):
    assert zed.ask("language-server-initialization-options") == ("ok", None)
    tag, text = zed.ask("language-server-workspace-configuration")
    assert (tag, json.loads(text)) == ("ok", {"surmise": {}}), text


def test_the_manifest_has_what_zed_asks_for(_zed):
    manifest = tomllib.loads((EXTENSION / "extension.toml").read_text())
    assert manifest["schema_version"] == 1 and all(manifest[key] for key in ("id", "name", "version", "authors", "description"))
    assert "zed" not in manifest["id"] and manifest["id"].endswith("-lsp"), manifest["id"]
    server = manifest["language_servers"]["surmise"]
    assert sorted(server["languages"]) == sorted(server["language_ids"]), "each language has an identifier"
    assert manifest["version"] == tomllib.loads((EXTENSION / "Cargo.toml").read_text())["package"]["version"]
    assert (EXTENSION / "LICENSE").is_file(), "Zed wants a licence in the extension's own folder"


if __name__ == "__main__":
    component = sys.argv[1]
    assert b"zed:api-version" in Path(component).read_bytes(), "the component does not say which interface it was built for"
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test(Zed(component))
            print(f"ok  {name[5:].replace('_', ' ')}", flush=True)
