"""The distribution of the client; pyproject.toml has its metadata."""

from setuptools import setup

setup()
