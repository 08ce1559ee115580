"""Fine-tune MobileNetV2, with ImageNet's weights, on some thousand images of Fashion-MNIST: last layer first, then all.

python -m dtrain.hub.fetch mobilenet_v2        # the weights, once
python examples/finetune.py                    # one process
mpirun -n 4 python examples/finetune.py        # four ranks: the same bits
python examples/finetune.py --from-scratch     # the same network without those weights, all of it from the beginning

With 3,000 images and 1,000 to test, it is right about 89.2% after one epoch of the last layer (58.7%) and three of all;
the same network from scratch about 76.0% after four epochs. Two ranks on two cores need 90 seconds.
"""

import argparse
import hashlib
import json
import time

import numpy as np

import dtrain
import launch
from dtrain import data, metrics, models, nn, optim
from dtrain.nn import functional as F


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with the IDX files (default: wherever they are found)")
    parser.add_argument("--images", type=int, default=3000, help="to train with; the first ones")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--frozen-epochs", type=int, default=1, help="in which the last layer alone is trained")
    parser.add_argument("--epochs", type=int, default=3, help="in which all layers are")
    parser.add_argument("--batch-size", type=int, default=64, help="samples of a step, over all ranks")
    parser.add_argument(
        "--microbatches", type=int, default=4, help="parts of a step's batch; at least as many as ranks"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from-scratch", action="store_true", help="without ImageNet's weights, nothing frozen")
    parser.add_argument("--threads", type=int, help="threads per rank (default: the host's cores // microbatches)")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def as_imagenet(x, context):
    """Grey images as ImageNet's models want them.  (N, 1, 28, 28) uint8 -> (N, 3, 56, 56) float32"""
    x = x.repeat(2, axis=2).repeat(2, axis=3).astype(np.float32) / 255
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


def images(folder, train, n):
    """The first n images of Fashion-MNIST."""
    all_of_them = data.FashionMNIST(folder, train=train)
    return data.ArrayDataset(all_of_them.data[:n, None], all_of_them.targets[:n], transform=as_imagenet)


@dtrain.no_grad()
def accuracy(net, loader, comm):
    """The share of correct predictions over all samples of all ranks."""
    net.eval()
    correct = metrics.Accuracy(comm=comm)
    for x, y in loader:
        correct.update(net(x), y)
    return correct.compute().item()


def train(job, net, loader, epochs, lr, parts, name):
    """Train the parameters of net that want gradients; the loss of the last step."""
    model = dtrain.DistributedDataParallel(net, **parts)
    optimizer = optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * loader.steps)
    model.train()
    for epoch in range(epochs):
        progress = job.progress(loader, f"{name}, epoch {epoch + 1}")
        for x, y in progress:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if model.synchronized:
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                progress.set_postfix(loss=model.loss)
    return model.loss


def main():
    args = arguments()
    job = launch.Job(seed=args.seed, microbatches=args.microbatches, threads=args.threads, device=args.device)
    parts = {"comm": job.comm, "microbatches": args.microbatches}
    loader = data.DataLoader(images(args.data, True, args.images), args.batch_size, shuffle=True, **parts)
    test_loader = data.DataLoader(images(args.data, False, args.test_images), 200, **parts)

    start = time.perf_counter()
    net = models.mobilenet_v2(weights=None if args.from_scratch else "IMAGENET1K_V1", comm=job.comm)
    net.classifier[1] = nn.Linear(net.last_channel, 10)  # in the place of ImageNet's 1000 classes
    net.to(job.device)
    if not args.from_scratch and args.frozen_epochs:
        net.features.requires_grad_(False)
        train(job, net, loader, args.frozen_epochs, args.lr, parts, "last layer")
        net.features.requires_grad_(True)
        job.print(f"last layer alone: test accuracy {accuracy(net, test_loader, job.comm):.1%}")
    epochs = args.epochs + (args.frozen_epochs if args.from_scratch else 0)  # as many in all
    loss = train(job, net, loader, epochs, args.lr, parts, "all layers")
    correct = accuracy(net, test_loader, job.comm)

    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in net.state_dict().values()))
    result = {
        "accuracy": round(correct, 4),
        "loss": loss,
        "seconds": round(time.perf_counter() - start, 1),
        "ranks": job.size,
        "sha256": digest.hexdigest(),
    }
    job.print(json.dumps(result))


if __name__ == "__main__":
    main()
