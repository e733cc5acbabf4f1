"""Who asks, and what they may do with a repository.

A user may do anything below their own name, in an organisation what their membership says, and an
administrator of the hub anything everywhere. The token that a request bears caps that by its role
and, if it is scoped, to some repositories; so a lost laptop's token costs what it could do, until
it is revoked or expires. What anybody may do, reading what is public, is no right and needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = ["ANYBODY", "LOCAL", "ROLES", "Identity", "Role"]

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each includes those before it."""


@dataclass(frozen=True)
class Identity:
    """Who asks, as far as this request's token lets them; `name` is "" for nobody.

    role: the most that the token allows. repos: the repositories that it is good for, "axon/*" or
    "axon/resnet34"; None for all. admin: of the whole hub. orgs: organisations, and the role in
    each. token: the token's public id, "" where there is none.
    """

    name: str
    role: Role = "read"
    repos: tuple[str, ...] | None = None
    admin: bool = False
    orgs: Mapping[str, Role] = field(default_factory=dict)
    token: str = ""
    token_name: str = ""

    def right(self, repo: str) -> Role | None:
        """The most that may be done with a repository of that name, whether it exists or not. A
        private one is visible where this is not None."""
        held = self._held(repo)
        if held is None or not self._in_scope(repo):
            return None
        return min(held, self.role, key=ROLES.index)

    def may(self, repo: str, role: Role) -> bool:
        """Whether a repository of that name lets this be done with it."""
        right = self.right(repo)
        return right is not None and ROLES.index(right) >= ROLES.index(role)

    def _held(self, repo: str) -> Role | None:
        namespace, slash, _ = repo.lower().partition("/")
        if not self.name:
            return None
        if self.admin or (slash and namespace == self.name.lower()):
            return "admin"
        own = [role for org, role in self.orgs.items() if slash and org.lower() == namespace]
        return own[0] if own else None

    def _in_scope(self, repo: str) -> bool:
        if self.repos is None:
            return True
        namespace, slash, _ = repo.lower().partition("/")
        scope = [pattern.lower() for pattern in self.repos]
        return repo.lower() in scope or bool(slash and f"{namespace}/*" in scope)


ANYBODY = Identity("")
"""Who says nothing of themselves."""
LOCAL = Identity("local", role="admin", admin=True)
"""Who may read and write the hub's folder."""
