"""The algorithm as pure functions on tensors, without models, files, devices or global random numbers.

Axes: B responses, L positions, V views of one sample, K inner updates, N image tokens.
"""
