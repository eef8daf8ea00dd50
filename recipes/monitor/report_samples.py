"""The report's rollout cards. Everything a model wrote is escaped before it meets the page.

Left out: rendering of Markdown and formulas; a reader of rollouts needs the characters the model produced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from recipes.monitor.report_charts import format_value
from recipes.monitor.report_data import in_task_order, outcome_of, task_name
from recipes.monitor.rollouts import RolloutRecord

_TAG = re.compile(r"</?(?:think|answer)>")
_OUTCOME_NAMES = {
    "correct": "Correct",
    "incorrect": "Incorrect",
    "malformed": "No readable answer",
    "fault": "Server fault",
}
_OUTCOME_SIGNS = {"correct": "✓", "incorrect": "✗", "malformed": "?", "fault": "!"}
# A shared system prompt shorter than this is left in the card's headline.
_SHARED_PROMPT = 40


def sample_cards(samples: Sequence[RolloutRecord]) -> str:
    """Return filter buttons and one collapsible card a rollout."""
    tasks = in_task_order([record.task for record in samples])
    outcomes = [name for name in _OUTCOME_NAMES if any(outcome_of(record) == name for record in samples)]
    largest = max(
        (abs(value) for record in samples for value in (*record.components.values(), record.reward or 0.0)), default=1.0
    )
    openings = _shared_openings(samples)
    cards = "".join(_card(record, openings[record.task], largest or 1.0) for record in samples)
    return f"""
<div class="filters" hidden>
{filter_buttons("task", "Task", {task: task_name(task) for task in tasks})}
{filter_buttons("outcome", "Outcome", {name: _OUTCOME_NAMES[name] for name in outcomes})}
<button type="button" class="chip" id="toggle-all" aria-expanded="false">Open all</button>
</div>
<div class="samples">{cards}</div>
<p class="none muted" hidden>No sample has this task and outcome.</p>"""


def highlight(response: str) -> str:
    """Return the response as HTML: tags dimmed, reasoning and answer set apart, text outside both marked.

    A tag that opens ends the part before it, so a forgotten ``</think>`` does not hide the answer.
    """
    parts = []
    state = "outside"
    position = 0
    for match in _TAG.finditer(response):
        parts.append(_segment(state, response[position : match.start()]))
        parts.append(f'<span class="tag">{escape(match.group())}</span>')
        state = "outside" if match.group().startswith("</") else match.group()[1:-1]
        position = match.end()
    parts.append(_segment(state, response[position:]))
    return "".join(parts)


def _segment(state: str, text: str) -> str:
    if not text.strip():
        return escape(text)
    return f'<span class="{state}">{escape(text)}</span>'


def _card(record: RolloutRecord, opening: str, largest: float) -> str:
    outcome = outcome_of(record)
    extracted = "<em>none</em>" if record.extracted is None else f"<code>{escape(record.extracted)}</code>"
    reward = "none (masked out of the loss)" if record.reward is None else format_value(record.reward, "number")
    return f"""
<details class="card sample" data-task="{escape(record.task)}" data-outcome="{outcome}">
<summary>
<span class="badge {outcome}"><span aria-hidden="true">{_OUTCOME_SIGNS[outcome]}</span> {_OUTCOME_NAMES[outcome]}</span>
<span class="about">Step {record.step:,} · {escape(task_name(record.task))}</span>
<span class="excerpt">{escape(_excerpt(record, opening))}</span>
<span class="points">{format_value(record.reward, "number")}</span>
</summary>
<div class="body">
<h4>Prompt</h4>
<pre class="text">{escape(record.prompt)}</pre>
<h4>Response <span class="muted">{record.tokens:,} tokens</span></h4>
<pre class="text response">{highlight(record.response)}</pre>
<div class="verdict">
<dl>
<div><dt>Gold answer</dt><dd><code>{escape(record.answer)}</code></dd></div>
<div><dt>Extracted</dt><dd>{extracted}</dd></div>
<div><dt>Status</dt><dd>{escape(record.status)}</dd></div>
<div><dt>Reward</dt><dd>{reward}</dd></div>
<div><dt>Rollout</dt><dd>{escape(record.id)}, group {record.group}</dd></div>
</dl>
{_components(record.components, largest)}
</div>
</div>
</details>"""


def _components(components: Mapping[str, float], largest: float) -> str:
    if not components:
        return '<p class="muted">No components recorded.</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar">{_bar(value / largest)}</td>'
        f"<td>{format_value(value, 'number')}</td></tr>"
        for name, value in components.items()
    )
    return f'<table class="components"><caption>Reward components</caption><tbody>{rows}</tbody></table>'


def _bar(share: float) -> str:
    """Return a bar from the middle: right is positive, left negative."""
    width = 50 * min(1.0, abs(share))
    x = 50 if share >= 0 else 50 - width
    sign = "plus" if share >= 0 else "minus"
    return (
        '<svg width="100%" height="12" aria-hidden="true"><line class="zero" x1="50%" x2="50%" y1="0" y2="12"/>'
        f'<rect class="{sign}" x="{x:.1f}%" y="2" width="{width:.1f}%" height="8" rx="1.5"/></svg>'
    )


def filter_buttons(group: str, label: str, choices: Mapping[str, str]) -> str:
    """Return a button for each value of `data-GROUP` that cards have, and one for all."""
    buttons = "".join(
        f'<button type="button" class="chip" data-filter="{group}" data-value="{escape(value)}" '
        f'aria-pressed="{"true" if not value else "false"}">{escape(name)}</button>'
        for value, name in {"": "All", **choices}.items()
    )
    return f'<div role="group" aria-label="{label}"><span class="muted">{label}</span>{buttons}</div>'


def _shared_openings(samples: Sequence[RolloutRecord]) -> dict[str, str]:
    """Return, by task, the opening (system prompt, instructions) that all its prompts share."""
    prompts: dict[str, set[str]] = {}
    for record in samples:
        prompts.setdefault(record.task, set()).add(record.prompt)
    shared = {task: _common_start(texts) if len(texts) > 1 else "" for task, texts in prompts.items()}
    return {task: text if len(text) >= _SHARED_PROMPT else "" for task, text in shared.items()}


def _common_start(texts: Iterable[str]) -> str:
    # Of sorted texts the first and the last differ earliest.
    ordered = sorted(texts)
    first, last = ordered[0], ordered[-1]
    length = next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first[:length]


def _excerpt(record: RolloutRecord, opening: str) -> str:
    if record.question is not None:
        return " ".join(record.question.split())[:160]
    # Questions may begin alike, so the opening reaches into the question: the headline starts at that line.
    start = opening.rfind("\n") + 1
    return " ".join(record.prompt[start:].split())[:160]
