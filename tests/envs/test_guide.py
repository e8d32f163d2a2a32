"""The code of docs/guides/environments.md runs as it stands, called as TRL and verl call it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "environments.md"
CALLS = r"""
import json, sys
import rewards

right, wrong = "<think>?</think>so \\boxed{0.5}", "\\boxed{2}"
turn = [{"role": "assistant", "content": right}]
made = list(rewards.rows("instruct", 3, difficulty=2))
columns = {key: [row[key] for row in made] for key in made[0]}
replies = [json.loads(row["problem"])["reference"] for row in made]
print(json.dumps({
    "verl": [rewards.compute_score("math", r, r"\frac12", {}) for r in (right, wrong)],
    "trl": rewards.math_reward(
        prompts=["", ""], completions=[turn, wrong], answer=["1/2", "1/2"], trainer_state=None
    ),
    "environment": rewards.environment_reward(completions=[*replies[:2], "ok"], **columns),
    "same": made == list(rewards.rows("instruct", 3, difficulty=2)),
    "torch": "torch" in sys.modules,
}))
"""


def test_the_guides_functions_reward_as_trl_and_verl_call_them(tmp_path):
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "rewards.py").write_text(code[1], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert json.loads(done.stdout) == {
        "verl": [1.0, 0.0],
        "trl": [1.0, 0.0],
        "environment": [1.0, 1.0, 0.0],
        "same": True,
        "torch": False,
    }
