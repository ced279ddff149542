"""Links of the documents lead somewhere: files that are there, headings that are in them."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)

LINK = re.compile(
    r"!?\[[^\]]*\]\(([^()\s]+)(?: [^)]*)?\)|<(?:img|a)[^>]*?(?:src|href)=\"([^\"]+)\"|^\[[^\]]+\]: (\S+)", re.MULTILINE
)

ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


@cache
def prose(page):
    """Without blocks of code, in which nothing is a heading or a link."""
    return CODE.sub("", page.read_text())


@cache
def anchors(page):
    """Return the anchors of headings as GitHub makes them: lower case, no punctuation, hyphens, doubles numbered."""
    seen, found = {}, set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found


def links(page):
    for groups in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        link = "".join(groups)
        if not ELSEWHERE.match(link):
            yield link


def broken(page, link):
    """What is wrong with it; "" for nothing."""
    path, _, anchor = link.partition("#")
    target = (ROOT / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve() if path else page
    if not target.exists():
        return "no such file"
    if ROOT not in (target, *target.parents):
        return "not in this repository"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return "no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page):
    assert {link: wrong for link in links(page) if (wrong := broken(page, link))} == {}


def test_documents_that_code_and_configuration_name_are_there():
    """A mention as `docs/install.md#a-wheel`, in a message, a comment or a manifest."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("no git repository")
    wrong = {}
    for name in listed.stdout.decode().splitlines():
        file = ROOT / name
        if not file.is_file() or file.suffix in {".md", ".png", ".lock"}:
            continue
        for link in re.findall(r"(?<![\w/.-])docs/[\w/.-]+\.md(?:#[\w-]+)?", file.read_text(errors="replace")):
            if why := broken(ROOT / "README.md", link):
                wrong[name, link] = why
    assert wrong == {}


def test_the_checker_sees_what_is_broken(tmp_path):
    page = ROOT / "docs" / "install.md"
    assert broken(page, "no-such.md") == "no such file"
    assert broken(page, "operations.md#no-such-heading") == "no such heading"
    assert broken(page, "#a-clone") == ""
    made = tmp_path / "page.md"
    made.write_text(
        "# Of `one`, two & [three](x.md)!\n# Twice\n## Twice\n```\n# none\n```\n[a](b.md 'no') ![c](d.png)\n"
    )
    assert anchors(made) == {"of-one-two--three", "twice", "twice-1"}
    assert list(links(made)) == ["x.md", "b.md", "d.png"]
