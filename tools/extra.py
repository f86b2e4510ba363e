"""Prints the requirements of one extra of pyproject.toml, a line each: `python tools/extra.py ffcv`.

With it, tools/setup.sh installs an extra, which may fail, without building fasttrain itself again.
"""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
print("\n".join(project["optional-dependencies"][sys.argv[1]]))
