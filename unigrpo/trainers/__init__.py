"""The training loops. They call worker groups and do not depend on Ray."""
