"""The example in docs/defenses.md runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fedsim.defenses import DEFENSES
from fedsim.engines.inline import InlineGrid
from fedsim.options import option_names

PAGE = (Path(__file__).parents[2] / "docs" / "defenses.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_is_a_flower_app_that_learns_with_its_updates_clipped(capsys):
    (code,) = [block for block in EXAMPLES if "ClientApp" in block]
    names = {}
    exec(code, names)
    replies = []

    def watched(message, context):
        sent = {n: a.numpy() for n, a in message.content["arrays"].items()}
        reply = names["app"](message, context)
        replies.append((sent, reply))
        return reply

    grid = InlineGrid(watched, 3)
    names["server"](grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}))
    assert "train-loss" in capsys.readouterr().out
    assert len(replies) == 9
    for sent, reply in replies:
        assert reply.content["fedsim"]["defenses"] == ["clipping(norm=0.5)", "noising(std=0.001)"]
        learnt = [n for n in sent if not re.search("running|tracked", n)]
        update = [(reply.content["arrays"][n].numpy() - sent[n]).ravel() for n in learnt]
        assert np.linalg.norm(np.concatenate(update)) < 0.52
    assert replies[0][1].content["arrays"]["1.num_batches_tracked"].numpy() == 1


@pytest.mark.parametrize("entry", list(DEFENSES), ids=lambda entry: entry.name)
def test_every_defence_and_option_is_documented(entry):
    row = next(line for line in PAGE.splitlines() if re.match(rf"\| \[?`{entry.name}`", line))
    assert all(f"`{option}`" in row for option in option_names(DEFENSES.resolve(entry.name)))


def test_the_promise_is_printed_as_the_document_says(capsys):
    (code,) = [block for block in EXAMPLES if "account(" in block]
    exec(code, {})
    told = code.rpartition("# ")[2].strip().split(", ")
    assert capsys.readouterr().out.splitlines() == told
