"""The only importer of ray, deepspeed, openrlhf and vllm."""
