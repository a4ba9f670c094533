"""What looks at the certification rows cost, over all runs of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import paring
from paring.data.split import split_rows
from paring.errors import OutputError
from paring.flow.folder import RunFolder
from paring.flow.ledger import EARLY_SHARE, FINAL_SHARE, LAST_SHARE, Finalist, Ledger
from paring.flow.result import Result
from paring.types import Budget
from tests import sleepy


def look(key: str, share: float) -> Finalist:
    return Finalist(key, share, None, "it failed", certified=False)


def spent(*shares: float) -> Ledger:
    """A new run at rows "r", at which looks of discarded ones have cost so much."""
    return Ledger("r", (), {"r": shares})


def test_looks_of_discarded_runs_stay_paid_for_at_their_rows_and_no_others() -> None:
    ledger = Ledger("r").with_look(look("a", EARLY_SHARE)).with_look(look("b", FINAL_SHARE)).without_looks()
    assert ledger.looks == ()
    assert ledger.before == (
        EARLY_SHARE,
        FINAL_SHARE,
    )
    assert ledger.next_share == LAST_SHARE
    again = ledger.with_look(look("a", LAST_SHARE)).without_looks()
    assert again.before == (
        EARLY_SHARE,
        FINAL_SHARE,
        LAST_SHARE,
    )
    assert again.next_share == 0
    assert again.at("others").next_share == FINAL_SHARE
    assert again.at("others").without_looks().at("r") == again
    assert again.without_looks() == again


def test_looks_at_other_rows_are_none_of_the_run() -> None:
    ledger = Ledger("r").with_look(look("a", FINAL_SHARE))
    assert ledger.at("r") == ledger
    assert ledger.at("others").looks == ()
    assert ledger.at("others").at("r").next_share == LAST_SHARE


@pytest.mark.parametrize(
    ("ledger", "early", "final"),
    [
        (Ledger("r"), EARLY_SHARE, FINAL_SHARE),
        (spent(EARLY_SHARE), EARLY_SHARE, FINAL_SHARE),
        (spent(EARLY_SHARE, LAST_SHARE), 0, FINAL_SHARE),
        (spent(FINAL_SHARE), EARLY_SHARE, LAST_SHARE),
        (spent(EARLY_SHARE, FINAL_SHARE), 0, LAST_SHARE),
        (spent(FINAL_SHARE, LAST_SHARE), 0, 0),
    ],
)
def test_an_early_look_takes_nothing_from_the_final_one(ledger: Ledger, early: float, final: float) -> None:
    assert (ledger.early_share, ledger.first_share) == (early, final)
    assert ledger.with_look(look("a", early)).next_share == final


def test_a_look_once_more_takes_the_place_of_the_earlier_one() -> None:
    ledger = Ledger("r").with_look(look("a", EARLY_SHARE)).with_look(look("b", LAST_SHARE))
    more = ledger.with_look(look("a", FINAL_SHARE))
    assert [finalist.key for finalist in more.looks] == ["b", "a"]
    assert more.of("a") == look("a", FINAL_SHARE)
    assert more.next_share == 0


def test_a_fresh_start_keeps_what_looks_cost(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    Ledger("r").with_look(look("a", FINAL_SHARE)).write(folder.ledger_file)
    assert folder.ledger_at("r", fresh=False).of("a") == look("a", FINAL_SHARE)
    assert folder.ledger_at("r", fresh=True) == spent(FINAL_SHARE).without_looks()
    for _ in range(2):
        folder.begin({"seed": 1}, fresh=True)
        assert folder.ledger_at("r", fresh=False) == folder.ledger_at("r", fresh=True)
        assert folder.ledger_at("r", fresh=False).before == (FINAL_SHARE,)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"looks": [], "rows": "r", "discarded": 3}'])
def test_a_damaged_ledger_is_no_new_luck(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.trials.mkdir()
    folder.ledger_file.write_text(text)
    for begun in (lambda: folder.ledger_at("r", fresh=True), folder.clear):
        with pytest.raises(OutputError, match=r"finalists\.json does not tell which looks .*: choose another --out"):
            begun()


TASK = sleepy.task(400)


def fresh(out: Path) -> Result:
    return paring.optimize(
        TASK,
        Budget(max_drop=0.05),
        out=out,
        time_limit_s=300,
        techniques=[sleepy.Cheapen(2.0)],
        backends=[sleepy.Sleepy()],
        threads=1,
        resume=False,
        progress=False,
    )


@pytest.mark.usefixtures("short_comparisons")
def test_starting_afresh_on_the_same_rows_brings_no_look_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        digest = split_rows(TASK, folder.trials / "data", ("input",), seed=7).digest
        Ledger(digest).with_look(look("a", FINAL_SHARE)).write(folder.ledger_file)
    result = fresh(tmp_path)
    assert result.status == "improved"
    assert result.values["discarded_looks"] == {"count": 1, "share": FINAL_SHARE}
    assert result.values["certificate"]["finalists"] == 4
    assert "Before this run: 1 look" in result.report.read_text()
    assert [finalist.share for finalist in folder.ledger_at(digest, fresh=False).looks] == [LAST_SHARE]
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    with pytest.raises(OutputError) as error:
        fresh(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} has no look at these rows of evaluate left: 2 looks were taken by runs that were discarded, at "
        "90% of what the confidence lets go wrong. Give evaluate new rows, or choose another --out, whose certificates "
        "hold without those that were given here."
    )
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.json")} == before
    assert json.loads((tmp_path / "result.json").read_text()) == result.values
