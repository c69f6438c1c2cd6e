"""The OpenAPI 3.1 document of a table of endpoints. Pure.

Bodies come from the types in the table, by msgspec's own JSON Schema of them; failures from the error table and each
endpoint's style. So there is nothing to keep in step by hand but the rows themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from edge.endpoint import Endpoint, Parameter
from edge.openapi import headers
from edge.openapi.failures import JSON, Failures
from edge.openapi.probes import PROBES, Probe

OPENAPI_VERSION = "3.1.0"
API_VERSION = "1"
"""Of the paths below `/v1`. What is added keeps it."""

DESCRIPTION = """\
LLM inference as a durable event pipeline: no accepted request is lost, no token is repeated.

Every request has an id, told in `x-request-id`. An event stream that broke off goes on at any server: \
`GET /v1/requests/{rid}/stream` with the `Last-Event-ID` of the last event that was seen. A stream that ends without \
its last event is incomplete, and one that fails says so in its last event. Errors are told in the shape of the API \
that the endpoint belongs to.

API keys are asked for where the server was started with some: as a bearer token, or in `X-API-Key`."""

ANY_PROBLEMS = (
    "invalid_api_key",
    "not_allowed",
    "too_large",
    "body_timeout",
    "headers_too_large",
    "internal",
)
"""What any endpoint of the table may answer with."""

READING_PROBLEMS = ("bad_request",)
"""Likewise, if it reads a body or parameters."""

PUBLISHING_PROBLEMS = ("broker_away", "draining")
"""Likewise, if it publishes requests."""

TAGS = (
    ("OpenAI", "OpenAI's API", r"/v1/(chat|completions|embeddings|models)\b"),
    ("Responses", "OpenAI's Responses API", r"/v1/responses\b"),
    ("Batches", "OpenAI's files and batches", r"/v1/(files|batches)\b"),
    ("Anthropic", "Anthropic's Messages API", r"/v1/messages\b"),
    ("Requests", "Requests by their ids, whatever API they came by", r"/v1/requests\b"),
    ("Compatibility", "APIs of other systems", r"/(models|generate|v1)\b"),
    ("Operations", "For whoever runs this", r"/"),
)
"""The first whose pattern matches the begin of a path has it."""

PATH_PARAMETERS = {
    "rid": "The request's id, as `x-request-id` told it.",
    "name": "The model's name; it may have slashes in it.",
}

REQUEST_PATH = "/v1/requests/{rid}"

_PLACE = re.compile(r"\{(\w+)(:path)?\}")


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The whole document of `endpoints`, and of the probes that none of them stands in for."""
    failures = Failures()
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas, failures)
        if endpoint.publishes:
            operation["responses"]["200"]["links"] = _links(endpoints)
        paths.setdefault(_PLACE.sub(r"{\1}", endpoint.path), {})[endpoint.method.lower()] = operation
    for probe in PROBES:
        if probe.path not in paths:
            paths[probe.path] = {"get": _probe(probe, schemas, failures)}
    used = {tag for methods in paths.values() for operation in methods.values() for tag in operation["tags"]}
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "Penstock", "version": API_VERSION, "description": DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text, _ in TAGS if name in used],
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "headers": headers.components(),
            "examples": failures.examples,
            "schemas": schemas.components | failures.schemas,
        },
    }


def problems_of(endpoint: Endpoint) -> list[str]:
    """All reasons of the error table that an endpoint may answer with."""
    reads = endpoint.takes is not None or bool(parameters_of(endpoint))
    reasons = [
        *endpoint.problems,
        *ANY_PROBLEMS,
        *(READING_PROBLEMS if reads else ()),
        *(PUBLISHING_PROBLEMS if endpoint.publishes else ()),
    ]
    return list(dict.fromkeys(reasons))


def parameters_of(endpoint: Endpoint) -> list[Parameter]:
    """All an endpoint reads besides body and path."""
    own = {(parameter.where, parameter.name) for parameter in endpoint.parameters}
    shared = headers.PUBLISHING if endpoint.publishes else ()
    return [
        *endpoint.parameters,
        *(parameter for parameter in shared if (parameter.where, parameter.name) not in own),
    ]


