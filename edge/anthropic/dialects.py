"""The dialects of Anthropic's API. Pure."""

from __future__ import annotations

from edge.anthropic.chat import read_count, read_message
from edge.anthropic.count import CountShape
from edge.anthropic.errors import ANTHROPIC_ERRORS
from edge.anthropic.shape import MessageShape
from edge.dialect import Dialect

MESSAGE = Dialect("anthropic_message", read_message, MessageShape, ANTHROPIC_ERRORS)
TOKEN_COUNT = Dialect("anthropic_token_count", read_count, CountShape, ANTHROPIC_ERRORS)
