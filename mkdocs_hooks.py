"""Pages of the repository's root on the site, and links that hold in both places."""

import os.path
import re

from mkdocs.structure.files import File

REPOSITORY = "https://github.com/metasg-jax/metasg_jax/blob/main/"
# files outside of docs/, and the pages that they are on the site
PAGES = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files, config):
    """Adds the pages whose text lies outside of ``docs/``."""
    root = os.path.dirname(config.config_file_path)
    for source, page in PAGES.items():
        with open(os.path.join(root, source), encoding="utf-8") as file:
            files.append(File.generated(config, page, content=file.read()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links that are written for the repository into those of the site."""
    name = page.file.src_uri
    folder = os.path.dirname(_SOURCES.get(name, f"docs/{name}"))
    parts = _FENCE.split(markdown)
    parts[::2] = [
        _LINK.sub(lambda m: m[1] + _on_site(m[2], folder, name) + m[3], part) for part in parts[::2]
    ]
    return "".join(parts)


def _on_site(target: str, folder: str, page: str) -> str:
    path, mark, anchor = target.partition("#")
    if "://" in target or not path:
        return target
    path = os.path.normpath(os.path.join(folder, path))
    if path in PAGES:
        place = PAGES[path]
    elif path.startswith("docs/"):
        place = path.removeprefix("docs/")
    else:
        return REPOSITORY + path + mark + anchor
    return os.path.relpath(place, os.path.dirname(page) or ".") + mark + anchor
