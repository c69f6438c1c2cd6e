"""The units that settings are given in, with the bounds that hold for all of a kind."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import ByteSize, GetPydanticSchema
from pydantic_core.core_schema import no_info_after_validator_function

KIB, MIB, GIB = 1024, 1024**2, 1024**3

Port = Annotated[int, Ge(0), Le(65535)]
Seconds = Annotated[float, Gt(0), Le(86_400)]
Milliseconds = Annotated[float, Ge(0), Le(60_000)]
# A plain int, that may be written with a unit: 64KiB.
Bytes = Annotated[
    int,
    GetPydanticSchema(lambda _, handler: no_info_after_validator_function(int, handler(ByteSize))),
    Ge(1),
]
Processes = Annotated[int, Ge(0), Le(1024)]
FaultAt = Annotated[int, Ge(-1)]
