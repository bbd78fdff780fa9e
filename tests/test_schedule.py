"""The course of a training: the paper's stages and rates, warm-up and cosine, and which layers learn when."""

from __future__ import annotations

import numpy as np
import pytest

from evican_model.config import PAPER_TRAINING, NetworkConfig, TrainConfig
from evican_model.errors import EvicanError
from evican_model.schedule import Stage, learning_rate, learns, stage_at, stages

PAPER = TrainConfig.from_dict({**TrainConfig().to_dict(), **PAPER_TRAINING})


def test_the_papers_schedule_is_that_of_the_paper():
    """Section 2.3: 40 epochs of the heads, 8 from stage 4 up, 4 of all layers; rates halved midway."""
    assert [(s.first, s.last, s.layers) for s in stages(PAPER)] == [
        (0, 40000, "heads"),
        (40000, 48000, "4+"),
        (48000, 52000, "all"),
    ]
    rates = [learning_rate(epoch * 1000, PAPER) for epoch in range(52)]
    expected = [1e-3] * 20 + [5e-4] * 20 + [1e-3] * 4 + [5e-4] * 4 + [1e-4] * 2 + [5e-5] * 2
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    assert [stage_at(step, PAPER) for step in (0, 39999, 40000, 48000, 51999, 60000)] == [0, 0, 1, 2, 2, 2]
    assert (PAPER.optimizer, PAPER.momentum, PAPER.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (PAPER.batch, PAPER.unlabelled, PAPER.known_border, PAPER.blur_sigma) == (1, "blur", 10, 30.0)


def test_the_quick_schedule_warms_up_and_cools_down():
    training = TrainConfig(steps=1000, warmup_steps=100, learning_rate=1e-3)
    rates = [learning_rate(step, training) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) == rates[99] == pytest.approx(1e-3)
    assert (np.diff(rates[:100]) > 0).all() and (np.diff(rates[100:]) < 0).all()
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)


@pytest.mark.parametrize(
    "preset, layers",
    [
        ("fast", {"stem_conv": 1, "b0_dw": 1, "b2_bn0": 2, "b4_expand": 3, "b5_dw": 4, "b10_bn1": 4, "b15_dw": 5}),
        ("paper", {"conv1": 1, "bn_conv1": 1, "res2a_branch2a": 2, "bn3d_branch2b": 3, "res4w_branch2c": 4,
                   "bn5c_branch2a": 5}),
    ],
)  # fmt: skip
def test_layers_learn_when_their_stage_does(preset, layers):
    backbone = NetworkConfig.for_preset(preset).backbone
    for layer, depth in layers.items():
        learning = [learns(layer, Stage(0, 1, part), PAPER, backbone) for part in ("heads", "4+", "all")]
        assert learning == [False, depth >= 4, True], layer
    for layer in ("fpn_p2", "rpn_conv", "box_fc1", "class_logits", "mask_conv1"):
        assert all(learns(layer, Stage(0, 1, part), PAPER, backbone) for part in ("heads", "4+", "all"))
    assert not learns("b0_dw", Stage(0, 1, "all"), TrainConfig(), "efficientnet_lite0")


def test_stages_are_entered_and_resumed(tmp_path):
    """Two steps a stage: only its layers move, and a resumed run is in the right stage."""
    from pathlib import Path

    from evican_model.dataset import read_dataset
    from evican_model.run_folder import start_tensors
    from evican_model.samples import SampleSource
    from evican_model.trainer import Trainer

    data = Path(__file__).parent / "data"
    network = NetworkConfig()
    items = read_dataset(data / "evican_sample.json", data, network.categories)
    values = {"schedule": "paper", "optimizer": "sgd", "average_decay": 0.0, "epoch": 1, "batch": 1, "crop": 64,
              "instances": 4, "rois": 8, "positive_rois": 2, "save_every": 1000, "frozen": ()}  # fmt: skip
    training = TrainConfig(**values)
    trainer = Trainer(network, training, SampleSource([items], [1.0], network, training), tmp_path, {},
                      start_tensors("bundled", network))  # fmt: skip
    batches = list(trainer.source.batches(0, 3))
    moved = {}
    for stage, step in ((0, 0), (1, 40), (2, 48)):
        trainer.step.assign(step)
        trainer._enter_stage(stage)
        before = {name: v.numpy() for name, v in trainer.variables.items()}
        trainer.train_step(batches[stage])
        moved[stage] = {name for name, v in trainer.variables.items() if (v.numpy() != before[name]).any()}
        assert trainer.groups[-1][2].learning_rate.numpy() == pytest.approx(learning_rate(step, training))
    assert not any(name.startswith(("b", "stem")) and not name.startswith("box") for name in moved[0])
    assert any(name.startswith("b15_") for name in moved[1]) and not any(
        n.startswith("b4_") for n in moved[1]
    )
    assert any(name.startswith("stem_") for name in moved[2])
    assert not any("moving_" in name for stage in moved.values() for name in stage)
    trainer.save()
    again = Trainer(network, training, trainer.source, tmp_path, {})
    assert again.resume() == 49 and again.stage == 2
    np.testing.assert_array_equal(
        again.variables["fpn_p2/bias"].numpy(), trainer.variables["fpn_p2/bias"].numpy()
    )


@pytest.mark.parametrize(
    "values, message",
    [
        ({"schedule": "slow"}, "schedule is 'slow'; expected one of quick, paper"),
        ({"optimizer": "adam"}, "optimizer is 'adam'"),
        ({"crop": 130}, "crop is 130; it must be a multiple of 64"),
        ({"steps": 0}, "steps is 0"),
        ({"positive_rois": 200}, "positive_rois is 200"),
        ({"box_beta": 0.0}, "box_beta is 0.0"),
        ({"mask_dice": -1.0}, "mask_dice is -1.0"),
        ({"scale_low": 2.0, "scale_high": 1.0}, "scale_high is 1.0, below"),
    ],
)
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(EvicanError, match=message):
        TrainConfig(**values)
