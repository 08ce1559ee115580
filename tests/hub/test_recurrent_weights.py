"""Published recurrent models, of other people's weights, give the outputs that these were published with."""

from __future__ import annotations

from typing import Any

import numpy as np

import dtrain
from dtrain import nn
from dtrain.nn import functional as F

from .packages import G2P, RESEMBLYZER, package_file


class VoiceEncoder(nn.Module):
    """resemblyzer's: spectrograms (N, T, 40) -> (N, 256), of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, x: Any) -> Any:
        _, (hidden, _) = self.lstm(x)
        y = F.relu(self.linear(hidden[-1]))
        return y / (y * y).sum(1, keepdim=True).sqrt()


def test_the_lstm_of_resemblyzer_is_pytorchs(torch: Any) -> None:
    state = dtrain.load(package_file(*RESEMBLYZER))["model_state"]
    ours = VoiceEncoder()
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not missing and set(unexpected) == {"similarity_weight", "similarity_bias"}
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for module, name in ((lstm, "lstm."), (linear, "linear.")):
        module.load_state_dict(
            {k.removeprefix(name): torch.from_numpy(v.numpy().copy()) for k, v in state.items() if k.startswith(name)}
        )
    x = np.abs(np.random.default_rng(0).standard_normal((2, 160, 40))).astype(np.float32)
    with torch.no_grad():
        raw = torch.relu(linear(lstm(torch.from_numpy(x))[1][0][-1]))
        want = (raw / raw.norm(dim=1, keepdim=True)).numpy()
    with dtrain.no_grad():
        got = ours(dtrain.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert (want > 0).sum() > 10


PHONEMES = [
    "<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1",
    "AO2", "AW0", "AW1", "AW2", "AY0", "AY1", "AY2", "B", "CH", "D", "DH", "EH0", "EH1", "EH2", "ER0", "ER1", "ER2",
    "EY0", "EY1", "EY2", "F", "G", "HH", "IH0", "IH1", "IH2", "IY0", "IY1", "IY2", "JH", "K", "L", "M", "N", "NG",
    "OW0", "OW1", "OW2", "OY0", "OY1", "OY2", "P", "R", "S", "SH", "T", "TH", "UH0", "UH1", "UH2", "UW", "UW0", "UW1",
    "UW2", "V", "W", "Y", "Z", "ZH",
]  # fmt: skip


class Pronunciation(nn.Module):
    """g2p-en's: letters are read by one GRU, a second one speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_emb, self.enc = nn.Embedding(29, 256), nn.GRU(256, 256)
        self.dec_emb, self.dec = nn.Embedding(74, 256), nn.GRUCell(256, 256)
        self.fc = nn.Linear(256, 74)

    def forward(self, word: str) -> tuple[list[str], np.ndarray]:
        """The phonemes, and all logits."""
        letters = dtrain.tensor([3 + ord(c) - ord("a") for c in word] + [2])
        h = self.enc(self.enc_emb(letters))[1]
        said, logits = [2], []
        while said[-1] != 3:
            h = self.dec(self.dec_emb(dtrain.tensor(said[-1:])), h)
            logits.append(self.fc(h)[0].numpy())
            said.append(int(logits[-1].argmax()))
        return [PHONEMES[i] for i in said[1:-1]], np.stack(logits)


def numpy_logits(weights: Any, word: str, steps: int) -> np.ndarray:
    """The same in plain NumPy, as the package writes it."""

    def cell(x: Any, h: Any, part: str) -> Any:
        a = x @ weights[f"{part}_w_ih"].T + weights[f"{part}_b_ih"]
        b = h @ weights[f"{part}_w_hh"].T + weights[f"{part}_b_hh"]
        r, z = (1 / (1 + np.exp(-(a[i : i + 256] + b[i : i + 256]))) for i in (0, 256))
        n = np.tanh(a[512:] + r * b[512:])
        return (1 - z) * n + z * h

    h = np.zeros(256, np.float32)
    for letter in [3 + ord(c) - ord("a") for c in word] + [2]:
        h = cell(weights["enc_emb"][letter], h, "enc")
    said, logits = 2, []
    for _ in range(steps):
        h = cell(weights["dec_emb"][said], h, "dec")
        logits.append(weights["fc_w"] @ h + weights["fc_b"])
        said = logits[-1].argmax()
    return np.stack(logits)


def test_the_grus_of_g2p_speak() -> None:
    with np.load(package_file(*G2P)) as file:
        weights = dict(file)
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    state = {f"{part}_emb.weight": weights[f"{part}_emb"] for part in ("enc", "dec")}
    state |= {f"enc.{name}_l0": weights[f"enc_{old}"] for old, name in names.items()}
    state |= {f"dec.{name}": weights[f"dec_{old}"] for old, name in names.items()}
    state |= {"fc.weight": weights["fc_w"], "fc.bias": weights["fc_b"]}
    model = Pronunciation()
    model.load_state_dict(state)
    with dtrain.no_grad():
        for word in ("activationist", "training", "gradient"):
            said, logits = model(word)
            np.testing.assert_allclose(logits, numpy_logits(weights, word, len(logits)), atol=1e-4)
            if word == "activationist":  # the package's example of a new word
                assert " ".join(said) == "AE2 K T IH0 V EY1 SH AH0 N IH0 S T"
