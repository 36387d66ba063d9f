"""The distribution of the service; pyproject.toml has its metadata."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
# Links that work on a package index as well.
README = re.sub(
    r"(!?)(\[[^]]*\]\()(?!https?:|#)",
    lambda match: (
        f"{match[1]}{match[2]}https://github.com/pacifica/pacifica-uniqueid/"
        f"{'raw' if match[1] else 'blob'}/master/"
    ),
    (HERE / "README.md").read_text(encoding="utf-8"),
)


class BuildPy(build_py):
    """Adds the sample files of the top directory to the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("config.cfg", "uwsgi.ini"):
                self.copy_file(str(HERE / name), str(Path(self.build_lib, "uniqueid", name)))


setup(
    cmdclass={"build_py": BuildPy},
    long_description=README,
    long_description_content_type="text/markdown",
)
