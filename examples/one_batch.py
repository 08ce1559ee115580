"""One batch on its way through the layers of dtrain, printed step by step; CI runs this tour.

python examples/one_batch.py
mpirun -n 2 python examples/one_batch.py     # the same, seen from two ranks
"""

import numpy as np

import dtrain
import launch
from dtrain import data, nn, optim
from dtrain.autograd import op
from dtrain.data.sampler import cut, epoch_order, microbatch_block
from dtrain.nn import functional as F
from dtrain.parallel.tree import Block, naive_sum

job = launch.Job(seed=1, microbatches=4)
tell = job.print

tell("1. data: a step's samples are a function of seed, epoch and step; they are cut into 4 microbatches")
x, y = np.arange(20, dtype=np.float32).reshape(10, 2) / 10, np.arange(10) % 3
order = epoch_order(seed=1, epoch=0, n=10, shuffle=True)
tell(f"   order of the samples {order.tolist()}, cut at {cut(10, 4)}")
own = microbatch_block(job.rank, job.size, 4)
tell(f"   rank 0 of {job.size} owns the microbatches {list(own)}")
loader = data.DataLoader(data.ArrayDataset(x, y), batch_size=10, shuffle=True, comm=job.comm)
batches = list(loader)
assert [images.microbatch for images, _ in batches] == [(j, 4) for j in own]
assert (batches[0][0].numpy() == x[order[slice(*cut(10, 4)[own[0]])]]).all()

tell("2. ops and autograd: an op returns its value and its pullbacks; backward walks the nodes they leave")


@op
def cube(x):
    """x^3, elementwise."""
    return x**3, lambda g: 3 * x**2 * g


z = dtrain.tensor([1.0, 2.0], requires_grad=True)
cube(z).sum().backward()
tell(f"   the gradient of sum(z^3) at {z.tolist()} is {z.grad.tolist()}")
assert z.grad.tolist() == [3.0, 12.0]
dtrain.autograd.check_grads(cube, z)

tell("3. nn: modules hold parameters; calling a module is calling its forward, which calls ops")
net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
for name, p in net.named_parameters():
    tell(f"   {name:9} {p.shape}")

tell("4. parallel: gradients of microbatches are added along one tree, so ranks cannot change the sum")
for size in (1, 2, 3, 4):
    blocks = [Block(microbatch_block(r, size, 4)).nodes for r in range(size)]
    tell(f"   {size} ranks hold the subtrees (level, number) {blocks}")
model = dtrain.DistributedDataParallel(net, job.comm)
optimizer = optim.SGD(model.parameters(), lr=0.5)
before = [p.numpy().copy() for p in (p.detach() for p in net.parameters())]
for images, labels in batches:
    loss = F.cross_entropy(model(images), labels)
    loss.backward()  # each gradient goes, as it becomes final, into its slice of the flat gradient
    tell(f"   microbatch {images.microbatch[0]}: {len(labels)} samples, loss {loss.item():.4f}", end="")
    tell(f", synchronized: {model.synchronized}")
assert model.synchronized
tell(f"   the mean loss over the global batch is {model.loss:.4f} on every rank")

tell("5. the same by hand: each microbatch's gradient of its summed loss, added along the tree, over 10 samples")
leaves = []
for lo, hi in cut(10, 4):
    twin = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    twin.load_state_dict(net.state_dict())
    loss = F.cross_entropy(twin(dtrain.tensor(x[order[lo:hi]])), dtrain.tensor(y[order[lo:hi]])) * float(hi - lo)
    loss.backward()
    leaves.append(twin[2].weight.grad.numpy())
np.testing.assert_allclose(naive_sum(leaves) / 10, net[2].weight.grad.numpy(), rtol=1e-5)

tell("6. optim: one update of the flat buffers; every rank makes the same step with the same bits")
optimizer.step()
optimizer.zero_grad()
after = [p.detach().numpy() for p in net.parameters()]
tell(f"   the largest change of a weight is {max(abs(a - b).max() for a, b in zip(after, before, strict=True)):.4f}")
everyone = job.comm.all_gather(after[0])
assert all(np.array_equal(everyone[0], theirs) for theirs in everyone)
tell("done")