class _Schemas:
    """The schemas of all types the document names, made together so that what they share is there once."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        types = [
            *chain.from_iterable(
                (one.takes, one.gives, *one.events, *one.also.values()) for one in endpoints
            ),
            *(parameter.type_ for one in endpoints for parameter in parameters_of(one)),
            *(probe.gives for probe in PROBES),
        ]
        named = [one for one in types if one is not None]
        schemas, self.components = msgspec.json.schema_components(
            named, ref_template="#/components/schemas/{name}"
        )
        for component in self.components.values():
            if "description" in component:
                # A docstring: its line ends and indents are the source's.
                component["description"] = " ".join(component["description"].split())
        # By identity: types need not be hashable.
        self._by_id = {id(one): schema for one, schema in zip(named, schemas, strict=True)}

    def of(self, type_: object) -> dict[str, Any]:
        """A schema, or a reference to one."""
        return self._by_id[id(type_)]


def _operation(endpoint: Endpoint, schemas: _Schemas, failures: Failures) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint.method, endpoint.path),
        "summary": endpoint.summary,
        "tags": [_tag(endpoint.path)],
    }
    parameters = [_path_parameter(name, bool(deep)) for name, deep in _PLACE.findall(endpoint.path)]
    parameters += [_parameter(parameter, schemas) for parameter in parameters_of(endpoint)]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.takes is not None:
        body: dict[str, Any] = {"schema": schemas.of(endpoint.takes)}
        if endpoint.examples:
            body["examples"] = {name: {"value": value} for name, value in endpoint.examples.items()}
        operation["requestBody"] = {"required": True, "content": {endpoint.takes_as: body}}
    responses = failures.responses(endpoint.errors, problems_of(endpoint))
    others = {
        str(status): {"description": endpoint.summary, "content": {JSON: {"schema": schemas.of(type_)}}}
        for status, type_ in endpoint.also.items()
    }
    operation["responses"] = {"200": _answer(endpoint, schemas, failures), **others, **responses}
    return operation


def _answer(endpoint: Endpoint, schemas: _Schemas, failures: Failures) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.gives is not None:
        content[endpoint.gives_as] = {"schema": schemas.of(endpoint.gives)}
    elif not endpoint.streams:
        content[JSON] = {"schema": {}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": _event(endpoint, schemas, failures)}
    answer: dict[str, Any] = {"description": endpoint.summary, "content": content}
    if endpoint.streams or endpoint.publishes:
        answer["headers"] = headers.references(headers.ANSWERED_HEADERS)
    return answer


def _event(endpoint: Endpoint, schemas: _Schemas, failures: Failures) -> dict[str, Any]:
    """OpenAPI 3.1 has no word for the events of a stream; tools that look into one take its schema for each event's."""
    data: dict[str, Any] = {"type": "string"}
    if endpoint.events:
        told = [
            *map(schemas.of, endpoint.events),
            {"$ref": f"#/components/schemas/{failures.name_of(endpoint.errors)}"},
        ]
        events = {"contentMediaType": JSON, "contentSchema": {"anyOf": told}}
        data["anyOf"] = [*([{"const": endpoint.last_data}] if endpoint.last_data else []), events]
    return {
        "description": "One event.",
        "type": "object",
        "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": data},
    }


def _links(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Where an answer's request can be asked for."""
    linked = [_operation_id(one.method, one.path) for one in endpoints if one.path.startswith(REQUEST_PATH)]
    return {
        name: {"operationId": name, "parameters": {"rid": "$response.header.x-request-id"}} for name in linked
    }


def _probe(probe: Probe, schemas: _Schemas, failures: Failures) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": schemas.of(probe.gives)}}
    if probe.text:
        content["text/plain"] = {"schema": {"type": "string"}}
    answers = {status: {"description": text, "content": content} for status, text in probe.statuses.items()}
    return {
        "operationId": _operation_id("GET", probe.path),
        "summary": probe.summary,
        "tags": [_tag(probe.path)],
        "security": [],
        "responses": {**answers, **failures.responses(probe.errors, probe.problems)},
    }


def _path_parameter(name: str, deep: bool) -> dict[str, Any]:
    # Starlette matches one part of a path, or with `:path` what is left of it; neither takes nothing.
    pattern = "^.+$" if deep else "^[^/]+$"
    described = {"description": PATH_PARAMETERS[name]} if name in PATH_PARAMETERS else {}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": pattern},
        **described,
    }


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": False,
        "schema": schemas.of(parameter.type_),
        "description": parameter.description,
    }


def _operation_id(method: str, path: str) -> str:
    words = re.findall(r"\w+", _PLACE.sub(r"\1", path))
    return "_".join([method.lower(), *words])


def _tag(path: str) -> str:
    return next(name for name, _, pattern in TAGS if re.match(pattern, path))
