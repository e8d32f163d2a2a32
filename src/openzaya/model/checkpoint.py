"""Reading and writing model folders in the Hugging Face layout.

Tensors stay memory-mapped: a parameter whose dtype is the file's is the file, page by page, so an
8B model loads in seconds and experts that are never chosen stay on disk.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint_legacy import is_legacy, legacy_config, legacy_tensors
from openzaya.model.config import Precision, SkipMode, ZayaConfig
from openzaya.model.shards import Shards, write_json
from openzaya.model.zaya import Zaya
