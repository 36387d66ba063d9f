"""The documentation site: `make docs` builds it, and each warning is an error."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

REPOSITORY = "https://github.com/pacifica/pacifica-uniqueid/blob/master/"

project = "Pacifica UniqueID"
author = "Pacifica UniqueID contributors"
project_copyright = author
release = re.search(
    r'^__version__ = "(.*)"',
    (Path(__file__).parents[1] / "uniqueid/__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)[1]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid", "openapi"]
exclude_patterns = ["_build", "_ext"]
default_role = "code"

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"Pacifica UniqueID {release}"
html_theme_options = {"source_repository": REPOSITORY.split("blob/")[0]}


def _link_to_the_repository(_app, _page, source):
    """Links to files outside `docs/` lead to the repository."""
    source[0] = re.sub(r"\]\(\.\./", f"]({REPOSITORY}", source[0])


def setup(app):
    app.connect("source-read", _link_to_the_repository)
