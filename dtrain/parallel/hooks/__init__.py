"""Communication hooks: gradients that travel compressed, as in torch.distributed.algorithms.ddp_comm_hooks.

    from dtrain.parallel.hooks import default_hooks, powerSGD_hook

    model.register_comm_hook(None, default_hooks.fp16_compress_hook)

or with state, which belongs into checkpoints:

    state = powerSGD_hook.PowerSGDState(matrix_approximation_rank=2, start_powerSGD_iter=100)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)

A hook of one's own is a function of a state and a `GradBucket` that returns the sum of the bucket's leaves, or what
is to be taken for it:

    def sign_hook(state, bucket):
        leaves = {j: np.sign(leaf).astype(np.int8) for j, leaf in bucket.leaves.items()}
        return state.step_size * bucket.all_reduce(leaves).astype(np.float32)

It works on microbatches, never on ranks; then its bits do not depend on the number of ranks, as everywhere here.

Read first: `bucket.py`, `default_hooks.py`, then `feedback.py` and a hook that uses it, `reducer.py` last.
"""

from __future__ import annotations

from dtrain.parallel.hooks import default_hooks, powerSGD_hook, quantization_hooks, topk_hook
from dtrain.parallel.hooks.bucket import GradBucket
from dtrain.parallel.hooks.feedback import ErrorFeedback

__all__ = ["ErrorFeedback", "GradBucket", "default_hooks", "powerSGD_hook", "quantization_hooks", "topk_hook"]
