"""Print docs/models.md: the families and variants of the suite, and what is said of models that are refused.

Run: .venv/bin/python tests/models/document.py > docs/models.md
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def document(refusals: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        refusals: what is refused -> the message.
    """
    from catalogue import BI_ENCODERS, DECODERS, ENCODERS, QUICK
    from families import FAMILIES
    from kit import LARGEST_ERROR, LARGEST_ROUNDED_ERROR, NATIVE, OPENVINO_INT8, TORCH_BF16
    from refusals import REFUSALS

    from webapp.engine.recipes import known_recipes

    tried: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for case in [*QUICK, *ENCODERS, *BI_ENCODERS, *DECODERS]:
        tried[case.family].append(case.name)
    rows = [
        (each.title, each.examples, each.recognised, engines(each.engines), reference(each.reference))
        for each in FAMILIES.values()
    ]
    places = {
        "recipes": ", ".join(f"`{recipe.name}`" for recipe in known_recipes()) + ", or a recipe file of your own",
        "families": table(rows),
        "notes": "\n".join(f"- {each.title}: {each.note}" for each in FAMILIES.values() if each.note),
        "largest": f"{LARGEST_ERROR:g}".replace("e-0", "e-"),
        "int8": f"{LARGEST_ROUNDED_ERROR[NATIVE]:g} (native) and {LARGEST_ROUNDED_ERROR[OPENVINO_INT8]:g} (OpenVINO)",
        "bf16": f"{LARGEST_ROUNDED_ERROR[TORCH_BF16]:g}",
        "layouts": "\n".join(f"- {each.title}: {'; '.join(tried[name])}." for name, each in FAMILIES.items()),
        "refusals": table([(each.what, each.examples, f"`{refusals[each.what]}`") for each in REFUSALS]),
    }
    page = (ROOT / "docs" / "models.md.in").read_text(encoding="utf-8")
    for name, text in places.items():
        page = page.replace(f"{{{{ {name} }}}}", text)
    return page


def engines(names: Sequence[str]) -> str:
    """Return `native int8; openvino int8, fp32`: what is tried first comes first."""
    precisions: dict[str, list[str]] = {}
    for name in reversed(names):
        engine, precision = name.split()
        precisions.setdefault(engine, []).append(precision)
    return "; ".join(f"{engine} {', '.join(found)}" for engine, found in precisions.items())


def reference(name: str) -> str:
    return f"sentence-transformers' {name}" if name[0].isupper() else "the vendor's formula"


def table(rows: list[tuple[str, ...]]) -> str:
    """Return the rows of a table; a bar in a cell ends no cell."""
    return "\n".join(f"| {' | '.join(row)} |" for row in ([cell.replace("|", "\\|") for cell in row] for row in rows))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from kit import Workshop
    from refusals import REFUSALS

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        workshop = Workshop(Path(place))
        sys.stdout.write(document({each.what: workshop.refusal(each) for each in REFUSALS}))
