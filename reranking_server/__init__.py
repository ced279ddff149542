"""The installed service: one package that holds `webapp`, `pusher` and `contracts`.

In a clone they lie beside this folder, in a wheel inside it. Importing this module puts the folder that holds them
first on the path, so a package of another project with one of these names does not matter.
"""

import runpy
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

HOME = _HERE if (_HERE / "webapp").is_dir() else _HERE.parent
"""The folder that holds webapp, pusher, contracts, nginx, supervisor and gunicorn_config.py."""

if str(HOME) in sys.path:
    sys.path.remove(str(HOME))
sys.path.insert(0, str(HOME))


def main() -> None:
    """Run the `reranking` command; or, after `-m`, a module, as Python's own `-m` does."""
    if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2:  # noqa: PLR2004 - the program, -m and the module
        module, sys.argv[1:] = sys.argv[2], sys.argv[3:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from webapp.cli import main as run_command  # noqa: PLC0415 - a module above starts without it

    run_command()
