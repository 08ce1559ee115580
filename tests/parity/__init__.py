"""PyTorch's own sample inputs, driven through dtrain in float64: outputs, gradients, errors, by name.

`python -m tests.parity.show gather` shows what is wrong with a name (or with all that begin so; `nn.`
begins modules). `python -m tests.parity.update` adds the names that pass to the baseline, which
`test_modules.py` and `test_ops.py` hold. Read `modules.py` and `ops.py` first; what is left out, and
why, is in `scope.py`.
"""
