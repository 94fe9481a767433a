"""The only importer of ray, deepspeed, openrlhf and vllm. Importing it makes OpenRLHF importable on a CPU."""

from unigrpo.distributed import compat

compat.install()
