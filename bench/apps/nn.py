"""nn.py [WIDTH [SAMPLES [ROUNDS]]]: trains a small neural network with PyTorch on random data, by two threads.

Prints a digest of its weights. Exits 127 where PyTorch (Debian: python3-torch) is not installed.
"""

import hashlib
import sys

try:
    import torch
except ImportError as error:
    print(f"nn: PyTorch is not installed (python3-torch): {error}", file=sys.stderr)
    sys.exit(127)

width, samples, rounds = [int(word) for word in sys.argv[1:]] + [1024, 16384, 2][len(sys.argv) - 1:]
batch = 512
torch.set_num_threads(2)
torch.manual_seed(1)
torch.use_deterministic_algorithms(True)
data = torch.randn(samples, width)
labels = torch.randint(0, 10, (samples,))
network = torch.nn.Sequential(
    torch.nn.Linear(width, 2 * width), torch.nn.ReLU(), torch.nn.Linear(2 * width, width), torch.nn.ReLU(),
    torch.nn.Linear(width, 10))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(rounds):
    total = 0.0
    for at in range(0, samples, batch):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(data[at:at + batch]), labels[at:at + batch])
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"nn: loss {total:.9f}")
digest = hashlib.sha256()
for parameter in network.parameters():
    digest.update(parameter.detach().numpy().tobytes())
print(f"nn: weights {digest.hexdigest()}")
