"""A model card beside an exported file, as Hugging Face reads them: measured values and no others.

What nobody measured, such as a licence or what the network is meant for, is not in it.
"""

import json
import re
from pathlib import Path
from typing import Any

from moeash import __version__
from moeash.escaping import visible
from moeash.evaluation.holdout import HoldoutResult
from moeash.exports.export import ExportReport
from moeash.exports.formats.names import CARD
from moeash.files import replacing, write_flushed
from moeash.study.study import Study

_MARKUP = re.compile(r"[\\`*\[\]<>|&$#!~]")
"""What means something in Markdown, or in HTML within it; a ``_`` within a word does not."""

METRIC_TYPES = {"top1": "accuracy", "macro_f1": "f1"}
"""What Hugging Face calls a metric; others keep their names."""


def write_card(study: Study, report: ExportReport) -> Path:
    """Write the card of a file beside it, under its name with the suffix ``.md``.

    Args:
        study: that the file is of.
        report: of its export.

    Returns:
        The path of the card.

    Raises:
        ExportError: it cannot be written.
    """
    path = Path(report.path).with_suffix(CARD)
    content = card_text(study, report, str(report.solution["fingerprint"]))
    with replacing(path) as temporary:
        write_flushed(temporary, content.encode())
    return path


def card_text(study: Study, report: ExportReport, fingerprint: str) -> str:
    """Return the card of a file: front matter in YAML, then Markdown.

    Args:
        study: that the file is of.
        report: of its export.
        fingerprint: of the weights that the file holds.
    """
    sections = [_size(report), _holdout(report), _search(study, report), _made(study, report)]
    name = Path(report.path).name
    weights = (
        f"## Weights\n\nOf the architecture named above; their fingerprint is `{fingerprint}`.\n"
    )
    weights += _loading(report)
    return "\n".join([_front_matter(study, report), f"# {_text(name)}\n", *sections, weights])


def _loading(report: ExportReport) -> str:
    """Return how the `.moeash` file is loaded; nothing where there is none."""
    name = next((file.name for file in report.files if file.format == "moeash"), None)
    if name is None:
        return ""
    load = f"network = moeash.load({json.dumps(name)}, into=network)"
    return f"\n```python\nimport moeash\n\n{load}\n```\n"


def _front_matter(study: Study, report: ExportReport) -> str:
    """Return YAML; strings are quoted as JSON has them, which YAML reads alike."""
    lines = ["---", "library_name: moeash", "tags:", "- weight-sharing", "- compression"]
    if report.holdout is not None:
        lines += [
            "model-index:",
            f"- name: {json.dumps(study.name)}",
            "  results:",
            "  - task:",
            '      type: "image-classification"',
            "    dataset:",
            f"      type: {json.dumps(_data(study))}",
            f"      name: {json.dumps(_data(study))}",
            '      split: "holdout"',
            "    metrics:",
        ]
        for name, value in _metrics(report.holdout).items():
            lines += [
                f"    - type: {json.dumps(METRIC_TYPES.get(name, name))}",
                f"      name: {json.dumps(name)}",
                f"      value: {json.dumps(value)}",
            ]
    return "\n".join([*lines, "---\n"])


def _data(study: Study) -> str:
    return "not described" if study.spec.data is None else study.spec.data.source


def _metrics(result: HoldoutResult) -> dict[str, float]:
    return {"top1": result.top1, result.metric_name: result.metric}


def _size(report: ExportReport) -> str:
    solution = report.solution
    return (
        "## Size\n\n"
        f"{report.size_bytes:,} bytes, {report.ratio:.1f} times smaller than the same state in "
        f"float32. {report.n_shared:,} weights share {solution['entries']:,} values of a codebook, "
        f"{solution['bits_per_weight']:.3f} bits a weight; {report.n_kept:,} elements are kept "
        "beside them. The file was decoded and compared bit for bit.\n"
    )


def _holdout(report: ExportReport) -> str:
    holdout, exact = report.holdout, report.holdout_float
    if holdout is None or exact is None:
        return "## Evaluation\n\nThe study has no holdout split: nothing was measured on one.\n"
    rows = [("top1", exact.top1, holdout.top1)]
    if holdout.metric_name != "top1":
        rows.append((holdout.metric_name, exact.metric, holdout.metric))
    table = "\n".join(
        f"| {_text(name)} | {before:.4f} | {after:.4f} | {before - after:+.4f} |"
        for name, before, after in rows
    )
    return (
        f"## Evaluation\n\nOn {holdout.n_images:,} images that the search never saw:\n\n"
        f"| metric | float network | this file | drop |\n|---|---|---|---|\n{table}\n\n"
        f"95 % interval of top1: {holdout.top1_low:.4f} to {holdout.top1_high:.4f}.\n"
    )


def _search(study: Study, report: ExportReport) -> str:
    solution, facts = report.solution, study.facts
    return (
        "## Search\n\n"
        f"Solution {solution['id']} of study {_code(study.name)}, method "
        f"{_code(study.spec.method.name)}, recipe {_code(json.dumps(solution['recipe']))}. On the "
        f"search split {_text(facts.metric_name)} is {solution['metric']:.4f}, that of the float "
        f"network {facts.baseline:.4f}.\n"
    )


def _made(study: Study, report: ExportReport) -> str:
    facts, network = study.facts, study.spec.network
    known: dict[str, Any] = {
        "network": network.source,
        "data": _data(study),
        "network fingerprint": facts.network_fingerprint,
        "data fingerprint": facts.data_fingerprint,
        "moeash": __version__,
        **{str(key): value for key, value in facts.environment.items()},
    }
    lines = "\n".join(f"* {_text(key)}: {_code(str(value))}" for key, value in known.items())
    return f"## Made from\n\n{lines}\n"


def _code(text: str) -> str:
    """Return a text as code: what somebody named may hold no Markdown that is one."""
    return f"`{visible(text).replace('`', chr(39))}`"


def _text(name: str) -> str:
    """Return a name as text that is read as itself, whatever letters it has."""
    return _MARKUP.sub(r"\\\g<0>", visible(name))
