"""Other names of what PyTorch's samples prove, what they do not cover, and the places that indexing is made of."""

import numpy as np
import pytest

import dtrain
from dtrain.ops import counting, decompositions, diagonals, indexing, positions, rearranging, scan, sorting, statistics

ALIASES = {
    "absolute": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan",
    "arctan2": "atan2", "arctanh": "atanh", "clip": "clamp", "fix": "trunc", "ger": "outer", "greater": "gt",
    "greater_equal": "ge", "inverse": "linalg.inv", "less": "lt", "less_equal": "le", "moveaxis": "movedim",
    "multiply": "mul", "not_equal": "ne", "row_stack": "vstack", "special.expit": "sigmoid",
    "special.gammaln": "lgamma", "special.multigammaln": "mvlgamma", "special.psi": "digamma",
}  # fmt: skip


TOP = """
    alpha_dropout bilinear cdist celu conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    cosine_similarity dropout feature_alpha_dropout group_norm hardshrink layer_norm log_softmax pairwise_distance pdist
    prelu rms_norm rrelu selu threshold
"""


def named(module, name):
    for part in name.split("."):
        module = getattr(module, part)
    return module


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_alias_is_the_same_function(alias, name):
    assert named(dtrain, alias) is named(dtrain, name)


A = np.random.default_rng(0).standard_normal((4, 3, 3))
V, M = A[0, 0], A[0]
POSITIVE = M @ M.T + np.eye(3)

CALLS = {
    "corrcoef": (M,),
    "cov": (M,),
    "linalg.cross": (A[0], A[1]),
    "linalg.diagonal": (A,),
    "linalg.eigvalsh": (POSITIVE,),
    "linalg.norm": (M, "fro"),
    "linalg.pinv": (A,),
    "linalg.vander": (V,),
    "nanquantile": (M, 0.3, 1),
    "nextafter": (V, M[1]),
    "quantile": (M, 0.7, 0),
    "sgn": (M,),
    "special.erfc": (A,),
    "special.erfcx": (A,),
    "special.log_ndtr": (A,),
    "special.ndtr": (A,),
    "special.ndtri": (np.linspace(0.01, 0.99, 9),),
    "std_mean": (M, 1),
    "swapdims": (A, 0, 2),
    "tensordot": (A, A, ([1, 2], [1, 2])),
    "unique_consecutive": (np.array([1.0, 1, 2, 2, 1]),),
    "var_mean": (M, 1),
    "vsplit": (A, 2),
}


@pytest.mark.parametrize(("name", "args"), CALLS.items())
def test_values_are_pytorchs(name, args):
    torch = pytest.importorskip("torch")
    got, want = (
        named(module, name)(*[make(a) if isinstance(a, np.ndarray) else a for a in args])
        for module, make in ((dtrain, dtrain.from_numpy), (torch, torch.from_numpy))
    )
    as_lists = [list(r) if isinstance(r, (tuple, list)) else [r] for r in (got, want)]
    for g, w in zip(*as_lists, strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-9, atol=1e-12)


def test_results_have_pytorchs_fields():
    x = dtrain.from_numpy(POSITIVE)
    values, vectors = dtrain.linalg.eigh(x)
    np.testing.assert_allclose((x @ vectors).numpy(), (vectors * values).numpy(), atol=1e-12)
    u, s, vh = dtrain.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(((u * s) @ vh).numpy(), POSITIVE, atol=1e-12)
    assert isinstance(dtrain.linalg.eigh(x), decompositions.Eigen) and isinstance(
        dtrain.linalg.svd(x), decompositions.SVD
    )
    assert isinstance(dtrain.linalg.slogdet(x), decompositions.SlogDet)
    assert isinstance(dtrain.aminmax(x), statistics.AMinMax) and isinstance(dtrain.sort(x), sorting.Ordered)
    assert isinstance(dtrain.cummax(x, 0), scan.Running)
    counts, edges = dtrain.histogram(dtrain.from_numpy(V.copy()), 4)
    assert isinstance(dtrain.histogram(x.reshape(-1), 4), counting.Histogram)
    assert counts.sum() == 3 and len(edges) == 5
    assert isinstance(dtrain.histogramdd(x, 2), counting.HistogramDD)
    assert dtrain.searchsorted(edges, edges).tolist() == [0, 1, 2, 3, 4]
    assert counting.one_hot(dtrain.tensor([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_adjoint_needs_matrices():
    x = dtrain.from_numpy(A.copy())
    assert (dtrain.adjoint(x).numpy() == A.swapaxes(-1, -2)).all()
    with pytest.raises(ValueError, match=r"adjoint.*\(3,\)"):
        dtrain.adjoint(dtrain.zeros(3))
    with pytest.raises(ValueError, match=r"H needs a matrix.*\(2, 3, 4\)"):
        _ = dtrain.zeros(2, 3, 4).H


def test_products_and_grids_are_numpys():
    a, b, c = map(dtrain.from_numpy, A[:3])
    for f in (dtrain.chain_matmul(a, b, c), dtrain.linalg.multi_dot([a, b, c])):
        np.testing.assert_allclose(f.numpy(), A[0] @ A[1] @ A[2], rtol=1e-12)
    for order in ("ij", "xy"):
        got = dtrain.meshgrid(a[0], b[0, :2], indexing=order)
        for g, want in zip(got, np.meshgrid(A[0, 0], A[1, 0, :2], indexing=order), strict=True):
            assert (g.numpy() == want).all()
    assert indexing_of_a_number_comes_first(a)


def indexing_of_a_number_comes_first(x):
    """x[i, :, [j]] of PyTorch is x[i][:, [j]]; NumPy moves the new dimension to the front."""
    selected, rest = indexing.raw_key(2, (1, [0, 2]))
    return (x.numpy()[selected][rest] == x.numpy()[1][[0, 2]]).all()


def test_places_are_numpys():
    where = positions.along(np.array([[2, 0]]), 0, (3, 2))
    assert (A[0, :, :2].reshape(-1)[where] == [[A[0, 2, 0], A[0, 0, 1]]]).all()
    x = dtrain.from_numpy(A)
    assert (positions.take_flat(x, np.array([5, 1])).numpy() == A.reshape(-1)[[5, 1]]).all()
    np.testing.assert_allclose(diagonals.powers(x, 3).numpy(), np.stack([A**0, A, A * A], -1), rtol=1e-12)
    assert (positions.of_rows(np.array([1]), 1, (2, 3)) == [[1], [4]]).all()
    assert (positions.slice_of(x, (slice(None), 1)).numpy() == A[:, 1]).all()
    assert (positions.unslice(x[:, 1], (slice(None), 1), A.shape).numpy()[:, 0] == 0).all()
    twice = positions.spread_rows(x, np.array([0, 0, 1, 1]), 0, 2)
    assert (twice.numpy() == np.stack([A[0] + A[1], A[2] + A[3]])).all()
    assert (rearranging.flip(x, 0).numpy() == scan.flip_axis(x, 0).numpy()).all()
    with pytest.raises(IndexError, match="index 7 is out of range for a size of 4"):
        positions.checked_index("gather", np.array([7]), 4)


def test_functions_of_layers_are_at_the_top_too():
    for name in TOP.split():
        assert getattr(dtrain, name) is getattr(dtrain.nn.functional, name)
