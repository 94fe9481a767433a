"""Rewards: each file is one reward, and its name is the name in the config. Imports nothing of unigrpo."""
