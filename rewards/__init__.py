"""Rewards: one file each, the file name is the name in the config. Imports nothing of unigrpo."""
