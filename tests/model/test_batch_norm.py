"""BatchNorm's counts of batches, all together."""

from __future__ import annotations

import timm
import torch

from fasttrain.model.batch_norm import batches_counted_together, counting_norms


def trained(together: bool) -> torch.nn.Module:
    """Return a model after two forward passes, the first layer in eval mode; a cumulative average has its own count."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    model.bn2.momentum = None  # its statistics are the mean over all batches so far
    inputs = torch.randn(2, 2, 3, 64, 64)
    model.bn1.eval()
    for batch in inputs:
        with batches_counted_together(counting_norms(model) if together else []):
            model(batch)
    return model


def test_counts_and_statistics_are_those_of_each_layer_alone():
    together, alone = trained(True).state_dict(), trained(False).state_dict()
    assert all(torch.equal(each, alone[name]) for name, each in together.items())
    assert int(together["bn1.num_batches_tracked"]) == 0 and int(together["bn2.num_batches_tracked"]) == 2


def test_a_failed_pass_leaves_the_counts_where_they_were():
    model = timm.create_model("mobilenetv2_035", num_classes=3)
    try:
        with batches_counted_together(counting_norms(model)):
            model(torch.zeros(1, 3))
    except (RuntimeError, ValueError):
        pass
    assert {int(each) for name, each in model.state_dict().items() if name.endswith("num_batches_tracked")} == {0}
    assert len(counting_norms(model)) == 52
