#!/usr/bin/env python3
"""Writes what transformers makes of chat templates: the fixtures of engine/tests/chat_template.rs.

TEMPLATES is a folder with llama.cpp's collection of templates, named as there. For each of NAMES and each conversation,
OUT gets the text that `apply_chat_template` gives, or null where it raises: because the template refuses, or because Python
fails in it.

Needs transformers 5 and jinja2. usage: chat_templates.py TEMPLATES OUT.json
"""

import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

NAMES = [
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct",
    "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3-Coder", "Qwen3.5-4B", "Qwen-QwQ-32B", "openai-gpt-oss-120b",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "google-gemma-2-2b-it",
    "google-gemma-4-31B-it", "mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506",
    "unsloth-mistral-Devstral-Small-2507", "ibm-granite-granite-3.3-2B-Instruct", "ibm-granite-granite-4.0",
    "microsoft-Phi-3.5-mini-instruct", "HuggingFaceTB-SmolLM3-3B", "google-gemma-4-31B-it-interleaved",
    "ibm-granite-granite-4.1", "mistralai-Ministral-3-14B-Reasoning-2512", "GLM-4.6", "GLM-4.7-Flash",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "meetkai-functionary-medium-v3.2", "fireworks-ai-llama-3-firefunction-v2",
    "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-V3.2", "llama-cpp-deepseek-r1", "meetkai-functionary-medium-v3.1",
    "Bielik-11B-v3.0-Instruct", "GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B", "moonshotai-Kimi-K2", "Kimi-K2-Instruct",
    "Kimi-K2-Thinking", "MiMo-VL", "openbmb-MiniCPM5-1B", "unsloth-Apriel-1.5", "Apriel-1.6-15b-Thinker-fixed",
]  # fmt: skip

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a \u201ccity\u201d, 'now' & <soon>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "days": {"type": "integer", "enum": [1, 2]},
            },
            "required": ["city"],
        },
    },
}
SYSTEM = {"role": "system", "content": "You write Rust."}
QUESTION = {"role": "user", "content": "What does `a << 2` do?\n"}
ANSWER = {"role": "assistant", "content": "It shifts a by two bits."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call12345",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}},
        }
    ],
}
# As OpenAI has arguments.
CALL_AS_TEXT = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
        for call in CALL["tool_calls"]
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": '{"sky": "clear"}'}
REASONED = ANSWER | {"reasoning_content": "A shift.", "thinking": "A shift."}
# What Firefunction calls tools, and the time that it wants to be told.
FIREFUNCTION = {
    "functions": json.dumps([WEATHER["function"]], ensure_ascii=False),
    "datetime": "2026-03-05 12:34:56 UTC",
}
CONVERSATIONS = {
    "question": {"messages": [QUESTION]},
    "system": {"messages": [SYSTEM, QUESTION]},
    "turns": {"messages": [SYSTEM, QUESTION, ANSWER, QUESTION]},
    "reasoned": {"messages": [QUESTION, REASONED, QUESTION]},
    "no thinking": {"messages": [QUESTION], "enable_thinking": False},
    "high effort": {"messages": [QUESTION], "reasoning_effort": "high"},
    "tools": {"messages": [SYSTEM, QUESTION], "tools": [WEATHER]},
    "call": {"messages": [QUESTION, CALL, RESULT], "tools": [WEATHER]},
    "call as text": {"messages": [QUESTION, CALL_AS_TEXT, RESULT], "tools": [WEATHER]},
    "functions": {"messages": [SYSTEM, QUESTION]} | FIREFUNCTION,
    "functions, call": {"messages": [QUESTION, CALL, RESULT, ANSWER, QUESTION]} | FIREFUNCTION,
    "ended": {"messages": [QUESTION, ANSWER], "add_generation_prompt": False},
}
COMMON = {"bos_token": "<BOS>", "eos_token": "<EOS>", "pad_token": "<PAD>", "unk_token": "<UNK>"}


def render(template: str, arguments: dict) -> str:
    try:
        rendered, _ = render_jinja_template(chat_template=template, **arguments)
    except TypeError:
        if "tools" in arguments:
            raise
        # A template for conversations with tools goes through the tools that there are.
        rendered, _ = render_jinja_template(chat_template=template, tools=[], **arguments)
    return rendered[0]


def main() -> None:
    templates, out = Path(sys.argv[1]), Path(sys.argv[2])
    # Some templates ask for the date.
    import transformers.utils.chat_template_utils as utils

    class Today(utils.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 3, 5)

    utils.datetime = Today
    expected = {}
    for name in NAMES:
        template = (templates / f"{name}.jinja").read_text()
        expected[name] = {}
        for conversation, arguments in CONVERSATIONS.items():
            arguments = {"add_generation_prompt": True} | COMMON | arguments
            arguments["conversations"] = [arguments.pop("messages")]
            try:
                expected[name][conversation] = render(template, arguments)
            except Exception as error:
                print(f"{name}, {conversation}: {type(error).__name__}: {error}", file=sys.stderr)
                expected[name][conversation] = None
    fixture = {"conversations": CONVERSATIONS, "expected": expected}
    out.write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
