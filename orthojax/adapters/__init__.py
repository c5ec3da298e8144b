"""Adapters: few numbers theta that change a frozen model, W = forward(W0, theta) for each kernel.

`init` chooses by rules over parameter paths what is adapted, what is trained as it is and what is
frozen; `merge` makes the params of the adapted model, which the model takes like any others.
Training differentiates through `merge`; deployment calls it once, and the result is exact.

Why not `reparameterize`, which has no merging at all: its matrices are turned tall, but a rotation
that keeps the angles between neurons acts on inputs, be they fewer than outputs or not; and with
theta as the argument of the loss, gradients, optimizer state and checkpoints are of theta alone,
and one frozen model serves many theta.
"""

from orthojax.adapters.families import Adapter, boft, hra, lora, lora_xs, oft
from orthojax.adapters.models import Frozen, Theta, init, merge

ADAPTERS = {"oft": oft, "boft": boft, "hra": hra, "lora": lora, "lora_xs": lora_xs}
