"""Metrics, health checks and incidents."""
