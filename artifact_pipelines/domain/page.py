"""A retention plan as one page of HTML, made from nothing but the plan."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_ACTIONS: Final = ("forget", "slim", "archive", "keep")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
p.facts { color: #666; margin-top: 0; overflow-wrap: anywhere; }
.totals { display: flex; flex-wrap: wrap; gap: 1rem; }
.totals div { border: 1px solid #8884; border-radius: .5rem; min-width: 9rem; padding: .6rem 1rem; }
.totals b { display: block; font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #8883; padding: .35rem .6rem; }
th, td { text-align: left; vertical-align: top; }
td.size { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; }
.forget b { color: #c02b2b; } .slim b { color: #a66300; }
.archive b { color: #2b64c0; } .keep b { color: #2a7d46; }
summary { cursor: pointer; }
"""


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{count} B" if not unit else f"{value:.1f} {_UNITS[unit]}"


def of_plan(plan: Mapping[str, Any]) -> str:
    """Return the page of a plan's document: totals, and each artifact with its reasons."""
    items: Sequence[Mapping[str, Any]] = plan["items"]
    by_action = {action: [one for one in items if one["action"] == action] for action in _ACTIONS}
    totals = "".join(
        f'<div class="{action}"><b>{len(found)}</b>{action}'
        f"<br>{size(sum(one['size'] for one in found))}</div>"
        for action, found in by_action.items()
    )
    tables = "".join(_table(action, found) for action, found in by_action.items() if found)
    title = f"Retention plan for {escape(plan['project'])}"
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        f'<p class="facts">Made {escape(plan["made"])} from {plan["size"]} ledger leaves with root '
        f"<code>{escape(plan['root'])}</code>, under policy <code>{escape(plan['policy'])}</code>; "
        f"it expires {escape(plan['expires'])}. Nothing goes before it is approved and applied, "
        "and what is held by then stays.</p>\n"
        f'<div class="totals">{totals}</div>\n{tables}</body>\n</html>\n'
    )


def _table(action: str, items: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(_row(item) for item in items)
    table = (
        "<table><thead><tr><th>artifact</th><th>kind</th><th>size</th><th>rule</th>"
        f"<th>because</th><th>used by</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    heading = f"{len(items)} to {action}"
    if action == "keep":
        return f"<details><summary>{heading}</summary>{table}</details>\n"
    return f'<h2 class="{action}">{heading}</h2>{table}\n'


def _row(item: Mapping[str, Any]) -> str:
    because = "<br>".join(escape(reason) for reason in item["reasons"])
    used = ", ".join(escape(name) for name in item["referrers"]) or "nothing"
    return (
        f'<tr id="{escape(item["artifact"])}"><td class="name">{escape(item["reference"])}</td>'
        f'<td>{escape(item["kind"])}</td><td class="size">{size(item["size"])}</td>'
        f"<td><code>{escape(item['rule'])}</code></td><td>{because}</td><td>{used}</td></tr>"
    )
