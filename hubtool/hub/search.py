"""Finding models by tags, author and words, and looking at one without fetching it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hubtool.hub.address import Hub, check_name
from hubtool.hub.session import connect

__all__ = ["SORTS", "Found", "Info", "info", "search"]

SORTS = {
    "modified": "last_modified",
    "created": "created_at",
    "downloads": "downloads",
    "likes": "likes",
    "trending": "trending_score",
}


@dataclass(frozen=True)
class Found:
    """A model as a search shows it. modified: ISO 8601, UTC."""

    name: str
    tags: list[str]
    pipeline: str | None
    library: str | None
    downloads: int
    likes: int
    modified: str
    private: bool


@dataclass(frozen=True)
class Info(Found):
    """A model at one commit. files: path, size and hash of each; card: its front matter."""

    revision: str
    url: str
    files: list[dict[str, Any]]
    card: dict[str, Any] = field(default_factory=dict)


def search(
    hub: Hub,
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
) -> list[Found]:
    """Models with *all* of these tags, by that author, with every word of the query.

    The hub knows library and licence as tags too. sort: one of SORTS, the highest first. Raises
    HubError.
    """
    filters = [*tags, *filter(None, [library, licence and f"license:{licence}"])]
    with connect(hub, "list models") as connection:
        rows = connection.api.list_models(
            search=query,
            filter=filters or None,
            author=author,
            pipeline_tag=pipeline,
            trained_dataset=dataset,
            sort=SORTS[sort] if sort else None,
            limit=limit,
            full=True,
        )
        return [Found(**_facts(row)) for row in islice(rows, limit)]


def info(hub: Hub, name: str, *, revision: str | None = None) -> Info:
    """What a hub knows about a model: revision, tags, files with their sizes and hashes.
    Raises HubError."""
    check_name(name)
    with connect(hub, f"look at {name}") as connection:
        about = connection.api.repo_info(name, revision=revision, files_metadata=True)
        return Info(
            **_facts(about),
            revision=str(about.sha),
            url=connection.web(name, revision or "main"),
            files=[
                {
                    "path": each.rfilename,
                    "size": each.size,
                    "hash": each.lfs.sha256 if each.lfs else each.blob_id,
                }
                for each in about.siblings or []
            ],
            card=about.card_data.to_dict() if about.card_data else {},
        )


def _facts(row: Any) -> dict[str, Any]:
    return {
        "name": row.id,
        "tags": list(row.tags or []),
        "pipeline": row.pipeline_tag,
        "library": row.library_name,
        "downloads": row.downloads or 0,
        "likes": row.likes or 0,
        "modified": row.last_modified.isoformat() if row.last_modified else "",
        "private": bool(row.private),
    }
