"""The training loops. They call worker groups and never see Ray."""
