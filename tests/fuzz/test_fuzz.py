import pytest

from . import campaign
from .readers import READERS


@pytest.mark.parametrize("reader", READERS)
def test_good_files_are_read(reader, tmp_path):
    for number, (suffix, content) in enumerate(READERS[reader].seeds()):
        (path := tmp_path / f"{number}{suffix}").write_bytes(content)
        READERS[reader].read(path)


@pytest.mark.parametrize("reader", READERS)
def test_some_cases(reader):
    cases = READERS[reader].sample
    outcomes = list(campaign.run(reader, 0, cases))
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert cases / 6 < sum(outcome.refused for outcome in outcomes) < cases


@pytest.mark.parametrize("how, said", [("import os; os.abort()", "SIGABRT"), ("raise SystemExit(3)", "ended with 3")])
def test_a_crash_is_an_outcome_and_the_next_case_follows(monkeypatch, how, said):
    popen = campaign.subprocess.Popen
    commands = []

    def first_crashes(command, **options):
        commands.append(command)
        return popen([command[0], "-c", how] if len(commands) == 1 else command, **options)

    monkeypatch.setattr(campaign.subprocess, "Popen", first_crashes)
    crashed, *others = campaign.run("idx", 7, 3)
    assert crashed.number == 7 and said in crashed.fault
    assert [outcome.number for outcome in others] == [8, 9] and not any(outcome.fault for outcome in others)
