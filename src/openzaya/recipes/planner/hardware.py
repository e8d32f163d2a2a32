"""What devices can do, by their makers' data sheets, and how much of it training reaches."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from openzaya.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One accelerator or processor and its share of the links."""

    name: str
    memory_bytes: float
    """Memory of the device."""
    bytes_per_s: float
    """Rate at which the memory is read."""
    flops_per_s: float
    """Dense matrix products in the format that training computes in."""
    value_bytes: int
    """Bytes of a number in that format: 2 = bf16, 4 = fp32."""
    per_node: int
    """Devices that the fast link joins."""
    node_bytes_per_s: float
    """Sent by one device inside a node, one direction."""
    network_bytes_per_s: float
    """Sent by one device to other nodes, one direction."""
    utilization: float
    """Share of flops_per_s that training is planned with."""
    source: str
    """Where the rates come from."""
    utilization_source: str
    """Where the share comes from."""


_H100 = Device(
    name="h100",
    memory_bytes=80e9,
    bytes_per_s=3.35e12,
    flops_per_s=989.4e12,
    value_bytes=2,
    per_node=8,
    node_bytes_per_s=450e9,
    network_bytes_per_s=50e9,
    utilization=0.3,
    source="NVIDIA's data sheets, SXM: bf16 without sparsity; 900 GB/s of NVLink in both "
    "directions; one 400 Gbit/s port a device assumed",
    utilization_source="measured on one H200: 33% in the shape of ZAYA1-8B with layers computed "
    "again, 27% with 0.5B parameters",
)

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="mi300x",
            memory_bytes=192e9,
            bytes_per_s=5.3e12,
            flops_per_s=1_307.4e12,
            value_bytes=2,
            per_node=8,
            node_bytes_per_s=448e9,
            network_bytes_per_s=50e9,
            utilization=0.0439,
            source="AMD's data sheet: bf16 without sparsity; seven links of 64 GB/s a direction; "
            "the paper's network: one 400 Gbit/s port a device",
            utilization_source="the paper's base run, appendix B: 16.8M tokens in 2.5 s on 1,024",
        ),
        _H100,
        replace(_H100, name="h200", memory_bytes=141e9, bytes_per_s=4.8e12),
        Device(
            name="cpu",
            memory_bytes=24e9,
            bytes_per_s=30e9,
            flops_per_s=290e9,
            value_bytes=4,
            per_node=1,
            node_bytes_per_s=1.25e9,
            network_bytes_per_s=1.25e9,
            utilization=0.28,
            source="measured on two cores of a server processor (AVX-512, no AMX), fp32; "
            "network of 10 Gbit/s assumed",
            utilization_source="measured on the xs shape: 33% of one core's rate, 1.7 times with "
            "the second",
        ),
    )
}
"""The devices that plans know, by name."""


def device(name: str) -> Device:
    """Return a device by name. Raises ConfigError with a suggestion for one we do not know."""
    found = DEVICES.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(DEVICES)}"
        raise ConfigError(f"no hardware is called {name!r}; {hint}")
    return found
