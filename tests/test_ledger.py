"""What looks at the certification rows cost, and what is told of those of discarded runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import paring
from paring.errors import OutputError
from paring.flow.folder import RunFolder
from paring.flow.ledger import EARLY_SHARE, FINAL_SHARE, LAST_SHARE, Finalist, Ledger
from paring.types import Budget
from tests import sleepy


def look(key: str, share: float) -> Finalist:
    return Finalist(key, share, None, "it failed", certified=False)


def after(count: int) -> Ledger:
    """A new run at rows "r", at which discarded ones have taken so many looks."""
    return Ledger("r", (), {"r": count})


def test_looks_of_discarded_runs_are_counted_at_their_rows_and_no_others() -> None:
    ledger = Ledger("r").with_look(look("a", EARLY_SHARE)).with_look(look("b", FINAL_SHARE)).without_looks()
    assert (ledger.looks, ledger.before, ledger.next_share) == ((), 2, FINAL_SHARE)
    again = ledger.with_look(look("a", LAST_SHARE)).without_looks()
    assert again.before == 3
    assert again.at("others").before == 0
    assert again.at("others").without_looks().at("r") == again
    assert again.without_looks() == again


def test_looks_at_other_rows_are_none_of_the_run() -> None:
    ledger = Ledger("r").with_look(look("a", FINAL_SHARE))
    assert ledger.at("r") == ledger
    assert ledger.at("others").looks == ()
    assert ledger.next_share == LAST_SHARE
    assert ledger.at("others").next_share == FINAL_SHARE


def test_a_look_once_more_costs_what_it_adds_and_leaves_the_earlier_one_in_its_place() -> None:
    ledger = Ledger("r").with_look(look("a", EARLY_SHARE)).with_look(look("b", LAST_SHARE))
    more = ledger.with_look(look("a", FINAL_SHARE))
    assert [(finalist.key, finalist.share) for finalist in more.looks] == [
        ("a", EARLY_SHARE),
        ("b", LAST_SHARE),
        ("a", FINAL_SHARE),
    ]
    assert [finalist.key for finalist in more.last] == ["b", "a"]
    assert more.left == pytest.approx(1 - LAST_SHARE - FINAL_SHARE)
    assert more.of("a") == look("a", FINAL_SHARE)
    assert more.next_share == 0


def test_a_fresh_start_keeps_the_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    Ledger("r").with_look(look("a", FINAL_SHARE)).write(folder.ledger_file)
    assert folder.ledger_at("r", fresh=False).of("a") == look("a", FINAL_SHARE)
    assert folder.ledger_at("r", fresh=True) == after(1)
    for _ in range(2):
        folder.begin({"seed": 1}, fresh=True)
        assert folder.ledger_at("r", fresh=False) == folder.ledger_at("r", fresh=True) == after(1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"looks": [], "rows": "r", "discarded": {"r": "many"}}'])
def test_a_damaged_ledger_is_told(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.trials.mkdir()
    folder.ledger_file.write_text(text)
    for begun in (lambda: folder.ledger_at("r", fresh=True), folder.clear):
        with pytest.raises(OutputError, match=r"finalists\.json does not tell which looks .*: choose another --out"):
            begun()


@pytest.mark.usefixtures("short_comparisons")
def test_a_fresh_run_tells_what_discarded_ones_have_seen(tmp_path: Path) -> None:
    for looks in (0, 2):  # An early one, and the last one at the same candidate.
        result = paring.optimize(
            sleepy.task(400),
            Budget(max_drop=0.05),
            out=tmp_path,
            time_limit_s=300,
            techniques=[sleepy.Cheapen(2.0)],
            backends=[sleepy.Sleepy()],
            threads=1,
            resume=False,
            progress=False,
        )
        assert result.status == "improved"
        assert result.values["discarded_looks"] == looks
        assert [look["share"] for look in result.values["finalists"]] == [EARLY_SHARE, FINAL_SHARE]
        assert all(f"at {share:.0%} of the error" in result.report.read_text() for share in (EARLY_SHARE, FINAL_SHARE))
        assert ("Before this run: 2 looks by runs that were discarded." in result.report.read_text()) == bool(looks)
