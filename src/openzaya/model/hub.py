"""Where a model's folder is: here, or on the Hugging Face hub."""

from pathlib import Path

from openzaya.core.errors import CheckpointError

HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]
"""What is fetched of a hub repository: no code, no pickles."""


def resolve_folder(path: str | Path) -> Path:
    """Return a local folder; a hub id such as `Zyphra/ZAYA1-8B` is fetched with huggingface_hub.

    Raises CheckpointError when there is neither.
    """
    folder, name = Path(path), str(path)
    if folder.is_dir():
        return folder
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{path} is not a model folder; expected a folder with config.json and *.safetensors, "
            "or a hub id like Zyphra/ZAYA1-8B"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # of the hub, its HTTP client or a proxy
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name} is no folder here, and as a hub id it could not be fetched "
            f"({type(error).__name__}: {reason}); if a folder is meant, correct its path, else the "
            "id or the network, or name a folder that was downloaded"
        ) from error
