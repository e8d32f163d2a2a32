"""Several data sets in one folder: the configurations that its README.md names.

Source: `datasets` 5.2, metadata in the front matter of a data-set card.
"""

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openzaya.core.errors import DataError

_SHOWN = 8
_FRONT = re.compile(r"---\s*\n(.*?)\n---\s*(?:\n|$)", re.DOTALL)


def check_subsets(place: str, readme: str, files: Sequence[str]) -> None:
    """Refuse a folder whose `files` (paths below it) are of several configurations.

    They are one where a configuration holds all files that any of them does.
    """
    patterns = configurations(readme)
    held = {
        name: {file for file in files for pattern in own if _regex(pattern).fullmatch(file)}
        for name, own in patterns.items()
    }
    named = [name for name, found in held.items() if found]
    if not named or max(map(len, held.values())) == len(set().union(*held.values())):
        return
    root = place.rstrip("/")
    shown = [f"{name} ({root}/{patterns[name][0]})" for name in named[:_SHOWN]]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    raise DataError(
        f"{place} holds {len(named)} data sets by its README.md ({', '.join(shown)}{more}), "
        "expected one; name each that you mean as a source, such as "
        f"'{named[0]}={root}/{patterns[named[0]][0]}', or all of them by '{root}/**/*'"
    )


def configurations(readme: str) -> dict[str, list[str]]:
    """Return the patterns of every configuration's files, of its training split first."""
    front = _FRONT.match(readme)
    if front is None or "configs:" not in front[1]:
        return {}
    yaml: Any = importlib.import_module("yaml")
    try:
        entries = yaml.safe_load(front[1])["configs"]
        return {str(entry["config_name"]): list(_patterns(entry)) for entry in entries}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):  # somebody's text, not ours
        return {}


def _patterns(entry: Mapping[str, Any]) -> Iterable[str]:
    given = entry.get("data_files", "**/*")
    if isinstance(given, Mapping):
        given = [{"split": split, "path": path} for split, path in given.items()]
    items = [given] if isinstance(given, str) else given
    splits = [item if isinstance(item, Mapping) else {"path": item} for item in items]
    splits.sort(key=lambda item: item.get("split", "train") != "train")
    folder = str(entry.get("data_dir", "")).strip("/")
    for item in splits:
        for path in [item["path"]] if isinstance(item["path"], str) else item["path"]:
            yield f"{folder}/{path}".lstrip("/").removeprefix("./")


def _regex(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
    return re.compile(text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
