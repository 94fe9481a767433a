"""Peak arithmetic, memory and link bandwidth of common GPUs, from the vendors' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One GPU and its links."""

    name: str
    memory_gb: float
    """Memory, in units of 1e9 bytes."""
    tflops: float
    """Dense bfloat16 operations, in units of 1e12 per second."""
    link_gb: float
    """Bandwidth to the other GPUs of its node, in units of 1e9 bytes per second and direction."""
    nics: int
    """Number of network cards of a node."""
    nic_gb: float
    """Bandwidth of one network card, in units of 1e9 bytes per second and direction."""

    @property
    def network_gb(self) -> float:
        """Bandwidth between two nodes over all their network cards, in units of 1e9 bytes per second and direction."""
        return self.nics * self.nic_gb

    def ring_gb(self, num_gpus: int) -> float:
        """Returns the bandwidth of a ring through this many GPUs, in units of 1e9 bytes per second and direction.

        The GPUs of a node are neighbors in the ring, so that the ring crosses each border between two nodes once and
        uses all network cards there.
        """
        return self.link_gb if num_gpus <= GPUS_PER_NODE else min(self.link_gb, self.network_gb)


GPUS_PER_NODE = 8


KINDS = {
    kind.name: kind
    for kind in (
        Hardware(name="a100_40gb", memory_gb=42.9, tflops=312, link_gb=300, nics=8, nic_gb=25),
        Hardware(name="a100_80gb", memory_gb=85.9, tflops=312, link_gb=300, nics=8, nic_gb=25),
        Hardware(name="h100_80gb", memory_gb=85.5, tflops=989, link_gb=450, nics=8, nic_gb=50),
        Hardware(name="h200", memory_gb=150.7, tflops=989, link_gb=450, nics=8, nic_gb=50),
        Hardware(name="b200", memory_gb=191.0, tflops=2250, link_gb=900, nics=8, nic_gb=50),
    )
}
"""GPUs by the names that ``--gpu`` accepts. The network is that of the vendors' own systems, which have one card of
200 or 400 gigabits per second for each GPU."""
DEFAULT = "h100_80gb"


def find_hardware(name: str) -> Hardware:
    """Returns the hardware with this name in :data:`KINDS`.

    `auto` is the GPU of this machine, or :data:`DEFAULT` if it has no known GPU.
    """
    if name == "auto":
        return gpu_of_this_machine() or KINDS[DEFAULT]
    return KINDS[name]


def gpu_of_this_machine() -> Hardware | None:
    """Returns the entry of :data:`KINDS` for this machine's GPU; None if the GPU is unknown or there is none.

    Of the entries with the vendor's name of the GPU, it is the largest one with at most 1.1 times its memory.
    """
    import torch  # noqa: PLC0415  # takes seconds, and the flags need the names alone

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    same = [kind for kind in KINDS.values() if kind.name.split("_")[0] in found.name.lower()]
    fitting = [kind for kind in same if kind.memory_gb <= found.total_memory / 1e9 * 1.1]
    return max(fitting, key=lambda kind: kind.memory_gb, default=None)
