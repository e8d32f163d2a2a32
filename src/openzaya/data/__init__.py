"""Data: documents, AP-trimming, packing, mixtures, aggregation examples, RL prompts. Torch-free."""

from openzaya.data.ap_trim import ApTrimConfig, ap_trim
from openzaya.data.documents import Document, Segment
from openzaya.data.packing import pack

__all__ = ["ApTrimConfig", "Document", "Segment", "ap_trim", "pack"]
