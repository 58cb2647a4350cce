"""log.jsonl is read as far as it is a log, whatever else is in it."""

import json

import pytest

from dimo_cli.run_folder.log import RunLog, records_of


@pytest.mark.parametrize(
    "foreign", ['{"step": Infinity}', '{"step": NaN}', '{"step": "3"}', "[3]", '{"step": 1', "3"]
)
def test_a_line_without_a_step_is_passed_over(tmp_path, foreign):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{foreign}\n{{"step": {10**400}}}\n')
    assert [record["step"] for record in records_of(path)] == [1, 10**400]
    RunLog(path).truncate(5)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}]
