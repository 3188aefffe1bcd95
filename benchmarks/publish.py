"""Put what the benchmarks printed into the pages: docs/results/NAME.txt between the markers of NAME.

    python benchmarks/kmeans.py --check | tee docs/results/kmeans.txt
    python benchmarks/publish.py            # writes the pages anew
    python benchmarks/publish.py --check    # exits 1 where a page says something else than the results

A benchmark's last line is its JSON, which the pages leave out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("docs/benchmarks.md", "docs/models.md", "docs/low-rank.md", "README.md")
_BLOCK = re.compile(r"(<!-- results: ([a-z0-9-]+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def printed(name: str, part: str | None) -> str:
    """What a benchmark printed, without its JSON; `part`: only the Markdown tables below a line that starts so."""
    lines = (ROOT / "docs" / "results" / f"{name}.txt").read_text().rstrip().splitlines()[:-1]
    if part is None:
        return "```text\n" + "\n".join(lines).strip() + "\n```\n"
    start = next(i for i, line in enumerate(lines) if line.startswith(part))
    rows = []
    for line in lines[start + 1 :]:
        if line.startswith("|"):
            rows.append(line)
        elif rows:
            break
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """A page with every block filled anew."""
    return _BLOCK.sub(lambda m: f"{m[1]}{printed(m[2], m[3])}{m[4]}", text)


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for name in PAGES:
        path = ROOT / name
        fresh = page(path.read_text())
        if fresh != path.read_text():
            stale.append(name)
            if not args.check:
                path.write_text(fresh)
    print(f"{'stale' if args.check else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
