"""The public functions about hubs: publish, fetch, find, and the cards that say what a model is.

Every one resolves which hub is meant (`hubtool.hub.address`) and calls the rooms of `hubtool.hub`.
The command of the same name in `hubtool.cli` is the shell of the function here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubtool.errors import HubtoolError, InputError, ReadError, WriteError
from hubtool.files import new_file, telling

if TYPE_CHECKING:
    from hubtool.hub.address import Hub
    from hubtool.hub.card import Problem
    from hubtool.hub.download import Progress
    from hubtool.hub.push import Pushed
    from hubtool.hub.search import Found, Info
    from hubtool.zoo import ZooModel

__all__ = [
    "Published",
    "create_card",
    "lint_card",
    "model_info",
    "publish_zoo",
    "pull",
    "push",
    "search",
    "serve",
]

Source = str | os.PathLike[str]
Content = Path | bytes
CARD = "README.md"


def push(
    folder: Source,
    name: str,
    *,
    hub: str | None = None,
    card: Source | None = None,
    tags: Sequence[str] = (),
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Publish a native folder as the model `name` ("axon/resnet34-v1"), in one commit.

    hub: "hf", a URL, "embedded" or a folder; else what HUBTOOL_HUB or HF_ENDPOINT say, else the
    embedded one. card: a file; the folder's README.md by default, else one made from the
    conversion's facts. tags: added to the card's. dry_run: do all but send.
    Raises InputError (the card has errors, each with its mend), ReadError (the folder is damaged),
    HubError (the hub refused, or is not there).

    Example: `hubtool.push("resnet34", "axon/resnet34-v1", tags=["Axon"]).url`
    """
    from hubtool.hub import address

    address.check_name(name)
    place = Path(folder)
    text, made = _card_to_publish(place, name, card, tags)
    done = _push(
        place,
        name,
        text,
        hub=hub,
        private=private,
        revision=revision,
        message=message,
        dry_run=dry_run,
        progress=progress,
    )
    done.made_card = text if made else ""
    return done


