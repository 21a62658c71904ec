"""The requests that the server received."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One request as received, and its response.

    Attributes:
        method: of HTTP.
        path: without the query.
        verb: of RBAC: get, list, create, delete; "" for what is no resource (discovery, OpenAPI).
        resource, subresource, namespace, name: as in pods, log, ns, train-node-0-0-x; "" where the path has none.
        query: the last value of each parameter.
        body: the JSON that was sent, or None.
        status: the answer's HTTP status; 0 where the connection was reset instead; None while it is under way.
            It is set just before the answer is sent.
        token_known: False for a request without a valid token.
        time: seconds since the epoch.
    """

    method: str
    path: str
    query: dict[str, str]
    verb: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    body: Any = None
    status: int | None = None
    token_known: bool = True
    time: float = field(default_factory=time.time)

    def matches(self, **wanted: object) -> bool:
        """Whether it has all the given attributes: matches(verb="get", resource="pods", subresource="log").

        A resource alone means its objects, not their subresources.
        """
        if "resource" in wanted:
            wanted.setdefault("subresource", "")
        return all(value is None or getattr(self, name) == value for name, value in wanted.items())

    def __str__(self) -> str:
        asked = f"{self.resource}/{self.subresource}" if self.subresource else self.resource or self.path
        return " ".join(filter(None, [self.verb or self.method, asked, self.name, f"-> {self.status}"]))
