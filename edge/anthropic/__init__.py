"""Anthropic's Messages API: bodies become chats, what engines put out becomes messages."""
