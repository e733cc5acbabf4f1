"""A process of the tests: it calls huggingface_hub as told on stdin, and answers on stdout."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Iterable
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.utils import paginate
from huggingface_hub.utils._runtime import is_xet_available

EXTRA = {
    "validate_card": lambda text: huggingface_hub.ModelCard(text).validate(),
    "push_card": lambda text, *to, **how: huggingface_hub.ModelCard(text).push_to_hub(*to, **how),
    "load_card": lambda *where: str(huggingface_hub.ModelCard.load(*where)),
    "is_xet_available": is_xet_available,
    "remove_lfs_files": lambda name, oids, **how: HfApi().permanently_delete_lfs_files(
        name, [one for one in HfApi().list_lfs_files(name) if one.file_oid in oids], **how
    ),
    "paginate": lambda *args: list(paginate(*args)),
}


def revived(value: Any) -> Any:
    """Arguments as Python has them."""
    if isinstance(value, list):
        return [revived(item) for item in value]
    if isinstance(value, dict):
        made = {key: revived(item) for key, item in value.items()}
        return getattr(huggingface_hub, made.pop("!"))(**made) if "!" in made else made
    return value


def plain(value: Any) -> Any:
    """A result as JSON can say it; an object by its public attributes."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if getattr(value, "__dict__", None):
        return {k: plain(item) for k, item in vars(value).items() if not k.startswith("_")}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return str(value)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the library prints is no answer
    api = huggingface_hub.HfApi()
    for line in sys.stdin:
        name, args, kwargs = json.loads(line)
        try:
            call = EXTRA.get(name) or getattr(api, name, None) or getattr(huggingface_hub, name)
            result = call(*revived(args), **revived(kwargs))
            answer = [
                "value",
                plain(list(result) if isinstance(result, types.GeneratorType) else result),
            ]
        except Exception as error:
            answer = ["error", [[kind.__name__ for kind in type(error).__mro__], str(error)]]
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
