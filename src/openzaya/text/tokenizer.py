"""The tokenizer: a folder's tokenizer.json through the `tokenizers` library, nothing more."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from openzaya.core.errors import CheckpointError
from openzaya.text.markers import ALL_MARKERS, IM_END

LONG_CHARS = 16 << 10
"""From here on a text is encoded as a batch: other threads run meanwhile, as they do not else."""


class TextTokenizer:
    """Text to ids and back; special tokens cannot be injected through `encode_plain`.

    `encode` and `encode_plain` never add a token of their own (no BOS, no EOS): the chat template
    writes whatever the model expects.
    """

    def __init__(self, backend: RustTokenizer, config: dict[str, Any] | None = None) -> None:
        """Wrap a tokenizer of the `tokenizers` library; `config` is its tokenizer_config.json."""
        self._backend = backend
        self._config = dict(config or {})
        added = backend.get_added_tokens_decoder()
        self._special = {
            token.content: token_id for token_id, token in added.items() if token.special
        }
        # Multi-word fragments of the template may be single ids too. They are harmless unless
        # they hold a marker, and then the marker itself is in this list.
        closed = {text for text in self._special if len(text) > 1 and not re.search(r"\s", text)}
        self._dangerous = frozenset(closed.union(ALL_MARKERS))
        self._splitters: dict[frozenset[str], re.Pattern[str]] = {}
        self._bytes: dict[int, bytes] = {}
        self._eos_token = self._find_eos()

    @classmethod
    def load(cls, folder: str | Path) -> "TextTokenizer":
        """Read the tokenizer of a model folder.

        Raises CheckpointError when tokenizer.json is missing, unreadable or has no stop token.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{path} does not exist; a model folder needs its tokenizer.json: copy it from "
                "the model's repository"
            )
        try:
            backend = RustTokenizer.from_str(path.read_text(encoding="utf-8"))
        # The binding raises plain Exception for every malformed file; there is nothing narrower.
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as a tokenizer ({error}); expected the tokenizer.json of "
                "the `tokenizers` library: download or convert it again"
            ) from error
        config = read_json(Path(folder) / "special_tokens_map.json")
        config.update(read_json(Path(folder) / "tokenizer_config.json"))
        return cls(backend, config)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, readable by transformers as well."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        config["eos_token"] = self._eos_token
        config["clean_up_tokenization_spaces"] = False
        text = self._backend.to_str(pretty=True)
        (target / "tokenizer.json").write_text(text, encoding="utf-8")
        body = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (target / "tokenizer_config.json").write_text(body, encoding="utf-8")

    @property
    def sha256(self) -> str:
        """Return the hash of vocabulary, merges and markers: equal hashes give equal ids."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; markers become their single ids. For trusted text only."""
        if len(text) >= LONG_CHARS:
            return self.encode_batch([text])[0]
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, text: str, allow: Iterable[str] = ()) -> list[int]:
        """Return the ids of text that users may have written: markers are ordinary characters.

        Markers named in `allow` still become single ids.
        """
        return [token for part in self.plain_parts(text, allow) for token in self.encode(part)]

    def plain_parts(self, text: str, allow: Iterable[str] = ()) -> list[str]:
        """Return `text` cut inside its markers; the ids of `encode_plain` are the parts' ids."""
        pattern = self._splitter(self._dangerous.difference(allow))
        cuts = [match.start() + 1 for match in pattern.finditer(text)]
        if not cuts:
            return [text]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what `encode` returns for each text, computed on all cores of the process."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def definition(self) -> dict[str, Any]:
        """Return the tokenizer.json as a table."""
        found: dict[str, Any] = json.loads(self._backend.to_str())
        return found

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of `ids`, special tokens included unless `skip_special`."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special))

    def token_bytes(self, token_id: int) -> bytes:
        """Return what one token adds to the text, in UTF-8; it may hold part of a character.

        Joined over a sequence they are the sequence's text. Empty for ids without a token.
        """
        if token_id not in self._bytes:
            token = self._backend.id_to_token(token_id)
            text = self.decode([token_id])
            self._bytes[token_id] = b"" if token is None else spelled_bytes(token, text)
        return self._bytes[token_id]

    def last_tokens(self, text: str, count: int) -> str:
        """Return the suffix of `text` that is at most `count` tokens long.

        A character cut in half by the token border is left out.
        """
        if count <= 0:
            return ""
        ids = self.encode_plain(text)
        if len(ids) <= count:
            return text
        return self.decode(ids[-count:]).lstrip("\ufffd")

    def first_tokens(self, text: str, count: int) -> str:
        """Return the prefix of `text` that is at most `count` tokens long, in whole characters."""
        ids = self.encode_plain(text)
        if len(ids) <= count:
            return text
        return self.decode(ids[: max(0, count)]).rstrip("\ufffd")

    def token_id(self, token: str) -> int | None:
        """Return the id of one token by its exact text, or None."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    @property
    def special_tokens(self) -> list[str]:
        """Return the texts of all special tokens."""
        return list(self._special)

    @property
    def special_ids(self) -> frozenset[int]:
        """Return the ids of all special tokens."""
        return frozenset(self._special.values())

    @property
    def eos_token(self) -> str:
        """Return the text of the stop token."""
        return self._eos_token

    @property
    def eos_id(self) -> int:
        """Return the id of the stop token: `<|im_end|>`, else the folder's own eos."""
        found = self.token_id(self._eos_token)
        assert found is not None  # checked in _find_eos
        return found

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, added tokens included (the embedding may be wider)."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def _splitter(self, markers: frozenset[str]) -> re.Pattern[str]:
        if markers not in self._splitters:
            choices = "|".join(re.escape(marker) for marker in sorted(markers))
            # A lookahead finds overlapping markers as well.
            self._splitters[markers] = re.compile(f"(?={choices or '(?!)'})")
        return self._splitters[markers]

    def _find_eos(self) -> str:
        for token in (IM_END, token_text(self._config.get("eos_token"))):
            if token and self._backend.token_to_id(token) is not None:
                return token
        raise CheckpointError(
            f"the tokenizer has neither {IM_END} nor an eos_token in its tokenizer_config.json; "
            "one stop token is needed: add it to the files"
        )


def spelled_bytes(token: str, text: str) -> bytes:
    """Return the bytes of a token from its name in the vocabulary and its decoded text."""
    if "\ufffd" not in text:
        # Some decoders drop the space before a sequence's first word: here no token is the first.
        dropped = token.startswith("\u2581") and not text.startswith((" ", "\u2581"))
        return (" " + text if dropped else text).encode()
    fallback = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
    if fallback:
        return bytes.fromhex(fallback[1])
    try:
        return bytes(_BYTE_OF_LETTER[letter] for letter in token)
    except KeyError:
        return text.encode()


def _byte_letters() -> dict[str, int]:
    """Return the letters by which byte-level vocabularies write bytes.

    Source: OpenAI's GPT-2 encoder: printable bytes stand for themselves, the others for U+0100 on.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()


def token_text(value: object) -> str:
    """Return a token named in a tokenizer_config.json: a string or a table with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file, empty when there is no file.

    Raises CheckpointError when the file is not a JSON table.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); expected a JSON table: download it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a {type(value).__name__}, expected a JSON table: download it again"
        )
    return value
