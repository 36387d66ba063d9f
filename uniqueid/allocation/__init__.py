"""Allocation: requests, group commit and the high-water marks."""
