"""HTTP in, event streams out.

Pure: `admission`, `openai_bodies`, `registry`, `relay`, `pacer`, `errors`, `openai_chat`, `openai_completions`.
Shells: `reader` (the relay on the bus), `answers` with `event_stream` and `whole_answer` (ASGI), `publisher`,
`canceller`, `service`, `app`, `server`.
"""
