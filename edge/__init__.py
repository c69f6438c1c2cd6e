"""HTTP in, event streams out.

Pure: `wishes`, `admission`, `idempotency`, `publishing`, `openai_bodies`, `registry`, `relay`, `position`, `readers`,
`pacer`, `ends`, `errors`, `paths`, `pages`, `dialects` with `openai_chat` and `openai_completions`.
What comes: `forecast`, pure but for its `doorkeeper`.
Shells: `lookup`, `lineages` and `publisher` with `waiting_room` (a request's way in), `reader` (the relay on the bus),
`answers` with `event_stream` and `whole_answer` (ASGI), `audience` (who reads here), `closer` (END of what others run),
`desk` (opens answers), `requests_api` (requests by their rid), `service`, `app`, `server`.
"""
