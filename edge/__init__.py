"""HTTP in, event streams out.

Pure: `wishes`, `admission`, `idempotency`, `publishing`, `openai_bodies`, `registry`, `relay`, `pacer`, `errors`,
`openai_chat`, `openai_completions`.
Shells: `lookup`, `lineages` and `publisher` with `waiting_room` (a request's way in), `reader` (the relay on the bus),
`answers` with `event_stream` and `whole_answer` (ASGI), `canceller`, `service`, `app`, `server`.
"""
