"""What the rewards of pictures share: pictures and prompts of a batch, weights, and the encoders."""
