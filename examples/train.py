"""Train a small CNN on Fashion-MNIST: the same weights, bit for bit, on any number of ranks.

python examples/train.py                     # one process
mpirun -n 4 python examples/train.py         # four ranks
python -m launch -n 4 examples/train.py      # the same, with the flags that this machine's MPI needs
"""

import argparse
import hashlib
import json
import time

import numpy as np
from safetensors.numpy import save_file

import dtrain
import launch
from dtrain import data, metrics, nn, optim
from dtrain.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(64)
        self.dropout = nn.Dropout(0.25)
        self.linear1 = nn.Linear(64 * 7 * 7, 128)
        self.linear2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = self.dropout(x.flatten(1))
        return self.linear2(F.relu(self.linear1(x)))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the IDX files (default: wherever they are found)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128, help="samples of a step, over all ranks")
    parser.add_argument(
        "--microbatches", type=int, default=4, help="parts of a step's batch; at least the number of ranks"
    )
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="stop after this many steps")
    parser.add_argument(
        "--checkpoint-dir", metavar="DIR", help="keep checkpoints here; a signal stops the job with one"
    )
    parser.add_argument("--every", type=int, default=100, help="steps from one checkpoint to the next")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    parser.add_argument("--save", metavar="FILE.safetensors", help="write the trained weights")
    parser.add_argument("--threads", type=int, help="threads per rank (default: the host's cores // microbatches)")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda": a GPU for each rank')
    return parser.parse_args()


@dtrain.no_grad()
def accuracy(model, loader, comm):
    """The share of correct predictions over all samples of all ranks."""
    model.eval()
    metric = metrics.Accuracy(comm=comm)
    for x, y in loader:
        metric.update(model(x), y)
    model.train()
    return metric.compute().item()


def fingerprint(state_dict):
    """sha256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in state_dict.items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def main():
    args = arguments()
    job = launch.Job(seed=args.seed, microbatches=args.microbatches, threads=args.threads, device=args.device)
    if args.resume and args.checkpoint_dir is None:
        raise ValueError("--resume needs the --checkpoint-dir to resume from")
    if args.epochs < 1 or (args.steps is not None and args.steps < 1):
        raise ValueError(f"--epochs and --steps must be at least 1, got {args.epochs} and {args.steps}")
    train = data.FashionMNIST(args.data, train=True)
    test = data.FashionMNIST(args.data, train=False)
    parts = {"comm": job.comm, "microbatches": args.microbatches}
    loader = data.DataLoader(train, args.batch_size, shuffle=True, device=job.device, **parts)
    test_loader = data.DataLoader(test, 1000, device=job.device, **parts)

    model = dtrain.DistributedDataParallel(Net().to(job.device), **parts)
    optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    total = min(args.epochs * loader.steps, args.steps or args.epochs * loader.steps)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, total)

    checkpoint = dtrain.checkpoint.Checkpointer(
        args.checkpoint_dir, job.comm, every=args.every,
        model=model, optimizer=optimizer, schedule=schedule, loader=loader,
    )  # fmt: skip
    if args.resume:
        checkpoint.resume()

    samples, seconds, correct = -loader.samples_consumed, 0.0, None
    # From the epoch of the last step on: it may have no step left, and still want its evaluation.
    for epoch in range(max(checkpoint.steps - 1, 0) // loader.steps, args.epochs):
        last = min((epoch + 1) * loader.steps, total)
        if checkpoint.steps < last:
            start = time.perf_counter()
            progress = job.progress(loader, f"epoch {epoch + 1}")
            for x, y in progress:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                if model.synchronized:
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    progress.set_postfix(loss=model.loss)
                    checkpoint.step()
                    if checkpoint.steps == total:
                        break
            seconds += time.perf_counter() - start
            samples += loader.samples_consumed
        correct = job.retry(accuracy, model, test_loader, job.comm)
        job.print(f"epoch {epoch + 1}: test accuracy {correct:.2%}, loss {model.loss:.4f}")
        if checkpoint.steps == total:
            break
    checkpoint.close()

    state = model.state_dict()
    if args.save and job.rank == 0:
        save_file({name: np.ascontiguousarray(value.numpy()) for name, value in state.items()}, args.save)
    result = {
        "accuracy": round(correct, 4),
        "loss": model.loss,
        "samples_per_second": round(samples / seconds, 1) if seconds else None,
        "ranks": job.size,
        "microbatches": args.microbatches,
        "threads": job.threads,
        "data": f"{len(train)} images",
        "sha256": fingerprint(state),
    }
    job.print(json.dumps(result))


if __name__ == "__main__":
    main()
