"""SuperNodes by the names under which the operator admitted them; Flower itself has numbers only.

The file is the operator's, and what it says protects nothing: it is for who reads a line.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNames:
    """A file with a name for each number of a node; without one, or where it cannot be read, nobody has a name."""

    path: Path | None

    def known(self) -> dict[int, str]:
        """Return the names by number; who is admitted meanwhile is in it."""
        try:
            listed = json.loads(self.path.read_text(encoding="utf-8")) if self.path else {}
            return {int(number): str(name) for number, name in listed.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def of(self, node: int) -> str:
        """Return what a line calls this node."""
        name = self.known().get(node)
        return f"{name} (node {node})" if name else f"node {node}"

    def missing(self, there: Collection[int], expected: int) -> str:
        """Return who of ``expected`` nodes is not there: by name, if it is clear who is meant."""
        names = sorted(name for node, name in self.known().items() if node not in there)
        count = expected - len(there)
        if len(names) == count:
            return ", ".join(names)
        among = f" (not there: {', '.join(names)})" if names else ""
        return f"{count} {'node' if count == 1 else 'nodes'}{among}"
