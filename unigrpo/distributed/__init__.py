"""The only package that imports ray, deepspeed, openrlhf and vllm. It makes OpenRLHF importable on a CPU."""

from unigrpo.distributed import compat

compat.install_when_needed()
