"""Write what the settings classes say into ``docs/configuration.md`` and the comments of ``MLproject``.

make docs
"""

import re
import textwrap
from pathlib import Path

from fmtl.settings import schema, wording
from fmtl.settings.fields import Settings

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION, MLPROJECT = ROOT / "docs" / "configuration.md", ROOT / "MLproject"
KINDS: dict[str, type[Settings]] = {
    name.removesuffix("Settings").lower(): getattr(schema, name) for name in schema.__all__ if name != "Settings"
}


def configuration(text: str) -> str:
    """``docs/configuration.md`` with every command's table as it should be."""
    for command, kind in KINDS.items():
        rows = "\n".join(wording.row(kind, name) for name in kind.model_fields)
        table = rf"(## {command}\n\n\| setting .*\n\|---.*\n)(?:\|.*\n)+"
        text, found = re.subn(table, lambda match, rows=rows: f"{match[1]}{rows}\n", text)
        if found != 1:
            raise ValueError(f"{CONFIGURATION}: expected one table under '## {command}', found {found}")
    return text


def mlproject(text: str) -> str:
    """``MLproject`` with every setting that has a default in its entry point's comment."""
    for command, kind in KINDS.items():
        names = [name for name, field in kind.model_fields.items() if not field.is_required()]
        names += ["config"] if command in ("prepare", "train") else []
        if not names:
            continue
        also = textwrap.wrap("Also: " + ", ".join(names), 116, break_long_words=False)
        lines = "".join(f"  # {line}\n" for line in also)
        comment = rf"  # Also: .*\n(?:  # .*\n)*(?=  {command}:\n)"
        text, found = re.subn(comment, lambda _, lines=lines: lines, text)
        if found != 1:
            raise ValueError(f"{MLPROJECT}: expected one comment '# Also:' above '{command}:', found {found}")
    return text


def main() -> None:
    for path, write in ((CONFIGURATION, configuration), (MLPROJECT, mlproject)):
        path.write_text(write(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
