"""The page: complete, escaped, self-contained, whatever the run came to."""

from __future__ import annotations

import copy
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from paring.errors import OutputError
from paring.report import summary, write_report
from paring.report.fields import Fields
from paring.report.html import page
from paring.report.points import TrialRow
from paring.report.records import Answer
from paring.types import NEEDS_MODULE

DATA = Path(__file__).parent / "data" / "report"
VOID = {"meta", "input", "br", "link", "hr", "col"}


def result() -> dict[str, Any]:
    return json.loads((DATA / "result.json").read_text("utf-8"))


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / "trials" / "trials.jsonl").read_text("utf-8").splitlines()]


def rendered(answer: dict[str, Any], trials: list[dict[str, Any]]) -> str:
    return page(Answer.of(answer), tuple(TrialRow.of(Fields(row)) for row in trials))


class Reader(HTMLParser):
    """Collects text and attributes, and fails where tags don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("style", "script"))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def classed(self, style: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if style in (attributes.get("class") or "").split()]


def infeasible() -> dict[str, Any]:
    answer = result()
    nearest = {**answer["best"], "misses": "the drop is certified at most 1.31 points, 0.31 above the budget"}
    answer.update(
        status="infeasible", reason="no candidate within 1.00 points is below 0.05 ms", best=None, speedup=None
    )
    answer.update(certificate=None, coverage=[], nearest=[nearest, {**answer["baseline"], "misses": "0.478 ms a call"}])
    answer["budget"]["max_latency_ms"] = 0.05
    return answer


def kept() -> dict[str, Any]:
    answer = result()
    answer.update(status="kept-original", reason="no candidate was faster within the budget", best=answer["baseline"])
    answer.update(certificate=None, coverage=[], speedup={"ratio": 1.0, "low": 1.0, "high": 1.0})
    return answer


def test_the_answer_stands_at_the_top_in_one_sentence() -> None:
    title = re.search(r"<h1>(.*?)</h1>", rendered(result(), rows()))
    assert title is not None
    assert re.sub("<.*?>", "", title[1]) == (
        "2.44× faster (2.38–2.49) than the original on its fastest runtime, at a certified drop of at most 0.60 points "
        "(95\u202f% confidence, n\u00a0=\u00a07,000)."
    )


@pytest.mark.parametrize("make", [result, kept], ids=lambda make: make.__name__)
def test_the_originals_are_told_alike_in_the_file_in_the_terminal_and_on_the_page(make: Any) -> None:
    told = {
        point["backend_text"]: (f"{point['latency_ms']['p50']:.3g}", "at length" if point["at_length"] else "quickly")
        for point in make()["baselines"]
    }
    assert {measured for _, measured in told.values()} == {"at length", "quickly"}
    lines = [re.split(r" {2,}", line) for line in summary(make()).splitlines() if line.startswith("original")]
    assert {line[1]: (number(line[2]), line[-1]) for line in lines} == told
    html = rendered(make(), rows())
    table = html[html.index('<table class="bars">') :]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", table)[1:]]
    page_rows = [[re.sub("<.*?>", "", cell) for cell in row] for row in cells if len(row) == 8]
    assert {row[0]: (number(row[1]), row[2]) for row in page_rows} == told


def test_how_it_was_measured_is_left_open_where_the_file_does_not_say() -> None:
    answer = result()
    for point in (answer["best"], answer["baseline"], *answer["baselines"]):
        del point["at_length"]
    for text in (summary(answer), rendered(answer, [])):
        assert "at length" not in text
        assert "quickly" not in text


@pytest.mark.parametrize(("objective", "told"), [("latency", True), ("throughput", True), ("size", False)])
def test_the_chart_of_a_speed_says_by_what_points_stand(objective: str, told: bool) -> None:
    answer = result()
    answer["budget"]["objective"] = objective
    assert ("beside the chosen one by speed-ups measured in turn" in rendered(answer, rows())) is told
    assert "by speed-ups measured in turn" not in rendered(infeasible(), rows())


def number(figure: str) -> str:
    """That of a latency with its unit."""
    return f"{float(figure.split()[0]):.3g}"


def test_every_trial_is_a_row_of_the_table() -> None:
    html = rendered(result(), rows())
    table = html[html.index('<table class="sortable">') :]
    body = re.findall(r"<tr.*?</tr>", table[table.index("<tbody>") : table.index("</tbody>")])
    numbers = sorted(int(found[1]) for row in body if (found := re.search(r'data-value="(\d+)"', row)))
    assert numbers == [row["number"] for row in rows()]


def test_the_first_trial_has_its_number_which_is_0() -> None:
    first = {**rows()[0], "number": 0}
    assert '<td data-value="0">0</td>' in rendered(result(), [first]).replace(' class="number"', "")


def test_every_trial_with_a_drop_and_a_latency_is_a_point_that_says_its_recipe() -> None:
    drawn = [row for row in rows() if row["latency_ms"] and row["drop"] is not None]
    html = rendered(result(), rows())
    titles = re.findall(r"<title>(#\d+ [^<]*)</title>", html)
    assert len(drawn) == 22
    for row in drawn:
        said = [title for title in titles if title.startswith(f"#{row['number']} ")]
        assert len(said) == 2, "one in the wide chart and one in the narrow chart"
        assert row["recipe_text"].replace("->", "→") in said[0]
        assert row["backend_text"] in said[0]


def test_points_stand_where_their_figures_say() -> None:
    html = rendered(result(), rows())
    found = re.findall(r'translate\(([\d.]+) ([\d.]+)\)[^>]*aria-label="#(\d+) ', html[: html.index("chart narrow")])
    at = {int(number): (float(x), float(y)) for x, y, number in found}
    assert at[26][0] < at[24][0] < at[14][0] < at[0][0] < at[2][0], "faster is further left"
    assert at[24][1] < at[26][1] < at[0][1] < at[7][1], "a larger drop is further up"
    assert at[21][1] == at[22][1] < at[15][1], "drops beyond the axis share the strip at the top"


@pytest.mark.parametrize("make", [result, kept, infeasible], ids=lambda make: make.__name__)
@pytest.mark.parametrize("with_trials", [True, False])
def test_it_reaches_for_nothing_outside_itself(make: Any, with_trials: bool) -> None:
    html = rendered(make(), rows() if with_trials else [])
    reader = Reader(html)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", re.sub(r"^ *// .*$", "", html, flags=re.MULTILINE))
    assert not any("src" in attributes for _, attributes in reader.tags)
    assert all((link["href"] or "").startswith("#") for link in reader.named("a"))
    assert reader.named("link") == []
    policy = next(meta["content"] for meta in reader.named("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("make", [result, kept, infeasible], ids=lambda make: make.__name__)
def test_links_lead_to_sections_that_exist(make: Any) -> None:
    reader = Reader(rendered(make(), rows()))
    anchors = {f"#{attributes['id']}" for attributes in reader.named("section")}
    assert {link["href"] for link in reader.named("a")} == anchors
    assert len(anchors) >= 7


HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def _poisoned(value: Any) -> Any:
    """The same JSON with hostile text in every string that is no keyword."""
    if isinstance(value, dict):
        return {key: item if key in ("status", "objective") else _poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_text_from_outside_is_escaped_everywhere() -> None:
    answer = _poisoned(result())
    answer["hardware"][HOSTILE] = HOSTILE
    answer["trials"][HOSTILE] = 3
    html = rendered(answer, _poisoned(rows()))
    reader = Reader(html)
    assert len(reader.named("script")) == 1
    assert reader.named("img") == []
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert html.count("&lt;script&gt;") > len(rows())


def test_kept_original_says_why_and_shows_no_recipe() -> None:
    reader = Reader(rendered(kept(), rows()))
    text = reader.text()
    assert "The original was kept, on onnxruntime, its fastest runtime." in text
    assert "No candidate was faster within the budget." in text
    assert "11.1× the speed of the model as it came" in text
    assert reader.classed("chain") == []
    assert reader.classed("ring"), "the kept original is marked in the chart"


@pytest.mark.parametrize("answer", [result(), kept()], ids=["improved", "kept"])
def test_a_comparison_that_tells_nothing_is_no_headline(answer: dict[str, Any]) -> None:
    answer["speedup_over_source"] = {"ratio": 100.0, "low": 6.5, "high": 1534.5}
    text = Reader(rendered(answer, rows())).text()
    assert "against the model as it came could not be measured closely: it lies within 6.5–1534.5×." in text
    assert "100×" not in text


def test_of_a_graph_the_coverage_tells_which_techniques_were_left_out() -> None:
    says = "Left out, since the task is a graph and they change modules: PruneChannels, FineTune."
    skipped = [{"what": what, "reason": NEEDS_MODULE} for what in ("PruneChannels", "FineTune")]
    for answer in (result(), kept()):
        assert "Left out, since" not in Reader(rendered(answer, rows())).text()
        answer["not_tried"] = [*skipped, {"what": "StaticQuantization", "reason": "another one."}]
        assert says in Reader(rendered(answer, rows())).text()


def test_infeasible_names_the_constraint_and_the_nearest_points() -> None:
    reader = Reader(rendered(infeasible(), rows()))
    text = reader.text()
    assert "Nothing that was tried meets the budget." in text
    assert "No candidate within 1.00 points is below 0.05 ms." in text
    assert "the drop is certified at most 1.31 points, 0.31 above the budget" in text
    assert "50.0 µs" in text, "the limit that binds is told"
    assert reader.classed("ring") == []
    assert "paring serve" not in text


def test_an_empty_result_still_makes_a_page() -> None:
    text = Reader(rendered({"status": "infeasible"}, [])).text()
    assert "Nothing that was tried meets the budget." in text
    for line in ("nothing to draw", "Nothing was certified", "Nothing was tried"):
        assert line in text


def test_rows_without_anything_but_an_outcome_are_listed() -> None:
    bare = [{"outcome": "failed"}, {"outcome": "failed", "reason": None, "latency_ms": None, "number": 2}, {}]
    text = Reader(rendered(kept(), bare)).text()
    assert "All 3 trials" in text
    assert "no reason was recorded" in text


def test_nan_and_nulls_read_as_nothing() -> None:
    row = rows()[5]
    row.update(score=float("nan"), drop=None, speedup={"ratio": None}, size_bytes=None)
    html = rendered(result(), [row])
    assert "nan" not in Reader(html).text().lower()
    assert "1 measured trial without these figures is in the table only." in html


def test_reasons_that_differ_in_numbers_only_are_folded() -> None:
    text = Reader(rendered(result(), rows())).text()
    assert "drop … on the first … rows, 0.01 is allowed (3 trials)" in text
    assert "openvino ended its process with signal SIGILL. (2 trials)" in text
    assert "drop 0.0938 on the first 256 rows" in text
    assert text.index("signal SIGILL") < text.index("changed nothing: ratio") < text.index("is allowed (")


def test_a_reason_that_fills_pages_is_folded_to_its_first_line() -> None:
    long = "RuntimeError: no kernel for node 7\n" + "at frame\n" * 50
    html = rendered(result(), [{"outcome": "failed", "reason": long, "recipe_text": "Mine"}])
    assert re.search(r"<summary><b>RuntimeError: no kernel for node 7 …</b> \(1 trial\)</summary>", html)
    assert html.count("at frame") == 50


def test_the_machine_is_told_with_units_and_versions_and_the_commands_repeat_the_budget() -> None:
    answer = result()
    answer["budget"].update(max_size_bytes=2_000_000, max_memory_bytes=5e8)
    answer.update(time_limit_s=90.0, techniques=["StaticQuantization", "FineTune"], backends=["openvino(streams=2)"])
    text = Reader(rendered(answer, rows())).text()
    for fact in ("memory16.8 GB", "onnxruntime1.31.0", "threads used2", "avx512_bf16, avx512_vnni"):
        assert fact in text
    assert "--max-drop 0.01 --confidence 0.95 --objective latency --max-size 2000000 --max-memory 500000000" in text
    assert "--batch-size 1 --threads 2 --time-limit 90s --seed 0 --techniques StaticQuantization,FineTune\n" in text
    assert "# from Python, with backends: openvino(streams=2)\n" in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("time_limit_s", 1e6, "--time-limit 1000000s "),
        ("time_limit_s", 1234567.5, "--time-limit 1234567.5s "),
        ("max_latency_ms", 1e-06, "--max-latency-ms 0.000001 "),
        ("max_drop", 0.001234567, "--max-drop 0.001234567 "),
        ("confidence", 0.9999999, "--confidence 0.9999999 "),
    ],
)
def test_the_repeated_command_has_every_figure_as_it_can_be_typed(field: str, value: float, says: str) -> None:
    answer = result()
    (answer["budget"] if field in answer["budget"] else answer)[field] = value
    assert says in Reader(rendered(answer, rows())).text()


def test_the_repeated_command_names_the_rows_that_go_with_a_graph() -> None:
    assert "file.onnx --data FILE" in Reader(rendered(result(), rows())).text()


def test_every_look_at_the_certification_rows_is_told_also_those_that_failed() -> None:
    answer = result()
    answer["finalists"] = [
        {
            "recipe_text": "StaticQuantization",
            "backend_text": "openvino",
            "certified": True,
            "told": "at most 0.4 points",
        },
        {"recipe_text": "A -> B", "backend_text": "torch", "certified": False, "told": "at most 1.7 points"},
    ]
    text = Reader(rendered(answer, rows())).text()
    assert "Certified: StaticQuantization on openvino: at most 0.4 points" in text
    assert "Not certified: A → B on torch: at most 1.7 points" in text
    assert "by runs that were discarded" not in text


def test_a_finalist_that_was_looked_at_twice_is_told_so() -> None:
    answer = result()
    assert "judged on the same ones as the original, once." in Reader(rendered(answer, rows())).text()
    look = answer["finalists"][0]
    answer["finalists"].append({**look, "certified": False, "told": "at 60% of the error"})
    assert "as the original, once; 1 finalist once more, by the same answers" in Reader(rendered(answer, rows())).text()


def test_looks_of_runs_that_were_discarded_are_told_too() -> None:
    answer = result() | {"discarded_looks": 2}
    told = "Before this run: 2 looks by runs that were discarded. What is certified holds for this run alone."
    assert told in Reader(rendered(answer, rows())).text()
    answer |= {"status": "kept-original", "certificate": None, "finalists": []}
    assert told in Reader(rendered(answer, rows())).text()


def test_the_certificate_shows_its_evidence() -> None:
    text = Reader(rendered(result(), rows())).text()
    for evidence in (
        "87 got worse",
        "70 got better",
        "6,843 scored the same",
        "Corrected for 3 finalists",
    ):
        assert evidence in text
    assert "Method: exact." in text
    assert "holds at this very number of rows" in text
    assert "The smallest drop that this many rows can certify is 0.06 points." in text


def test_an_approximate_certificate_says_so() -> None:
    answer = result()
    answer["certificate"].update(method="bootstrap", regressions=None, fixes=None)
    text = Reader(rendered(answer, rows())).text()
    assert "an approximately certified drop" in text
    assert "holds only as their number grows" in text
    assert "at this very number of rows" not in text
    assert "got worse" not in text


def test_coverage_is_shown_by_layer_with_shares_and_reasons() -> None:
    text = Reader(rendered(result(), rows())).text()
    assert "RemoveBlocks(count=2) changed 4 of 20 layers" in text
    assert (
        "6 layers left alone, is in no block that keeps the shape of its input and passes it on: conv1, layer2.0.conv1"
        in text
    )
    shares = [layer for layer in result()["coverage"][0]["layers"] if layer["changed"]]
    whole = sum(layer["macs"] for layer in result()["coverage"][0]["layers"])
    assert f"{100 * sum(layer['macs'] for layer in shares) / whole:.1f}\u202f% of the MACs" in text


@pytest.mark.parametrize(
    ("objective", "lead", "axis"),
    [
        ("latency", "2.44× faster", "latency p50 (left is better)"),
        ("throughput", "2.44× the throughput", "samples a second (right is better)"),
        ("size", "4.51× smaller", "size on disk (left is better)"),
        ("memory", "1.07× less memory", "peak memory (left is better)"),
    ],
)
def test_the_objective_decides_the_lead_and_the_axis(objective: str, lead: str, axis: str) -> None:
    answer = result()
    answer["budget"]["objective"] = objective
    html = rendered(answer, rows())
    assert f"<em>{lead}</em>" in html
    assert html.count(axis) == 2


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.987, 0.93, 1.01), (1.05, 0.99, 1.12), (0.8, 0.7, 0.9)])
def test_what_is_not_faster_for_sure_is_not_called_so(ratio: float, low: float, high: float) -> None:
    """Beside an original that breaks a limit, whatever holds it is the answer."""
    answer = result()
    answer["speedup"] = {"ratio": ratio, "low": low, "high": high}
    text = Reader(rendered(answer, rows())).text()
    assert f"{ratio:.2f}× the speed ({low:.2f}–{high:.2f}) of the original on its fastest runtime, at a" in text
    assert f"{ratio:.2f}× faster" not in text


def test_scores_outside_0_to_1_are_not_called_points() -> None:
    answer = copy.deepcopy(result())
    answer["baseline"]["score"] = 27.4
    text = Reader(rendered(answer, [])).text()
    assert "at most 0.00591 (95" in text
    assert "0.60 points" not in text


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "out")
    first = write_report(tmp_path / "out").read_bytes()
    assert write_report(tmp_path / "out").read_bytes() == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "result.json", "trials"]


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"has no result\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "{}", '{"status": "finished"}'])
def test_a_damaged_result_is_refused_and_the_old_report_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(OutputError, match=r"result\.json"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_last_line_cut_short_is_left_out_and_damage_elsewhere_is_named(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "out")
    trials = tmp_path / "out" / "trials" / "trials.jsonl"
    whole = trials.read_text("utf-8")
    trials.write_text(whole + '{"key": "k00', "utf-8")
    assert "All 27 trials" in write_report(tmp_path / "out").read_text("utf-8")
    trials.write_text('{"key": "k00\n' + whole, "utf-8")
    with pytest.raises(OutputError, match=r"trials\.jsonl, line 1"):
        write_report(tmp_path / "out")


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path / "out")
    (tmp_path / "out" / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html can't be written"):
        write_report(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "result.json", "trials"]


def test_labels_for_people_who_do_not_see_the_page() -> None:
    reader = Reader(rendered(result(), rows()))
    assert reader.named("html")[0]["lang"] == "en"
    assert all(dot.get("aria-label") and dot.get("role") == "img" for dot in reader.classed("dot"))
    assert all(chart.get("aria-label") for chart in reader.classed("chart"))
    assert all(head.get("scope") in ("col", "row") for head in reader.named("th"))
    assert all(scroll.get("aria-label") and scroll.get("tabindex") == "0" for scroll in reader.classed("scroll"))
