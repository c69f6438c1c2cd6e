"""Requests that leave a state on the output side of an engine, one of each kind that there is.

Written for the tiny model of `tests.vllm.tiny_model` and an engine that sees no request but these. What samples
brings a seed: two runs can be compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.answer import Api

PROMPT = "Write something about rivers."

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zäöü]{3,12}$"},
        "kind": {"enum": ["river", "stream", "brook"]},
        "length": {"type": "integer", "minimum": 1, "maximum": 99999},
    },
    "required": ["name", "kind", "length"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "water", "schema": SCHEMA}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "measure", "strict": True, "parameters": SCHEMA},
    },
    {
        "type": "function",
        "function": {"name": "dam", "strict": True, "parameters": {**SCHEMA, "required": ["kind"]}},
    },
]
NAMED = {"type": "function", "function": {"name": "measure"}}
# A random model never calls a tool of its own will: the grammar says what an able one would.
CALL = (
    r'[a-zé🌊 ]{2,6}<tool_call>\n\{"name": "measure", "arguments": '
    r'\{"name": "[a-zäöü]{3,12}", "kind": "brook", "length": [1-9]{2}\}\}\n</tool_call>'
)
END_OF_TURN = 2
END_OF_THOUGHT = 2047


class Case(NamedTuple):
    """One request, without its model. `stops`: it is to stop at these characters of what it says when it does not."""

    name: str
    api: Api
    body: dict[str, Any]
    stops: tuple[slice, ...] = ()

    def stopped(self, text: str) -> Case:
        """The request that stops inside `text`, its own answer."""
        return self._replace(body={**self.body, "stop": [text[part] for part in self.stops]}, stops=())


def chat(name: str, **fields: Any) -> Case:
    """A chat of one message."""
    return Case(name, "chat", {"messages": [{"role": "user", "content": PROMPT}], **fields})


def completion(name: str, **fields: Any) -> Case:
    """A completion of the same text."""
    return Case(name, "completion", {"prompt": PROMPT, **fields})


GREEDY = {"temperature": 0, "max_tokens": 48, "ignore_eos": True}
SEEDED = {"temperature": 1, "max_tokens": 48, "seed": 7, "ignore_eos": True}
ONE_CALL = {"temperature": 1, "max_tokens": 120, "seed": 6, "parallel_tool_calls": False}
LATE_STOPS = (slice(70, 76), slice(80, 83))
PENALTIES = {"presence_penalty": 1.0, "frequency_penalty": 0.7, "repetition_penalty": 1.2}
# What follows the thought has a grammar, which lets no second end of it in.
THINK = {"chat_template_kwargs": {"enable_thinking": True}, "logit_bias": {str(END_OF_THOUGHT): 42}}

CASES = [
    chat("chat greedy", **GREEDY),
    chat("chat seed", **SEEDED),
    chat("chat end of turn", temperature=1, seed=3, max_tokens=200, logit_bias={str(END_OF_TURN): 5}),
    chat("chat max_completion_tokens", temperature=0, max_completion_tokens=17, ignore_eos=True),
    chat("chat top_p top_k min_p", **SEEDED, top_p=0.9, top_k=40, min_p=0.02),
    chat("chat penalties", **SEEDED, **PENALTIES),
    chat("chat penalties greedy", **GREEDY, **PENALTIES),
    chat(
        "chat min_tokens", **{**SEEDED, "ignore_eos": False}, min_tokens=30, logit_bias={str(END_OF_TURN): 6}
    ),
    chat("chat logit_bias", **SEEDED, logit_bias={"300": 6, "301": -100}),
    chat("chat stop strings", **GREEDY)._replace(stops=LATE_STOPS),
    chat("chat stop string kept", **GREEDY, include_stop_str_in_output=True)._replace(stops=LATE_STOPS),
    chat("chat stop token", **GREEDY, stop_token_ids=list(range(300, 400))),
    chat("chat logprobs", **SEEDED, logprobs=True, top_logprobs=3),
    chat("chat logprobs greedy", **GREEDY, logprobs=True, top_logprobs=1),
    chat("chat n=2", **SEEDED, n=2),
    chat("chat n=2 logprobs", **SEEDED, n=2, logprobs=True, top_logprobs=2),
    chat("chat json_schema", temperature=1, seed=8, max_tokens=80, response_format=FORMAT),
    chat("chat json_object", temperature=1, seed=8, max_tokens=60, response_format={"type": "json_object"}),
    chat(
        "chat regex",
        temperature=1,
        seed=8,
        max_tokens=60,
        structured_outputs={"regex": "[a-fß]{20}x[0-9]{5}"},
    ),
    chat(
        "chat choice", temperature=1, seed=8, max_tokens=60, structured_outputs={"choice": ["Rhein", "Würm"]}
    ),
    chat("tools auto, no call", **GREEDY, tools=TOOLS, tool_choice="auto"),
    chat(
        "tools auto, a call",
        temperature=1,
        seed=8,
        max_tokens=120,
        tools=TOOLS,
        structured_outputs={"regex": CALL},
    ),
    chat("tools required", temperature=1, seed=6, max_tokens=120, tools=TOOLS, tool_choice="required"),
    chat("tools required, one call", **ONE_CALL, tools=TOOLS, tool_choice="required"),
    chat("tools named", temperature=1, seed=8, max_tokens=120, tools=TOOLS, tool_choice=NAMED),
    chat("tools none", **GREEDY, tools=TOOLS, tool_choice="none"),
    completion("completion greedy", **GREEDY),
    completion("completion seed", **SEEDED),
    completion("completion stop string", **SEEDED)._replace(stops=LATE_STOPS),
    completion("completion logprobs", **SEEDED, logprobs=2),
    completion("completion n=2", **SEEDED, n=2),
    completion("completion 2 prompts", **GREEDY)._replace(body={**GREEDY, "prompt": [PROMPT, "A lake is"]}),
    completion("completion 2 prompts n=2", **SEEDED)._replace(
        body={**SEEDED, "n": 2, "prompt": ["A stone is", "A lake is"]}
    ),
    completion("completion penalties", **SEEDED, **PENALTIES),
    completion(
        "completion json_schema", temperature=1, seed=8, max_tokens=80, structured_outputs={"json": SCHEMA}
    ),
    completion("completion echo", **GREEDY, echo=True),
]

WATERY = {"temperature": 1, "max_tokens": 80, "structured_outputs": {"regex": "[a-fß🌊]{20}"}}

REASONING = [
    chat("reasoning", seed=7, **WATERY, **THINK),
    chat("reasoning not ended", **GREEDY, chat_template_kwargs={"enable_thinking": True}),
    chat("reasoning json_schema", temperature=1, seed=8, max_tokens=120, response_format=FORMAT, **THINK),
    chat("reasoning n=2", seed=9, n=2, **WATERY, **THINK),
    chat("reasoning logprobs", seed=10, logprobs=True, **WATERY, **THINK),
]
"""For a server with a reasoning parser."""
