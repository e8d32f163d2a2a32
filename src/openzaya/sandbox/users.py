"""Whose rights boxes run with: one's own, or for root a user that owns nothing."""

import os
from dataclasses import dataclass
from typing import Any

BOX_ID = 65531
"""User and group of boxes when root starts them: in a gap that distributions leave free."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and group that bubblewrap is started as."""

    uid: int
    gid: int
    changes: bool
    """Whether this process has to give up its own identity for it."""

    def drop(self) -> dict[str, Any]:
        """Return the arguments of subprocess.Popen that make a child be this user, and no more."""
        if not self.changes:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def identity(uid: int = BOX_ID) -> Identity:
    """Return who runs boxes: `uid` if we are root, else ourselves."""
    if os.geteuid() == 0:
        return Identity(uid, uid, changes=True)
    return Identity(os.geteuid(), os.getegid(), changes=False)
