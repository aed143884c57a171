"""Write docs/formats/config.md from the configuration itself.

.venv/bin/python docs/make_config.py
"""

from __future__ import annotations

from pathlib import Path

from cosim.config import Config

HEAD = """# Configuration

A [profile](../profiles.md) given with `--profile`, a TOML file with `--config`, and single keys with `--set
section.key=value` (a value is TOML too; a bare word is a string; none leaves out a key without a default). Later ones
go on top. Unknown sections and keys are errors. The whole configuration is stored with every result.

```toml
[array]
open_wordlines = 9
bitline_res_ohm = 5

[adc]
bits = 6
```

This page is written by `docs/make_config.py`.
"""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for section, field in Config.model_fields.items():
        kind = field.annotation
        assert kind is not None
        parts.append(f"\n## [{section}]\n\n{kind.__doc__}\n\n| Key | Default | Meaning |\n|---|---|---|\n")
        for name, key in kind.model_fields.items():
            default = "" if key.default is None else f"`{key.default!r}`".replace("'", '"')
            meaning = " ".join((key.description or "").split())
            parts.append(f"| `{name}` | {default} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    (Path(__file__).parent / "formats" / "config.md").write_text(render())
