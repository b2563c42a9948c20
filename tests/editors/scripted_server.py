"""A language server whose suggestions are written down: for what clients must do with rare answers.

`insert` answers are chosen by the text before the cursor on its line: SCRIPT maps an ending to an answer.
Every message that arrives is appended to the file named by SCRIPTED_LOG, one JSON value a line.
"""
import json
import os
import sys
import threading
import time

SCRIPT = json.loads(os.environ["SCRIPTED_ANSWERS"])  # {"ending": {"items": [...], "delay_s": 0.2} or null}
log = open(os.environ["SCRIPTED_LOG"], "a", buffering=1)
documents, cancelled, writing = {}, set(), threading.Lock()


def send(message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    with writing:
        sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        sys.stdout.buffer.flush()


def receive():
    length = 0
    while (line := sys.stdin.buffer.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def answer(message):
    params = message["params"]
    line, character = params["position"]["line"], params["position"]["character"]
    before = documents[params["textDocument"]["uri"]].split("\n")[line].encode("utf-16-le")[: 2 * character].decode("utf-16-le")
    for ending, entry in SCRIPT.items():
        if before.endswith(ending):
            time.sleep((entry or {}).get("delay_s", 0))
            if message["id"] in cancelled:
                return send({"id": message["id"], "error": {"code": -32800, "message": "cancelled"}})
            return send({"id": message["id"], "result": entry and {"items": entry["items"]}})
    send({"id": message["id"], "result": {"items": []}})


while message := receive():
    log.write(json.dumps(message) + "\n")
    method, params = message.get("method"), message.get("params") or {}
    if method == "initialize":
        capabilities = {"positionEncoding": "utf-16", "textDocumentSync": 1, "inlineCompletionProvider": True,
                        "executeCommandProvider": {"commands": ["scripted.accepted"]}}
        send({"id": message["id"], "result": {"capabilities": capabilities}})
    elif method == "textDocument/didOpen":
        documents[params["textDocument"]["uri"]] = params["textDocument"]["text"]
    elif method == "textDocument/didChange":
        documents[params["textDocument"]["uri"]] = params["contentChanges"][-1]["text"]
    elif method == "textDocument/inlineCompletion":
        threading.Thread(target=answer, args=(message,), daemon=True).start()
    elif method == "$/cancelRequest":
        cancelled.add(params["id"])
    elif method == "exit":
        break
    elif "id" in message and method:
        send({"id": message["id"], "result": None})
