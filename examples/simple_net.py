"""The first network of every tutorial, as one writes it for PyTorch; only the import lines differ.

python examples/simple_net.py
"""

import dtrain
import dtrain.nn as nn
import dtrain.optim as optim


class SimpleNet(nn.Module):
    def __init__(self, input_size, hidden_size, output_size):
        super(SimpleNet, self).__init__()  # noqa: UP008
        self.linear = nn.Linear(input_size, hidden_size)
        self.activation = nn.ReLU()
        self.output = nn.Linear(hidden_size, output_size)

    def forward(self, x):
        x = self.linear(x)
        x = self.activation(x)
        x = self.output(x)
        return x


dtrain.manual_seed(0)
input_size, hidden_size, output_size = 10, 32, 3

# Points on which a hidden rule puts one of three labels.
inputs = dtrain.randn(512, input_size)
labels = (inputs @ dtrain.randn(input_size, output_size)).argmax(dim=1)

model = SimpleNet(input_size, hidden_size, output_size)
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.01)

for epoch in range(20):
    for i in range(0, len(inputs), 16):
        optimizer.zero_grad()
        outputs = model(inputs[i : i + 16])
        loss = criterion(outputs, labels[i : i + 16])
        loss.backward()
        optimizer.step()
    if (epoch + 1) % 5 == 0:
        with dtrain.no_grad():
            accuracy = (model(inputs).argmax(dim=1) == labels).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, accuracy {accuracy:.1%}")
