"""Data: documents, AP-trimming, packing, mixtures, aggregation examples, RL prompts. Torch-free."""

from openzaya.data.ap_trim import ApTrimConfig, ap_trim
from openzaya.data.packing import pack
from openzaya.text.document import Document, Segment

__all__ = ["ApTrimConfig", "Document", "Segment", "ap_trim", "pack"]
