"""schemathesis over the hub's own document: every operation, with what it asks for and without.

For each operation of `/openapi.json` schemathesis makes requests at the edges of what the document
allows and forbids, the same each time, and hypothesis some more by chance. Names of what is there
are put in for most made-up ones: of a repository that is not there, every operation says only so.
An answer is right if its status, type and required headers are documented, and its body is what
the document says.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hubtool.hub.server import app

from .conftest import Answer
from .fuzz import Target, hold

__all__ = ["attack", "operations"]

DOCUMENT = Path(app.__file__).with_name("openapi.json")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KNOWN = {
    "id": ["fuzz/m", "fuzz/m", "fuzz/m", "fuzz/was", "fuzz/none"],
    "rev": ["main", "main", "side", "v1.0", "none"],
    "path": ["README.md", "folder", "folder/b.txt", "large.bin", "none"],
    "name": ["fuzz", "local"],
    "status": ["pending", "accepted", "rejected"],
}
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@schemathesis.serializer("application/x-ndjson")
def lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """What stands for the body of a commit, as text."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="surrogatepass")


def operations() -> list[Any]:
    """The operations of the document."""
    schema = schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_bytes()))
    return [one.ok() for one in schema.get_all_operations()]


def attack(
    target: Target, operation: Any, examples: int, number: int, *, edges: bool = True
) -> Counter[int]:
    """Requests at the edges, and so many by chance of each kind; how many had which status.

    Raises what schemathesis finds, with the request that makes it come again.
    """
    found: Counter[int] = Counter()
    with requests.Session() as session:
        session.trust_env = False

        def send(case: Any) -> None:
            for name in KNOWN.keys() & (case.path_parameters or {}).keys():
                case.path_parameters[name] = _known(name, case.path_parameters[name])
            response = case.call(
                base_url=target.url, session=session, headers=target.headers, allow_redirects=False
            )
            found[response.status_code] += 1
            case.validate_response(response, checks=CHECKS, headers=target.headers)
            if response.status_code != 405:  # some methods are asked for that are none
                answer = Answer(response.status_code, _message(response), response.content)
                hold(answer, case.method)

        if edges:
            for case in operation.schema.iter_coverage_cases(
                operation,
                generation_modes=MODES,
                generation_config=operation.schema.config.generation,
            ):
                send(case)
        for mode in MODES if _forbids(operation) else MODES[:1]:
            by_chance = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            seed(number)(by_chance(given(operation.as_strategy(mode))(send)))()
    return found


def _forbids(operation: Any) -> bool:
    """Whether there is anything that the document forbids to ask for: not where any bytes do."""
    kinds = [body.media_type for body in operation.body]
    return bool(operation.query) or any("json" in kind and "nd" not in kind for kind in kinds)


def _known(name: str, value: Any) -> Any:
    """A name of what is there in place of most made-up ones, the same for the same."""
    chance = zlib.crc32(repr(value).encode())
    return value if chance % 4 == 0 else KNOWN[name][chance // 4 % len(KNOWN[name])]


def _message(response: schemathesis.Response) -> HTTPMessage:
    message = HTTPMessage()
    for name, values in response.headers.items():
        for value in values:
            message[name] = value
    return message
