"""The diffusion transformer, its vocabulary, the image tokenizer and the samplers."""