def _push(
    folder: Path,
    name: str,
    card: str,
    *,
    hub: str | None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    from hubtool.hub import address
    from hubtool.hub.card import lint
    from hubtool.hub.push import CARD, Pushed, publishable, size_of
    from hubtool.hub.push import push as send

    where = address.resolve(hub)
    card, files = _with_elixir(folder, name, card, publishable(folder), where)
    problems = lint(folder, card=card, published_files=sorted({*files, CARD}))
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise InputError(
            f"the card of '{folder}' is not fit to be published:",
            problems=errors,
            hint="Nothing was sent. `hubtool card lint` shows the same list.",
        )
    if dry_run:
        sizes = {path: size_of(content) for path, content in files.items()}
        done = Pushed(str(where), name, sizes | {CARD: len(card.encode())})
    else:
        done = send(
            where,
            name,
            files,
            card,
            private=private,
            revision=revision,
            message=message,
            progress=progress,
        )
    done.warnings = [str(problem) for problem in problems]
    return done


def _with_elixir(
    folder: Path, name: str, card: str, files: Mapping[str, Content], hub: Hub
) -> tuple[str, dict[str, Content]]:
    """The card and the files of a model, with notebook, module and tags where Axon can say it."""
    from hubtool.export import Origin, axon_texts, elixir_files, reasons_against
    from hubtool.formats import native
    from hubtool.hub.address import SERVED

    graph = native.read(folder)
    if reasons_against(graph, "axon"):
        return card, dict(files)
    weights = tuple(native.weights_files(folder))
    origin = Origin(name.rpartition("/")[2], folder, weights, name, None, hub.url or SERVED)
    texts = (text.encode() for text in axon_texts(graph, origin))
    with suppress(HubtoolError):  # a card that the lint will refuse stays as it is
        card = _tagged(card, ("Axon", "Elixir"), folder / CARD)
    return card, {**files, **dict(zip(elixir_files(origin.name), texts, strict=True))}


def pull(
    name: str,
    *,
    files: Sequence[str] = (),
    revision: str | None = None,
    to: Source | None = None,
    overwrite: bool = False,
    hub: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a model, every file checked against its hash; gives its folder in the cache, or `to`.

    files: names or patterns ("*.json") of those wanted; all by default. revision: a branch, tag or
    commit. to: a folder to be made of them; one that exists is refused without `overwrite`.
    Raises HubError (unknown, damaged, unreachable), WriteError.

    Example: `hubtool.pull("axon/resnet34-v1", to="resnet34")`
    """
    from hubtool import files as put
    from hubtool.hub import address
    from hubtool.hub.pull import copy_to, replaceable
    from hubtool.hub.pull import pull as fetch

    if to is not None:
        put.check_target(Path(to), overwrite=overwrite, replaceable=replaceable)
    where = address.resolve(hub)
    snapshot = fetch(where, name, files=files, revision=revision, progress=progress)
    if to is None:
        return snapshot
    copy_to(snapshot, Path(to), overwrite=overwrite)
    return Path(to)


def search(
    query: str | None = None,
    *,
    tags: Sequence[str] = (),
    author: str | None = None,
    pipeline: str | None = None,
    library: str | None = None,
    licence: str | None = None,
    dataset: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    hub: str | None = None,
) -> list[Found]:
    """Models of a hub that meet every condition: all of these tags, this author, this task
    (`pipeline`), library, licence, a dataset they were trained on, and every word of `query`
    somewhere in their name, titles or tags (on huggingface.co: in their name).

    sort: "modified", "created", "downloads", "likes" or "trending", the highest first.
    Raises HubError, InputError.

    Example: `[model.name for model in hubtool.search("resnet", tags=["Axon"], licence="mit")]`
    """
    from hubtool.hub import address
    from hubtool.hub import search as room

    if sort is not None and sort not in room.SORTS:
        raise InputError(
            f"models cannot be sorted by '{sort}'", hint=f"By {', '.join(room.SORTS)}."
        )
    return room.search(
        address.resolve(hub),
        query,
        tags=tags,
        author=author,
        pipeline=pipeline,
        library=library,
        licence=licence,
        dataset=dataset,
        sort=sort,
        limit=limit,
    )


def model_info(name: str, *, revision: str | None = None, hub: str | None = None) -> Info:
    """What a hub knows about a model: revision, tags, card, files with sizes and hashes.
    Raises HubError.

    Example: `hubtool.model_info("axon/resnet34-v1").tags`
    """
    from hubtool.hub import address
    from hubtool.hub.search import info

    return info(address.resolve(hub), name, revision=revision)


def create_card(
    folder: Source,
    *,
    name: str | None = None,
    prose: Source | None = None,
    tags: Sequence[str] = (),
    overwrite: bool = False,
) -> str:
    """Write the card of a native folder, its README.md, from the conversion's own facts around the
    author's words; gives its text.

    name: the model's id on a hub, for the examples. prose: a file with the author's card; without
    it the folder's README.md, if there is one, keeps its words and gets fresh facts.
    Raises ReadError, and WriteError where README.md would be replaced by another file's words
    without `overwrite`.

    Example: `print(hubtool.create_card("resnet34", prose="my-card.md"))`
    """
    place = Path(folder)
    card = place / CARD
    if prose is not None and card.exists() and not overwrite:
        raise WriteError(
            f"'{card}' exists already",
            hint="Leave out --prose to keep its words and renew its facts, or give --overwrite.",
        )
    text = _built(place, name, _read_text(prose if prose is not None else card), tags)
    with new_file(card, overwrite=True) as stream:
        stream.write(text.encode())
    return text


def lint_card(path: Source) -> list[Problem]:
    """What is wrong with a card, or with a folder and its card: errors and warnings, each with
    file, line and mend. Raises ReadError where there is none.

    Example: `[str(problem) for problem in hubtool.lint_card("resnet34")]`
    """
    from hubtool.hub.card import lint

    place = Path(path)
    if not (place / CARD if place.is_dir() else place).is_file():
        raise ReadError(
            f"there is no card '{place / CARD if place.is_dir() else place}'",
            hint="`hubtool card create DIR` makes one from the conversion's facts.",
        )
    return lint(place)


def serve(
    folder: Source | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    lfs: bool = False,
    proxy: str = "",
    limit: int = 5_000,
    announce: Callable[[str], object] = print,
) -> None:
    """Serve the hub in a folder (the embedded one by default) until SIGINT or SIGTERM.

    As long as the hub has no users, nobody needs an account on this machine's own address, and on
    any other writing is refused. With users (`hubtool hub users add`) writing needs a token
    everywhere, and this speaks no TLS: on a network put a proxy that does in front.
    port: 0 for a free one. lfs: tell every client that has no Xet to send large files by LFS.
    proxy: the address that a proxy in front is called by. limit: requests of one kind that one
    client may make in five minutes, 0 for any number; none for whoever needs no token. announce: is
    told the address once it answers. Raises HubError, WriteError.

    Example: `hubtool.serve("models", port=8000)`
    """
    from hubtool.cache import home
    from hubtool.hub.server.run import serve as run

    place = Path(folder) if folder is not None else home() / "hub"
    run(place, host=host, port=port, lfs=lfs, proxy=proxy, limit=limit, announce=announce)


@dataclass(frozen=True)
class Published:
    """What became of one model of the zoo. error: why it was not published, or ""."""

    model: str
    name: str
    error: str = ""
    revision: str | None = None
    url: str | None = None
    changed: bool = False
    difference: float | None = None
    seconds: float = 0.0


def publish_zoo(
    models: Sequence[str],
    *,
    to: str,
    hub: str | None = None,
    files: Sequence[Source] = (),
    progress: Progress | None = None,
) -> list[Published]:
    """Publish models of the ONNX Model Zoo: fetch, convert, card, push, one repository a model.

    to: the namespace ("axon"). files: ONNX files at hand, known by their sha256, which are not
    fetched. What was done before an interruption is not done again. One that fails does not stop
    the others. Raises InputError (no such model, or a file that is none of the zoo's).

    Example: `hubtool.publish_zoo(["resnet18-v1"], to="axon", hub="embedded")`
    """
    from hubtool import zoo

    known = [zoo.find(model) for model in models]
    at_hand = _at_hand(files, [model.name for model in known])
    rows = []
    for model in known:
        name = f"{to}/{model.name}"
        started = time.perf_counter()
        try:
            pushed, difference = _publish_one(model, name, hub, at_hand, progress)
        except HubtoolError as error:
            row = Published(model.name, name, error=str(error))
        else:
            row = Published(
                model.name,
                name,
                revision=pushed.revision,
                url=pushed.url,
                changed=pushed.changed,
                difference=difference,
                seconds=round(time.perf_counter() - started, 1),
            )
        rows.append(row)
    return rows


def _at_hand(files: Sequence[Source], wanted: Sequence[str]) -> dict[str, Path]:
    """The given files by the model of the zoo that they are."""
    from hubtool import zoo
    from hubtool.hub.download import digest

    found = {}
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"there is no file '{file}'")
        sha256 = digest(Path(file), like="0" * 64)
        model = zoo.find_by_sha256(sha256)
        if model is None or model.name not in wanted:
            raise InputError(
                f"'{file}' is {f'{model.name}, which' if model else 'no file of the zoo, and'} "
                f"was not asked for (sha256 {sha256})",
                hint="A model of your own is published with `hubtool convert` and `hubtool push`.",
            )
        found[model.name] = Path(file)
    return found


def _publish_one(
    model: ZooModel,
    name: str,
    hub: str | None,
    at_hand: dict[str, Path],
    progress: Progress | None,
) -> tuple[Pushed, float | None]:
    """Fetch, convert, card and push one model; and how far it was from ONNX Runtime."""
    from hubtool import api, zoo
    from hubtool.cache import home
    from hubtool.formats import native

    place = home() / "zoo"
    folder = place / model.name
    with telling(place):
        place.mkdir(parents=True, exist_ok=True)
    if not _is_converted(folder, model.sha256):
        source = at_hand.get(model.name) or place / model.file
        if model.name not in at_hand:
            zoo.fetch(model.name, source, overwrite=True, progress=progress)
        api.convert(source, folder, overwrite=True)
    report = json.loads((folder / native.REPORT).read_text(encoding="utf-8"))
    text = _built(folder, name, zoo.card(model.name), ())
    return _push(folder, name, text, hub=hub, progress=progress), report["verification"][
        "difference"
    ]


def _is_converted(folder: Path, sha256: str) -> bool:
    """Whether the folder is whole, and was made of the file with this hash."""
    from hubtool.formats import native

    try:
        graph = native.read(folder, verify=True)
        return (folder / native.REPORT).is_file() and graph.meta["source"]["sha256"] == sha256
    except (HubtoolError, KeyError):
        return False


# --- cards ---


def _card_to_publish(
    folder: Path, name: str, card: Source | None, tags: Sequence[str]
) -> tuple[str, bool]:
    """The given card, else the folder's own, else one made of the facts; with these tags too.
    And whether it was made."""
    given = Path(card) if card is not None else folder / CARD
    if card is None and not given.is_file():
        return _built(folder, name, "", tags), True
    return _tagged(_read_text(given), tags, given), False


def _tagged(card: str, tags: Sequence[str], path: Path) -> str:
    """The card with these tags too. Raises ReadError, InputError where they cannot be added."""
    from hubtool.hub.card import front_matter, with_front_matter

    if not tags:
        return card
    try:
        header = front_matter(card)
    except ValueError as error:
        raise ReadError(f"cannot read the header of '{path}': {error}") from None
    there = header.get("tags") or []
    if not isinstance(there, list):
        raise InputError(
            f"'{path}': tags is no list, and {', '.join(tags)} cannot be added to it",
            hint="Write each tag on a line of its own, with '- ' before it.",
        )
    return with_front_matter(card, header | {"tags": list(dict.fromkeys([*there, *tags]))})


def _built(folder: Path, name: str | None, prose: str, tags: Sequence[str]) -> str:
    from hubtool import zoo
    from hubtool.hub.card import build, facts

    known = facts(folder, repository=name)
    published = zoo.find_by_sha256(known.source.get("sha256", ""))
    if published is not None:
        known = replace(known, source_url=published.url, licence=published.licence)
    return build(known, prose, tags=tags)


def _read_text(path: Source) -> str:
    """A card's text; "" for a README.md that is not there."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if Path(path).name == CARD:
            return ""
        raise ReadError(f"there is no card '{path}'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(f"cannot read the card '{path}': {error}") from None
