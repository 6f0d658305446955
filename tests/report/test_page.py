"""report.html as text: what stands in it, and what does not."""

import base64
import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from sweep.comparison import compare
from sweep.core import ComparisonRecord, Rows, StudyRecord
from sweep.report.page import BINS, RATES, comparison_page, study_page
from sweep.report.text import train_command
from tests.report import records

EVIL = "<img src=x onerror=alert(1)>"


def page_of(record: ComparisonRecord) -> str:
    """The page without plotly's own script."""
    rows, importances = records.rows_of_finals(record), records.importances(record)
    return comparison_page(record, compare(record), rows, importances).replace(get_plotlyjs(), "")


def page_of_study(study: StudyRecord, **importances: dict[str, float]) -> str:
    return study_page(study, records.rows_of_best(study), importances).replace(get_plotlyjs(), "")


def text(page: str) -> str:
    """What is read: tags and scripts left out."""
    without = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def charts(page: str) -> list[str]:
    """The names of the charts."""
    return re.findall(r'<div id="([^"]+)" class="plotly-graph-div"', page)


def figure(page: str, chart: str) -> list[dict]:  # type: ignore[type-arg]
    """The traces of a chart."""
    start = page.index(f'"{chart}",') + len(chart) + 3
    traces, _ = json.JSONDecoder().raw_decode(page[start:].lstrip())
    return traces  # type: ignore[no-any-return]


def floats(array: dict[str, str]) -> np.ndarray:
    """The numbers of an array as Plotly writes it."""
    assert array["dtype"] == "f8"
    return np.frombuffer(base64.b64decode(array["bdata"]))


RECORD = records.comparison_record()
COMPARISON = compare(RECORD)[0]
PAGE = page_of(RECORD)


def test_the_same_record_gives_the_same_bytes() -> None:
    assert page_of(RECORD) == PAGE


def test_plotly_is_in_the_page_once() -> None:
    record = records.comparison_record(("digits", "breast_cancer"), seeds=2, trials=3)
    page = comparison_page(record, compare(record), {}, {})
    assert page.count(get_plotlyjs()) == 1


@pytest.mark.parametrize("page", [PAGE, page_of_study(records.study_record())], ids=["comparison", "study"])
def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']|@import|url\(|fetch\(""", page)
    assert "http" not in page
    assert "localStorage" not in page


def test_it_says_what_was_asked() -> None:
    said = text(PAGE)
    for asked in ("trials of each 24", "seeds 10 (1, 2, 3", "updates 300", "val_loss, lower is better", "95 %", "Holm"):
        assert asked in said
    assert "over seeds on one split" in said
    assert "test split was not used for tuning" in said


def test_the_verdict_and_every_number_of_every_family_stand_in_it() -> None:
    said = text(PAGE)
    assert COMPARISON.verdict in said
    for standing in COMPARISON.standings:
        assert standing.val is not None
        assert standing.test is not None
        of = [standing.val, standing.test, *([standing.ranked.difference] if standing.ranked.difference else [])]
        for estimate in of:
            assert f"{estimate.mean:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]" in said
        assert standing.winner is not None
        assert f"lr={float(standing.winner.params['optimizer.lr']):.4g}" in said
        assert re.search(
            rf"{standing.ranked.rank} {standing.schedule} .* {standing.reached}/10 {standing.ranked.diverged}/10 24 ",
            said,
        )
    assert "p (Holm)" in said


def test_the_families_stand_in_the_order_of_their_ranks() -> None:
    table = text(PAGE)[text(PAGE).index("and best parameters") :]
    places = [table.index(f"{standing.ranked.rank} {standing.schedule} ") for standing in COMPARISON.standings]
    assert places == sorted(places)
    assert [trace["y"] for trace in figure(PAGE, "ranking-0")] == [[s.schedule] for s in COMPARISON.standings]


