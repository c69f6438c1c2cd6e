"""OpenAI's Responses API: a chat with items for messages, numbered events, and a store of what was asked."""
