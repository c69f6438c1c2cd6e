"""What an OpenAI-compatible server tells of itself: whether it serves yet, and what the model there is. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from workers.engines.base import Capabilities

CONTEXT_TOKENS_DEFAULT = 1 << 20
"""Context of a model whose server does not tell: as long as the longest that are sold. What is too long for the model
is refused there, and its words are passed on; this bounds what one choice of an answer may make us keep."""

OUTPUT_TOKENS_DEFAULT = 4096
"""What a request that names no limit is taken for where work is shared out. Nobody's answer is cut at it."""

STEP_S_MAX = 30.0
"""Longer than it takes to find that a server is gone (`upstream_run.SILENT_S`, and one knock): a worker that waits for
its server is not hung."""


class Model(msgspec.Struct):
    """An entry of `/models`. `root` and `max_model_len` are vLLM's and SGLang's, `meta` is llama-server's; `created` is
    left out: it is the time of the call in some servers."""

    id: str
    root: str | None = None
    owned_by: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    max_context_length: int | None = None
    meta: _Meta | None = None


class _Meta(msgspec.Struct):
    """`n_ctx` is the context it was started with, the others are facts of the model's file."""

    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_vocab: int | None = None
    n_embd: int | None = None
    n_params: int | None = None
    size: int | None = None


class _Models(msgspec.Struct):
    data: list[Model]


def not_ready(health: int, models: int) -> str:
    """Why the server does not serve yet, by the statuses of `/health` and `/models`; empty: it does.

    Any other answer than "not now" will do: not every server has both. llama-server lists its models while it loads
    them, and says 503 to `/health`.
    """
    for path, status in (("/health", health), ("/models", models)):
        if status >= 500 or status == 429:
            return f"{path} answers {status}"
    return ""


def models_of(body: bytes) -> list[Model]:
    """What `/models` lists; nothing where it is no such list."""
    try:
        return msgspec.json.decode(body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def find(models: list[Model], name: str) -> Model | None:
    """The entry of a model. The only entry stands for it under any name: servers of one model often do not look at the
    name, and list it as the path of its file."""
    named = next((model for model in models if model.id == name), None)
    return named or (models[0] if len(models) == 1 else None)


def tells_ids(model: Model | None) -> bool:
    """Whether the server tells the ids of its tokens when it is asked to."""
    return model is not None and model.owned_by == "vllm"


def capabilities(
    url: str, name: str, model: Model | None, *, slots: int, max_tokens_default: int
) -> Capabilities:
    """`url` is shown to others: without credentials. `max_tokens_default` 0: as the server does it.

    A log is continued only on the same server and model, as far as it tells them apart: another version behind the same
    name shows when it makes something else of the log's prefix.
    """
    context = CONTEXT_TOKENS_DEFAULT if model is None else _context_tokens_max(model)
    told = "" if model is None else "@" + hashlib.sha256(msgspec.json.encode(model)).hexdigest()[:12]
    return Capabilities(
        engine="openai",
        revision=f"{url} {name}{told}",
        tokenizer="ids" if tells_ids(model) else "pieces",
        context_tokens_max=context,
        max_tokens_default=min(max_tokens_default or OUTPUT_TOKENS_DEFAULT, context),
        slots=slots,
        step_s_max=STEP_S_MAX,
    )


def _context_tokens_max(model: Model) -> int:
    meta = model.meta or _Meta()
    told = (
        model.max_model_len,
        model.context_length,
        model.max_context_length,
        meta.n_ctx,
        meta.n_ctx_train,
    )
    return next((tokens for tokens in told if tokens and tokens > 0), CONTEXT_TOKENS_DEFAULT)