def test_a_family_has_one_colour_in_every_chart() -> None:
    colours: dict[str, set[str]] = {}
    for chart in charts(PAGE):
        if chart.startswith(("lr", "loss", "validation", "best-of-k", "importance")):
            for trace in figure(PAGE, chart):
                if "name" in trace:
                    of = trace["line"] if "line" in trace else trace["marker"]
                    colours.setdefault(trace["name"], set()).add(of["color"])
    assert set(colours) == set(records.SCHEDULES)
    assert all(len(of) == 1 for of in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


def test_more_families_than_colours_differ_in_their_dashes() -> None:
    names = [f"s{i}" for i in range(10)]
    base = records.family("digits", "cosine", seeds=2, trials=3)
    record = replace(RECORD, seeds=range(1, 3), families=[replace(base, schedule=name) for name in names])
    lines = [trace["line"] for trace in figure(page_of(record), "lr-0")]
    assert len({(line["color"], line["dash"]) for line in lines}) == len(names)


def test_every_final_run_has_its_command_status_and_metrics() -> None:
    said, commands = text(PAGE), [html.unescape(code) for code in re.findall("<code>(.*?)</code>", PAGE)]
    for standing in COMPARISON.standings:
        assert standing.winner is not None
        command = train_command(standing.family.study, standing.winner)
        for final in standing.finals:
            assert commands.count(f"{command} train.seed={final.seed}") == 1
            value = f"{final.run.metrics['val_loss']:.4g}" if final.run.metrics else "–"
            assert f"{standing.schedule} {final.seed} {final.run.status} {value}" in said


def test_what_users_name_is_shown_and_not_run() -> None:
    family = records.family("digits", "cosine", seeds=2, trials=4)
    script = "</script><script>alert(2)</script>"
    trials = [replace(t, name=EVIL, params={**t.params, "model.name": script}) for t in family.study.trials]
    study = replace(family.study, name=EVIL, searched=[*family.study.searched, "model"], trials=trials)
    evil = replace(family, schedule=EVIL, dataset=EVIL, study=study)
    rows = {final.run.run_id: [records.rows(final.run)] for final in evil.finals}
    record = replace(RECORD, name=EVIL, seeds=range(1, 3), families=[evil])
    mattered = {(EVIL, EVIL): {"": {EVIL: 1.0}}}
    pages = [
        comparison_page(record, compare(record), rows, mattered),
        study_page(study, records.rows_of_best(study), {"": {EVIL: 1.0}}),
    ]
    for page in pages:
        assert EVIL not in page
        assert script not in page
        assert EVIL in text(page.replace(get_plotlyjs(), ""))
        assert script in text(page.replace(get_plotlyjs(), ""))


def test_plotly_is_given_names_as_text() -> None:
    """It reads tags such as <a> and <b> itself."""
    family = replace(records.family("digits", "cosine", seeds=2, trials=4), schedule="<b>bold")
    record = replace(RECORD, seeds=range(1, 3), families=[family])
    page = comparison_page(record, compare(record), records.rows_of_finals(record), {}).replace(get_plotlyjs(), "")
    assert figure(page, "lr-0")[0]["name"] == "&lt;b&gt;bold"
    assert figure(page, "ranking-0")[0]["y"] == ["&lt;b&gt;bold"]


def test_a_family_without_a_winner_is_said_to_have_none() -> None:
    lost = records.without_winner("digits", "linear")
    record = replace(RECORD, families=[records.family("digits", "cosine"), lost])
    page = page_of(record)
    assert re.search(r"2 linear no trial ended as complete –", text(page))
    assert [trace["name"] for trace in figure(page, "lr-0")] == ["cosine"]


def test_without_any_winner_there_are_numbers_of_none() -> None:
    page = page_of(replace(RECORD, families=[records.without_winner("digits", "linear")]))
    assert "no trial ended as complete" in text(page)
    assert "ranking-0" not in charts(page)


def test_one_seed_has_neither_intervals_nor_bands() -> None:
    record = records.comparison_record(schedules=("cosine", "linear"), seeds=1)
    page = page_of(record)
    val = compare(record)[0].standings[0].val
    assert val is not None
    assert f"{val.mean:.4g}" in text(page)
    assert "[" not in text(page).replace("[95 % interval]", "")
    assert len(figure(page, "loss-0")) == 2


def test_without_importances_and_rows_the_rest_is_drawn() -> None:
    page = comparison_page(RECORD, [COMPARISON], {}, {})
    drawn = charts(page)
    assert "validation-0" in drawn
    assert not [name for name in drawn if name.startswith(("importance", "lr", "loss"))]


def test_landscapes_are_of_the_families_that_search_both_keys() -> None:
    titles = [line for line in re.findall(r"<h3>(.*?)</h3>", PAGE) if "decay_steps" in line]
    assert sorted(titles) == [f"{schedule}: decay_rate and decay_steps" for schedule in sorted(records.TIMED)]


def test_a_landscape_has_a_point_for_each_trial_and_a_line_for_each_half_life() -> None:
    place = [standing.schedule for standing in COMPARISON.standings].index("exponential")
    traces = figure(PAGE, f"landscape-0-{place}")
    points = {trace["name"]: len(trace["text"]) for trace in traces if "name" in trace}
    assert points == {"pruned": 1, "diverged": 1, "complete": 22}
    lines = [trace for trace in traces if "name" not in trace and trace["mode"] == "lines+text"]
    assert len(lines) >= 2
    for line in lines:
        steps, rates = (floats(line[axis]) for axis in "xy")
        (label,) = filter(None, line["text"])
        np.testing.assert_allclose(steps * np.log(0.5) / np.log(rates), float(label.split()[1]))


def test_a_profile_is_drawn_of_several_data_sets_alone() -> None:
    assert "profile" not in charts(PAGE)
    assert "profile" in charts(page_of(records.comparison_record(("digits", "breast_cancer"), seeds=3, trials=4)))


def test_long_curves_are_drawn_in_few_points_of_the_right_height() -> None:
    record = records.comparison_record(schedules=("cosine",), seeds=2, trials=4)
    steps = 25_030
    loss = np.arange(steps) + 1.0
    rows = {f.run.run_id: [Rows(-1, 0, np.full(steps, 0.1), loss)] for f in record.families[0].finals}
    page = comparison_page(record, compare(record), rows, {}).replace(get_plotlyjs(), "")
    line = figure(page, "loss-0")[1]
    x, y = (floats(line[axis]) for axis in "xy")
    assert len(x) <= BINS
    np.testing.assert_allclose(y, x + 1)  # also in the last bin, which holds fewer updates
    assert x[0] == pytest.approx(125)  # the mean of 0..250
    assert f"mean over {-(-steps // BINS)} updates" in text(page)
    rates = figure(page, "lr-0")[0]
    assert len(floats(rates["y"])) <= RATES


def test_a_study_shows_counts_best_trials_and_commands() -> None:
    study = records.study_record()
    page = page_of_study(study, **{"": records.shares(study.searched)})
    said = text(page)
    assert "24 trials: 22 complete, 1 pruned, 1 diverged" in said
    best = study.ranked[0]
    assert f"Best: trial {best.number}, val_loss {best.metrics['val_loss']:.4g}" in said
    for trial in study.ranked[:10]:
        assert train_command(study, trial) in said
    assert all(f"{trial.number} {trial.status}" in said for trial in study.trials)
    assert charts(page) == ["history", "lr", "loss", "importance", "landscape-0"]
    assert len(figure(page, "lr")) == 10


def test_a_study_over_several_schedules_has_a_landscape_of_each_that_has_both_keys() -> None:
    study = records.study_record(schedules=("exponential", "cosine", "natural_exponential"))
    page = page_of_study(study, exponential=records.shares(study.searched[1:]), choice={"schedule": 1.0})
    titles = [line for line in re.findall(r"<h3>(.*?)</h3>", page) if "decay_steps" in line]
    assert titles == ["exponential: decay_rate and decay_steps", "natural_exponential: decay_rate and decay_steps"]
    assert [trace["name"] for trace in figure(page, "importance")] == ["exponential", "choice"]
    assert "schedule" in text(page)


def test_a_study_that_searches_nothing_is_shown() -> None:
    study = replace(records.study_record(trials=2), searched=[])
    page = page_of_study(study)
    assert "searched nothing" in text(page)
    assert charts(page) == ["history", "lr", "loss"]


def test_a_study_without_a_complete_trial_is_shown() -> None:
    page = page_of_study(records.without_winner("digits", "linear").study)
    assert "No trial ended as complete." in text(page)
    assert "3 trials: 3 diverged" in text(page)
    assert charts(page) == []


def test_higher_is_better_where_it_is() -> None:
    study = replace(records.study_record(), metric="val_accuracy", minimize=False)
    page = page_of_study(study)
    assert "val_accuracy, higher is better" in text(page)
    best = figure(page, "history")[0]["y"]
    assert np.all(np.diff(floats(best)) >= 0)
