"""Chat templates in the structure of well-known model families, shortened, and a byte-level tokenizer for each."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_QWEN_SYSTEM = """
{%- set first = messages[0].content if messages[0].role == 'system' else default %}
{%- if tools %}
<|im_start|>system
{% if first %}{{ first }}

{% endif %}
Functions:
<tools>
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
</tools>
A call: <tool_call>
{"name": NAME, "arguments": OBJECT}
</tool_call><|im_end|>
{% elif first %}
{{- '<|im_start|>system\\n' + first + '<|im_end|>\\n' }}
{%- endif %}
"""
_QWEN_TOOL = """
{%- elif message.role == 'tool' %}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
    {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
"""
QWEN25 = (
    "{%- set default = 'I am a default.' %}"
    + _QWEN_SYSTEM
    + """
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
    {{- '<|im_start|>assistant' + ('\\n' + message.content if message.content else '') }}
    {%- for call in message.tool_calls %}
    {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
    {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
"""
    + _QWEN_TOOL
    + """
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
)
# Thoughts before the last question of the user are dropped, and the last turn always shows its thought.
QWEN3 = (
    "{%- set default = '' %}"
    + _QWEN_SYSTEM
    + """
{%- set ns = namespace(question=0) %}
{%- for message in messages %}
{%- if message.role == 'user' and not message.content.startswith('<tool_response>') %}
    {%- set ns.question = loop.index0 %}
{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'user' %}
    {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
    {%- set parts = message.content.split('</think>') %}
    {%- set thought = parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '' %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if loop.index0 > ns.question and (loop.last or thought) %}
    {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- parts[-1].lstrip('\\n') + '<|im_end|>\\n' }}
"""
    + _QWEN_TOOL
    + """
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""
)
LLAMA31 = """
{{- bos_token }}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Environment: ipython\\n' if tools else '' }}{{ 'A date.\\n\\n' + system + '<|eot_id|>' }}
{%- for message in rest %}
{%- if message.role in ('tool', 'ipython') %}
    {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
    {{- message.content | tojson if message.content is mapping or message.content is iterable else message.content }}
    {{- '<|eot_id|>' }}
{%- else %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {%- if loop.first and tools %}
    {{- 'Reply with {"name": NAME, "parameters": OBJECT}.\\n\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}
    {%- endif %}
    {{- message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""
GEMMA3 = """
{{- bos_token }}
{%- set system = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}
{%- for message in (messages[1:] if system else messages) %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{{- (system if loop.first else '') + (message.content | trim) + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
# Any role is written into the header of a message; models know three.
SMOLLM2 = """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nI am a default.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_FAMILIES = {
    "qwen2.5": (QWEN25, _CHATML, "<|im_end|>", None),
    "qwen3": (QWEN3, _CHATML, "<|im_end|>", None),
    "llama3.1": (
        LLAMA31,
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "gemma3": (GEMMA3, ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>"),
    "smollm2": (SMOLLM2, _CHATML, "<|im_end|>", None),
}
FAMILIES = tuple(_FAMILIES)
CLOSING = {name: "<end_of_turn>" if name == "gemma3" else eos for name, (_, _, eos, _) in _FAMILIES.items()}
"""The token with which a model of each family ends its turn."""


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per byte, for two newlines, for tags and for `>` with two newlines, and the family's special tokens."""
    template, special, eos, bos = _FAMILIES[family]
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ċ", "Ċ"), (">", "ĊĊ"), (">", "Ċ")]
    pieces = {**letters, **{a + b: len(letters) + i for i, (a, b) in enumerate(merges)}}
    inner = Tokenizer(models.BPE(pieces, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    inner.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    if bos is not None:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    names = {"eos_token": eos} | ({} if bos is None else {"bos_token": bos})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=list(special), **names)
    tokenizer.chat_template = template
    return tokenizer
