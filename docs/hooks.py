"""What `mkdocs build` shows beside the pages of docs/.

- The README is the home page; each training method has a page made of its docstring and of what was
  measured (`method_pages`); the reference lists every public name (`reference_pages`).
- Pages link to files of the repository as they do on a code host, by relative paths. What lies
  outside docs/ and is linked from anywhere becomes a part of the site: Markdown as a page, pictures
  and data as they are, source code as a page that shows it.
- `llms.txt`, an index for language models, and each page's Markdown beside it.
"""

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from method_pages import GROUPS, method_names, method_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page
from reference_pages import PAGES, reference_page

ROOT = Path(__file__).resolve().parents[1]
SHOWN_AS_THEY_ARE = (".svg", ".png", ".json", ".zip", ".txt", ".ipynb", ".css")
# Not inside code: neither ``` blocks, which are cut out before, nor `…`.
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s]+)(?P<after>(?:\s+\"[^\"]*\")?\))")
FENCE = re.compile(r"^ *(`{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)

_origin: dict[str, str] = {}  # of a generated page: the file of the repository that it shows
_markdown: dict[str, str] = {}  # of each page as it was built


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and every file that a page links to."""
    _origin.clear()
    pages = {f"docs/{one.src_uri}": _read(one) for one in files if one.src_uri.endswith(".md")}
    made = {f"methods/{name}.md": method_page(name) for name in method_names()}
    made |= {f"reference/{page}.md": reference_page(page) for page in PAGES}
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
        pages[f"docs/{uri}"] = text
    waiting = [*pages.items(), ("README.md", (ROOT / "README.md").read_text(encoding="utf-8"))]
    _add(files, config, "README.md")
    while waiting:
        where, text = waiting.pop()
        for target in _outside(where, text):
            if site_path(target) in files.src_uris:
                continue
            _add(files, config, target)
            if target.endswith(".md"):
                waiting.append((target, (ROOT / target).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site."""
    uri = page.file.src_uri
    where = _origin.get(uri, f"docs/{uri}")

    def mapped(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        path = _repository_path(where, target)
        if path is None:
            return found[0]
        there = posixpath.relpath(site_path(path), posixpath.dirname(uri) or ".")
        return f"{found['before']}{there}{'#' * bool(anchor)}{anchor}{found['after']}"

    markdown = _outside_of_code(lambda text: LINK.sub(mapped, text), markdown)
    _markdown[page.url] = markdown
    return markdown


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Each method's page below the overview of methods."""
    section = next(one for one in nav.items if isinstance(one, Page) and _is_overview(one))
    by_uri = {file.src_uri: file for file in files}
    children: list[Any] = [section]
    for title, names in GROUPS.items():
        pages = [Page(name, by_uri[f"methods/{name}.md"], config) for name in names]
        group = Section(title, list(pages))
        for page in pages:
            page.parent = group
        nav.pages.extend(pages)
        children.append(group)
    whole = Section("Methods", children)
    for child in children:
        child.parent = whole
    section.title = "Overview"
    nav.items[nav.items.index(section)] = whole
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Write `llms.txt` and the Markdown of each page."""
    site = Path(config.site_dir)
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for url, text in sorted(_markdown.items()):
        place = site / url / "page.md"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        if not url.startswith(("recipes/", "source/")):
            title = re.search(r"^# (.+)$", text, re.MULTILINE)
            lines.append(f"- [{title[1] if title else url}]({url}page.md): {_opening(text)}")
    (site / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path == "README.md":
        return "index.md"
    if (ROOT / path).is_dir():
        readme = f"{path}/README.md"
        return readme if (ROOT / readme).exists() else f"source/{path}/listing.md"
    if path.endswith((".md", *SHOWN_AS_THEY_ARE)):
        return path if "/" in path else path.lower()
    return f"source/{path}.md"


def _add(files: Files, config: MkDocsConfig, path: str) -> None:
    """A file of the repository, at its place in the site."""
    uri, source = site_path(path), ROOT / path
    if source.is_dir():
        if uri.endswith("README.md"):
            _add(files, config, f"{path}/README.md")
            return
        entries = sorted(one for one in source.iterdir() if one.is_file())
        rows = "\n".join(f"- `{one.name}`, {one.stat().st_size:,} bytes" for one in entries)
        file = File.generated(config, uri, content=f"# {path}\n\n{rows}\n")
    elif path.endswith(".md"):
        file = File.generated(config, uri, content=source.read_text(encoding="utf-8"))
    elif path.endswith(SHOWN_AS_THEY_ARE):
        file = File.generated(config, uri, abs_src_path=str(source))
    else:
        language = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".toml": "toml"}
        fence = f"````{language.get(source.suffix, 'text')}\n"
        text = f"# {path}\n\n{fence}{source.read_text(encoding='utf-8')}\n````\n"
        file = File.generated(config, uri, content=text)
    _origin[uri] = path
    files.append(file)


def _outside(where: str, text: str) -> Iterator[str]:
    """The files outside docs/ that a page links to."""
    for found in LINK.finditer(_without_code(text)):
        path = _repository_path(where, found["target"].partition("#")[0])
        if path is not None and not path.startswith("docs/"):
            yield path


def _repository_path(where: str, target: str) -> str | None:
    """What a relative link leads to, where that is in the repository."""
    if not target or "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(where), target))
    generated = re.fullmatch(r"docs/(methods|reference)/\w+\.md", path)
    return path if generated or (ROOT / path).exists() else None


def _without_code(text: str) -> str:
    return FENCE.sub("", text)


def _outside_of_code(change: Any, text: str) -> str:
    """`change` applied to all that stands between blocks of code."""
    place, parts = 0, []
    for block in FENCE.finditer(text):
        parts += [change(text[place : block.start()]), block[0]]
        place = block.end()
    return "".join([*parts, change(text[place:])])


def _opening(text: str) -> str:
    """The first sentence of a page."""
    for paragraph in re.split(r"\n\s*\n", _without_code(text)):
        if not paragraph.startswith(("#", "|", "-", "!", "<", "    ")):
            return " ".join(paragraph.split()).split(". ")[0].rstrip(".") + "."
    return ""


def _is_overview(page: Page) -> bool:
    return page.file.src_uri == "methods/index.md"


def _read(file: File) -> str:
    return file.content_string
